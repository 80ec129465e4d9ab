"""certify: a run's network on its own data or the user's."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax import certificates
from gloro_jax.cli.bars import Bar
from gloro_jax.cli.opened import Opened, Selection, certified, open_run, with_guarantee
from gloro_jax.cli.words import check_new_file, parse
from gloro_jax.evaluation.tables import norms, summary
from gloro_jax.plain import in_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class CertifyOptions(Selection):
    """Certify images with the guaranteed bounds stored in a run.

    With --out, also write a certificate file: a theorem about the stored weights, float64 rounding
    counted, that `gloro-jax check`, or check_certificate.py without this library, proves again.

    Attributes:
        run: the run folder.
        guarantee: what is certified: strict; top-5, the five highest classes as a set, or fewer;
            [0,2][1][3], sets of classes that may be taken for one another, or a file that holds
            them; cifar100-superclasses (docs/guarantees.md). The run's own unless given.
        save: also write labels, predictions, radii and decisions to this .npz file.
        out: also write a certificate file (docs/certificates.md); it must not exist.
        inputs: whether the images travel in it; --no-inputs leaves their digest.
    """

    run: Annotated[Path, tyro.conf.Positional]
    guarantee: str | None = None
    save: Path | None = None
    out: Path | None = None
    inputs: bool = True


def certify(words: list[str]) -> int:
    """`gloro-jax certify`."""
    options: CertifyOptions = parse(CertifyOptions, "certify", words)
    check_new_file(options.out, "--out")
    check_new_file(options.save, "--save", ends=".npz")
    opened = with_guarantee(open_run(options.run, options), options.run, options.guarantee)
    report = certified(opened)
    console = Console(highlight=False)
    console.print(summary(report, title=opened.title))
    console.print(norms(opened.frozen))
    if not report.is_certified.any():
        console.print(
            f"No image is certified at epsilon {in_words(opened.epsilon)}; the largest certified "
            f"radius is {report.radii.max():.4g}. Images lie in [0, 1]: 36/255 is not 36.",
            soft_wrap=True,
        )
    if options.save is not None:
        fields = ("labels", "predictions", "radii", "is_certified", "has_label", "k")
        arrays = {name: getattr(report, name) for name in fields}
        np.savez(options.save, epsilon=opened.epsilon, **arrays)  # type: ignore[arg-type]
        console.print(f"Every example's certificate: {escape(str(options.save))}")
    if options.out is not None:
        written = _write_file(opened, options.out, options)
        console.print(
            f"Certificate file: {escape(str(written.path))}. It proves K <= {written.lipschitz:.6g}"
            f" and VRA {written.vra:.4f}; with the K of certify, {opened.frozen.lipschitz:.6g}, VRA"
            f" is {report.vra:.4f}. Check it: gloro-jax check {escape(str(written.path))}",
            soft_wrap=True,
        )
    return 0


def _write_file(opened: Opened, out: Path, options: CertifyOptions) -> certificates.Written:
    layers, points = len(opened.frozen.layer_norms()), len(opened.split)
    with Bar() as bar:
        tasks = {
            "layer": bar.add_task("proving norms", total=layers),
            "point": bar.add_task("proving points", total=points),
        }
        return certificates.write(
            opened.frozen,
            np.asarray(opened.split.images),
            opened.split.labels,
            epsilon=opened.epsilon if options.epsilon is None else options.epsilon,
            guarantee=opened.guarantee,
            out=out,
            has_inputs=options.inputs,
            source={
                "run": options.run.name,
                "checkpoint": options.checkpoint,
                "data": opened.source,
                "split": options.split,
            },
            on_progress=lambda what, done: bar.advance(tasks[what], done),
        )
