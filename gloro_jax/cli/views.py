"""views: average the features of a trained run over views of each image."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax import runs
from gloro_jax.cli.opened import Selection, certified, open_run, with_guarantee
from gloro_jax.cli.words import parse
from gloro_jax.evaluation.tables import summary
from gloro_jax.freezing import freeze
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.models import as_plain, from_plain_model
from gloro_jax.paths import place
from gloro_jax.version import __version__


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsOptions:
    """Average a trained run over views of each image, as a new run; every bound stays as it is.

    The mean of the features over views moves no faster with the image than the features do. VRA
    rises where training has seen such moves (a mirror image after --augmentation.is-flipping, a
    shift of a pixel after --augmentation.crop), and falls where it has not. It costs a forward pass
    a view. Both networks are certified on the validation split, the one to choose views by.

    Attributes:
        run: the run folder, trained without views or with others.
        views: identity, mirror, shift:DY,DX (zeros come in), roll:DY,DX (around the border), or
            several joined by +.
        out: a new run folder.
        data: the run's own data, unless this names a prepared set or an .npz file.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
    """

    run: Annotated[Path, tyro.conf.Positional]
    views: tuple[str, ...]
    out: Path
    data: str | None = None
    data_dir: Path | None = None


def views(words: list[str]) -> int:
    """`gloro-jax views`."""
    options: ViewsOptions = parse(ViewsOptions, "views", words, places=("out",))
    runs.check_new(options.out)
    config = runs.read_config(options.run, sections=("data", "training"))
    if config.get("model") is None:
        raise ValueError(
            f"{options.run} was trained with a network of your own. Give it views in Python: "
            "gj.freeze(GloroNet(..., views=...), gj.runs.load_variables(run), input_shape=...)."
        )
    if told := runs.unfinished(options.run):
        raise ValueError(f"{told} Views are for a run that has ended.")
    if not options.views:
        raise ValueError("--views names at least one view: --views identity mirror, for example.")
    model = dataclasses.replace(from_plain_model(config["model"]), views=options.views)
    net = model.build()
    console = Console(highlight=False, soft_wrap=True)
    selection = Selection(data=options.data, data_dir=options.data_dir, split="validation")
    before = with_guarantee(open_run(options.run, selection), options.run, None)
    shape, frozen = before.frozen.input_shape, {}
    for checkpoint in _present(options.run):
        learnt = runs.load_variables(options.run, checkpoint=checkpoint)
        frozen[checkpoint] = learnt, freeze(net, learnt, input_shape=shape)
    after = before._replace(frozen=frozen["best"][1], title=f"{before.title}, mean over views")
    report = None
    for opened in (before, after):
        report = certified(opened)
        console.print(summary(report, title=opened.title))
    _write(options, config, as_plain(model), frozen, validation=report)
    out = escape(str(options.out))
    console.print(f"Written to {out}. Next: gloro-jax certify {out}")
    return 0


def _present(run: Path) -> list[Any]:
    """The checkpoints of which a run has what training moved; "best" must be among them."""
    last = place(run) / "weights" / "last.variables.safetensors"
    return ["best", *(["last"] if last.is_file() else [])]


def _write(
    options: ViewsOptions,
    config: dict[str, Any],
    model: dict[str, Any],
    frozen: dict[Any, tuple[Any, FrozenNet]],
    *,
    validation: Any,
) -> None:
    folder = runs.create(options.out)
    for checkpoint, (learnt, net) in frozen.items():
        runs.save_variables(folder, checkpoint, learnt)
        runs.save_frozen(folder, checkpoint, net)
    if (log := place(options.run) / "metrics.jsonl").is_file():
        runs.write_atomically(folder / log.name, log.read_bytes())
    told = {"clean": validation.clean_accuracy, "vra": validation.vra}
    runs.write_summary(folder, {**runs.read_summary(options.run), "validation": told})
    about = {"run": options.run.name, "views": config["model"].get("views", [])}
    runs.write_config(
        folder, {**config, "gloro_jax": __version__, "model": model, "averaged": about}
    )
