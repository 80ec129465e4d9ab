"""import-torch and export: weights from elsewhere, and programs for elsewhere."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax import certificates, runs, torch_import
from gloro_jax import export as exporting
from gloro_jax.cli.opened import say_if_unfinished
from gloro_jax.cli.words import parse
from gloro_jax.evaluation.tables import norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Make a run folder of a state dict of the LiResNet authors' PyTorch code (ICLR 2024).

    The network's shape is read off the tensors; its activation is taken to be MinMax and its head
    to be normalised, that code's defaults, which the file does not say. Norms are computed anew, as
    upper bounds. A .pth file needs torch (pip install 'gloro-jax[torch]') and is read as tensors
    only: a pickle in it executes nothing.

    Attributes:
        file: .pth, .pt, .safetensors or .npz.
        out: a new run folder, for certify, report, export and train --init-from.
        epsilon: the l2 radius that the run certifies at unless told otherwise, 0.3 or 36/255.
        data: the prepared set or .npz file that it is certified on unless told otherwise.
        image_size: side of the images in pixels, where the file does not hold it.
    """

    file: Annotated[Path, tyro.conf.Positional]
    out: Path
    epsilon: str = "36/255"
    data: str | None = None
    image_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a run as a StableHLO program that certifies without this library.

    The new folder holds the program, which takes images and epsilon and returns class, certified
    radius, refusal and slack; the weights; a manifest with digests; and a model card.

    Attributes:
        run: the run folder.
        out: a new folder.
        epsilon: the l2 radius that the card speaks of; the run's own unless given.
        checkpoint: "best" by validation, or "last".
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path
    epsilon: str | None = None
    checkpoint: Literal["best", "last"] = "best"


def import_torch(words: list[str]) -> int:
    """`gloro-jax import-torch`."""
    options: ImportOptions = parse(ImportOptions, "import-torch", words, places=("out",))
    frozen = torch_import.import_torch(
        options.file,
        out=options.out,
        epsilon=float(certificates.as_fraction(options.epsilon)),
        data=options.data,
        image_size=options.image_size,
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print(norms(frozen))
    out, hint = escape(str(options.out)), "" if options.data else " --data NAME-OR-FILE.npz"
    console.print(f"Imported into {out}. Next: gloro-jax certify {out}{hint}")
    return 0


def export(words: list[str]) -> int:
    """`gloro-jax export`."""
    options: ExportOptions = parse(ExportOptions, "export", words)
    config = runs.read_config(options.run, sections=("data", "training"))
    frozen = runs.load(options.run, checkpoint=options.checkpoint)
    say_if_unfinished(options.run)
    radius = config["training"]["epsilon"] if options.epsilon is None else options.epsilon
    epsilon = float(certificates.as_fraction(radius))
    folder = exporting.write(
        frozen, out=options.out, epsilon=epsilon, about=_about(options, config)
    )
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    Console(highlight=False, soft_wrap=True).print(
        f"Exported to {escape(str(folder))}, {size:.1f} MiB, digest {frozen.digest[:16]}...; "
        "README.md there says how to run it and what its certificates rest on."
    )
    return 0


def _about(options: ExportOptions, config: dict[str, Any]) -> dict[str, Any]:
    """What the run folder says about itself, for the card."""
    model, data = config.get("model") or {}, config["data"]
    about = {"Run": options.run.name, "Network": model.get("family", "GloroCNN")}
    about["Checkpoint"] = options.checkpoint
    if words := runs.unfinished(options.run):
        about["Training"] = words
    if data.get("name"):
        about["Trained on"] = data["name"]
    if "imported" in config:
        about[exporting.IMPORTED] = "{file} ({layout})".format(**config["imported"])
    if names := data.get("class_names"):
        about["Class names"] = ", ".join(map(str, names))
    validation = runs.read_summary(options.run).get("validation")
    if validation and options.checkpoint == "best":
        about["Validation"] = (
            f"clean {validation['clean']:.4f}, VRA {validation['vra']:.4f} at "
            f"{config['training']['epsilon']:.6g}, guaranteed bounds"
        )
    return about
