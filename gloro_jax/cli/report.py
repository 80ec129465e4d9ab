"""report: pages about runs."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax.cli.bars import Bar
from gloro_jax.cli.opened import Selection, open_run
from gloro_jax.cli.words import check_folder_of, parse
from gloro_jax.evaluation.findings import Findings, look_at
from gloro_jax.evaluation.page import write_page
from gloro_jax.paths import is_in_bucket
from gloro_jax.plain import in_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Selection):
    """Write one self-contained HTML page about a run, or one that compares several.

    Exits with status 1 if an attack succeeded inside a certified radius, or a search found a slope
    above a Lipschitz bound: the page then says so, too.

    Attributes:
        runs: run folders.
        out: the page; RUN/report.html for one run, comparison.html here for several, unless given.
        examples: how many images to attack, drawn at random with a fixed seed.
        steps: gradient steps of the attack per target class.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    examples: int = 200
    steps: int = 50


def report(words: list[str]) -> int:
    """`gloro-jax report`."""
    options: ReportOptions = parse(ReportOptions, "report", words, places=("out",))
    if not options.runs:
        raise ValueError("report takes one or more run folders: gloro-jax report RUN...")
    if options.examples < 1:
        raise ValueError(f"--examples is at least 1, got {options.examples}.")
    default = options.runs[0] / "report.html" if len(options.runs) == 1 else Path("comparison.html")
    out = options.out or default
    if options.out is not None and not is_in_bucket(out):
        check_folder_of(out, "--out")
    with Bar() as bar:
        findings = [_look_at(run, options, bar) for run in options.runs]
    names = [str(run) for run in options.runs]
    if len({one.name for one in findings}) < len(findings):  # runs of one name in different places
        findings = [dataclasses.replace(f, name=n) for f, n in zip(findings, names, strict=True)]
    write_page(findings, out)
    console = Console(highlight=False, soft_wrap=True)
    for one in findings:
        console.print(
            f"{escape(one.name)}: VRA {one.report.vra:.4f} at {in_words(one.report.epsilon)}, "
            f"clean {one.report.clean_accuracy:.4f}, {one.refuted} refuted of {len(one.attacked)} "
            f"attacked, tightness {one.tightness.ratio:.3f}"
        )
    console.print(f"Page: {escape(str(out))}")
    return _verdict(findings)


def _look_at(run: Path, options: ReportOptions, bar: Bar) -> Findings:
    opened = open_run(run, options)
    count = min(options.examples, len(opened.split))
    task = bar.add_task(escape(str(run)), total=count)
    return look_at(
        run,
        opened.frozen,
        opened.split,
        source=opened.source,
        epsilon=opened.epsilon,
        examples=count,
        steps=options.steps,
        on_progress=lambda images: bar.advance(task, images),
    )


def _verdict(findings: list[Findings]) -> int:
    alarms = [one for one in findings if one.is_alarm]
    for one in alarms:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]ALARM, {escape(one.name)}:[/] {one.refuted} certificates refuted; slope "
            f"{one.tightness.lower:g} found against a bound of {one.tightness.upper:g}. "
            f"{escape(one.norm_alarm)} This is a bug in gloro-jax, or the run folder was forged "
            "(SECURITY.md)."
        )
    return 1 if alarms else 0
