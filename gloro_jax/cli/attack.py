"""attack: searches for a change of prediction, or of a certified set, around a run's images."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax.alarms import norm_alarm
from gloro_jax.cli.bars import Bar
from gloro_jax.cli.opened import Opened, Selection, certified, open_run, with_guarantee
from gloro_jax.cli.words import parse
from gloro_jax.evaluation import AttackReport, Report
from gloro_jax.evaluation import attack as search
from gloro_jax.evaluation.findings import sample
from gloro_jax.evaluation.tables import add_attack_rows, summary
from gloro_jax.frozen_net import FrozenNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions(Selection):
    """Attack a run: inside each image's certified radius, and at epsilon.

    An attack that succeeds inside a certified radius refutes the certificate; the command then
    exits with status 1.

    Attributes:
        run: the run folder.
        guarantee: what is certified and attacked, as for certify: with top-5, the attack tries to
            change the certified set. The run's own unless given.
        steps: gradient steps per restart and target class.
        restarts: starts per target class; the first is at the image.
        targets: classes to aim at, those that the certificate holds nearest; 9 are all of ten.
        examples: attack only this many images, drawn at random with a fixed seed; all unless given.
    """

    run: Annotated[Path, tyro.conf.Positional]
    guarantee: str | None = None
    steps: int = 50
    restarts: int = 2
    targets: int = 9
    examples: int | None = None


def attack(words: list[str]) -> int:
    """`gloro-jax attack`."""
    options: AttackOptions = parse(AttackOptions, "attack", words)
    if options.examples is not None and options.examples < 1:
        raise ValueError(f"--examples is at least 1, got {options.examples}.")
    opened = with_guarantee(open_run(options.run, options), options.run, options.guarantee)
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
                sets=report.sets,
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
