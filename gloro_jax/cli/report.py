"""report: pages about runs."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from gloro_jax import runs
from gloro_jax.cli.evaluate import data_config
from gloro_jax.cli.words import parse
from gloro_jax.data.sources import open_split
from gloro_jax.evaluation.findings import Findings, look_at
from gloro_jax.evaluation.report import render


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Write one self-contained HTML page about a run, or one that compares several.

    Exits with status 1 if an attack succeeded inside a certified radius, or a search found a slope
    above a Lipschitz bound: the page then says so, too.

    Attributes:
        runs: run folders.
        out: the page; RUN/report.html for one run, comparison.html here for several, unless given.
        data: the runs' own data, unless this names a prepared set or an .npz file.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
        epsilon: the l2 radius, images in [0, 1]; each run's own unless given.
        split: which images; "test" is for reporting.
        checkpoint: "best" by validation, or "last".
        examples: how many images to attack, the first ones.
        steps: gradient steps of the attack per target class.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    data: str | None = None
    data_dir: Path | None = None
    epsilon: float | None = None
    split: Literal["test", "validation", "train"] = "test"
    checkpoint: Literal["best", "last"] = "best"
    examples: int = 200
    steps: int = 50


def report(words: list[str]) -> int:
    """`gloro-jax report`."""
    options: ReportOptions = parse(ReportOptions, "report", words)
    if not options.runs:
        raise ValueError("report takes one or more run folders: gloro-jax report RUN...")
    if options.examples < 1:
        raise ValueError(f"--examples is at least 1, got {options.examples}.")
    default = options.runs[0] / "report.html" if len(options.runs) == 1 else Path("comparison.html")
    out = options.out or default
    with Progress(console=Console(stderr=True), transient=True) as bar:
        findings = [_look_at(run, options, bar) for run in options.runs]
    partial = out.with_name(out.name + ".partial")
    partial.write_text(render(findings))
    os.replace(partial, out)
    console = Console(highlight=False, soft_wrap=True)
    for one in findings:
        console.print(
            f"{escape(one.name)}: VRA {one.report.vra:.4f} at {one.report.epsilon:g}, clean "
            f"{one.report.clean_accuracy:.4f}, {one.refuted} refuted of {len(one.attacked)} "
            f"attacked, tightness {one.tightness.ratio:.3f}"
        )
    console.print(f"Page: {escape(str(out))}")
    return _verdict(findings)


def _look_at(run: Path, options: ReportOptions, bar: Progress) -> Findings:
    config = runs.read_config(run)
    split = open_split(data_config(run, config, options.data, options.data_dir), options.split)
    epsilon = config["training"]["epsilon"] if options.epsilon is None else options.epsilon
    count = min(options.examples, len(split))
    task = bar.add_task(escape(str(run)), total=count)
    return look_at(
        run,
        split,
        epsilon=float(epsilon),
        checkpoint=options.checkpoint,
        examples=count,
        steps=options.steps,
        on_progress=lambda images: bar.advance(task, images),
    )


def _verdict(findings: list[Findings]) -> int:
    alarms = [one for one in findings if one.is_alarm]
    for one in alarms:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]ALARM, {escape(one.name)}:[/] {one.refuted} certificates refuted; slope "
            f"{one.tightness.lower:g} found against a bound of {one.tightness.upper:g}. This is a "
            "bug in gloro-jax, or the run folder was forged (SECURITY.md)."
        )
    return 1 if alarms else 0
