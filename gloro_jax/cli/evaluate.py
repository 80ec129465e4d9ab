"""certify and attack: a run's network on its own data or the user's."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax import certificates, runs
from gloro_jax.alarms import norm_alarm
from gloro_jax.cli.bars import Bar
from gloro_jax.cli.words import parse
from gloro_jax.data.dataset import DataConfig, Split
from gloro_jax.data.sources import open_data, open_test_split
from gloro_jax.evaluation import AttackReport, Report, verified_robust_accuracy
from gloro_jax.evaluation import attack as search
from gloro_jax.evaluation.findings import sample
from gloro_jax.evaluation.tables import add_attack_rows, norms, summary
from gloro_jax.evaluation.vra import check_reach
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.plain import from_plain, in_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images, which weights and which radius: options of several commands.

    Attributes:
        data: the run's own data, unless this names a prepared set or an .npz file.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
        epsilon: the l2 radius, images in [0, 1], 0.3 or 36/255; the run's own unless given.
        split: which images; "test" is for reporting, "validation" for choosing.
        checkpoint: "best" by validation, or "last".
    """

    data: str | None = None
    data_dir: Path | None = None
    epsilon: str | None = None
    split: Literal["test", "validation", "train"] = "test"
    checkpoint: Literal["best", "last"] = "best"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CertifyOptions(Selection):
    """Certify images with the guaranteed bounds stored in a run.

    With --out, also write a certificate file: a theorem about the stored weights, float64 rounding
    counted, that `gloro-jax check`, or check_certificate.py without this library, proves again.

    Attributes:
        run: the run folder.
        save: also write labels, predictions, radii and decisions to this .npz file.
        out: also write a certificate file (docs/certificates.md); it must not exist.
        inputs: whether the images travel in it; --no-inputs leaves their digest.
    """

    run: Annotated[Path, tyro.conf.Positional]
    save: Path | None = None
    out: Path | None = None
    inputs: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions(Selection):
    """Attack a run: inside each image's certified radius, and at epsilon.

    An attack that succeeds inside a certified radius refutes the certificate; the command then
    exits with status 1.

    Attributes:
        run: the run folder.
        steps: gradient steps per restart and target class.
        restarts: starts per target class; the first is at the image.
        targets: classes to aim at, those that the certificate holds nearest; 9 are all of ten.
        examples: attack only this many images, drawn at random with a fixed seed; all unless given.
    """

    run: Annotated[Path, tyro.conf.Positional]
    steps: int = 50
    restarts: int = 2
    targets: int = 9
    examples: int | None = None


class Opened(NamedTuple):
    """A run, and the images to look at with it.

    Attributes:
        frozen: the network.
        split: the images.
        epsilon: the l2 radius.
        source: which images these are, in words.
        title: what tables are called.
    """

    frozen: FrozenNet
    split: Split
    epsilon: float
    source: str
    title: str


def certify(words: list[str]) -> int:
    """`gloro-jax certify`."""
    options: CertifyOptions = parse(CertifyOptions, "certify", words)
    if options.out is not None and options.out.exists():
        raise FileExistsError(f"--out takes a new file, and {options.out} exists.")
    if options.save is not None and (options.save.suffix != ".npz" or options.save.exists()):
        raise ValueError(f"--save takes a new file that ends in .npz, got {options.save}.")
    opened = open_run(options.run, options)
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
        fields = ("labels", "predictions", "radii", "is_certified")
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


def attack(words: list[str]) -> int:
    """`gloro-jax attack`."""
    options: AttackOptions = parse(AttackOptions, "attack", words)
    if options.examples is not None and options.examples < 1:
        raise ValueError(f"--examples is at least 1, got {options.examples}.")
    opened = open_run(options.run, options)
    opened = opened._replace(split=sample(opened.split, options.examples))
    report = certified(opened)
    inside, at_epsilon = attack_twice(
        opened,
        report,
        steps=options.steps,
        restarts=options.restarts,
        targets=options.targets,
    )
    table = summary(report, title=opened.title)
    add_attack_rows(table, report, inside, at_epsilon)
    Console(highlight=False).print(table)
    return verdict(opened.frozen, inside)


def open_run(run: Path, selection: Selection) -> Opened:
    """The network and the images that the options name.

    Raises:
        ValueError: if the images are not of the classes that the run knows, or are said to be the
            run's training or validation images and are not.
    """
    config = runs.read_config(run, sections=("data", "training"))
    frozen = runs.load(run, checkpoint=selection.checkpoint)
    say_if_unfinished(run)
    data = data_config(run, config, data=selection.data, directory=selection.data_dir)
    radius = config["training"]["epsilon"] if selection.epsilon is None else selection.epsilon
    if selection.split == "test":
        split, names = open_test_split(data)
    else:
        opened = open_data(data)
        split, names = getattr(opened, selection.split), opened.class_names
        if config["data"].get("fingerprint") not in (None, opened.fingerprint):
            raise ValueError(
                f"{data.source} does not hold the images that {run} was trained on, so its "
                f"{selection.split} split is not the run's. Look at its test split."
            )
    known = tuple(config["data"].get("class_names") or ())
    if names and known and names != known:
        raise ValueError(
            f"The classes of {data.source} are {names}, those of {run} {known}: labels would mean "
            "different things. Number the classes alike."
        )
    source = f"{Path(data.source).name}, {selection.split} split"
    epsilon = float(certificates.as_fraction(radius))
    check_reach(epsilon, frozen.input_shape)
    return Opened(frozen, split, epsilon, source, f"{run}, {source}")


def say_if_unfinished(run: Path) -> None:
    """One line on standard error about a run whose training has not ended."""
    if words := runs.unfinished(run):
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold yellow]{escape(words)}[/]"
        )


def data_config(
    run: Path, config: dict[str, Any], *, data: str | None, directory: Path | None
) -> DataConfig:
    """What to certify on: the user's choice, or what the run was trained on."""
    stored = {k: v for k, v in config["data"].items() if k in DataConfig.__dataclass_fields__}
    if data is not None:
        stored["source"] = data
    if stored.get("source") is None:
        raise ValueError(
            f"{run} names no data that could be opened again: it was imported, or trained on "
            "arrays of your own. Name a prepared set or a file with --data FILE.npz, or go on from "
            "Python: gj.load(run) with gj.evaluation."
        )
    if stored.get("image_size") is None:  # photographs on disk: as large as the network sees them
        stored["image_size"] = next(iter(config["data"].get("input_shape") or ()), None)
    if directory is not None:
        stored["directory"] = str(directory)
    return from_plain(DataConfig, stored, where="data")


def certified(opened: Opened) -> Report:
    """The report on the opened images."""
    split = opened.split
    return verified_robust_accuracy(
        opened.frozen, [(split.images, split.labels)], epsilon=opened.epsilon
    )


def attack_twice(
    opened: Opened, report: Report, *, steps: int, restarts: int, targets: int = 9
) -> tuple[AttackReport, AttackReport]:
    """The attacks inside certified radii and at epsilon, with a progress bar."""
    images = np.asarray(opened.split.images)
    with Bar() as bar:
        task = bar.add_task("attacking", total=2 * len(images))

        def run(radii: np.ndarray | float) -> AttackReport:
            return search(
                opened.frozen,
                images,
                radii=radii,
                steps=steps,
                restarts=restarts,
                targets=targets,
                on_progress=lambda done: bar.advance(task, done),
            )

        return run(report.radii), run(report.epsilon)


def verdict(frozen: FrozenNet, inside: AttackReport) -> int:
    """The exit status: 1 if a certificate, or a stored norm, was refuted."""
    console, alarm = Console(stderr=True, highlight=False, soft_wrap=True), norm_alarm(frozen)
    if alarm:
        console.print(f"[bold red]{escape(alarm)}[/]")
    if inside.successes:
        console.print(
            f"[bold red]{inside.successes} certificates are refuted.[/] This is a bug in "
            "gloro-jax, or the run folder was forged. Please report it with the run folder "
            "(SECURITY.md)."
        )
    return 1 if alarm or inside.successes else 0
