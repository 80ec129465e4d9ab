"""The model card: what is exported, in words, and on what its certificates rest."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from gloro_jax.frozen_net import FrozenNet

# The title of the fact that says so; with it, the card says what an imported file leaves open.
IMPORTED = "Imported from"


def model_card(frozen: FrozenNet, manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        frozen: the network.
        manifest: of the export.
        about: further facts by title.
    """
    import jinja2

    shape = ", ".join(map(str, frozen.input_shape))
    facts = {
        **about,  # first, so that nothing in it replaces what is known
        "Input": f"images ({shape}), float32 in [0, 1], channels last",
        "Classes": manifest["num_classes"],
        "Lipschitz bound K of the body": f"{frozen.lipschitz:.6g}",
        "Digest of weights and bounds": f"`{frozen.digest}`",
        "Made with": ", ".join(f"{k} {v}" for k, v in manifest["made_with"].items()),
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    source = (
        resources.files("gloro_jax.export").joinpath("card.md.jinja").read_text(encoding="utf-8")
    )
    return environment.from_string(source).render(
        facts=facts,
        shape=shape,
        epsilon=float(manifest["epsilon"]),
        norms=frozen.layer_norms(),
        imported=IMPORTED in about,
    )


def _cell(content: Any) -> str:
    """One line of text that cannot leave its cell of the table."""
    return " ".join(str(content).split()).replace("|", "&#124;").replace("<", "&lt;")
