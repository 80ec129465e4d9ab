"""ensemble: several runs as one classifier, certified where that is sound."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gloro_jax import ensembles, runs
from gloro_jax.cli.opened import Opened, Selection, data_config, open_run
from gloro_jax.cli.words import parse
from gloro_jax.data.sources import open_data
from gloro_jax.ensembles.members import check_members
from gloro_jax.evaluation import Report, verified_robust_accuracy
from gloro_jax.evaluation.findings import sample
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.plain import in_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleOptions(Selection):
    """Several runs as one classifier, on the data of the first run.

    voting: members vote, certified where uncertified members cannot turn the vote. soft: the mean
    of scores, with a bound of its own. cascade: the first certified member answers, as published;
    that is not sound, so the command attacks it and says what falls (docs/ensembles.md).

    Attributes:
        run: the run folders, the first member first.
        kind: of ensemble.
        weights: one for each run, of voting and soft; equal unless given.
        learn_weights: learn the weights of voting on the first run's training split.
        examples: look at this many images only, drawn at random with a fixed seed.
        steps: of the attack on a cascade.
    """

    run: Annotated[tuple[Path, ...], tyro.conf.Positional]
    kind: Literal["voting", "soft", "cascade"] = "voting"
    weights: tuple[float, ...] = ()
    learn_weights: bool = False
    examples: int | None = None
    steps: int = 100


def ensemble(words: list[str]) -> int:
    """`gloro-jax ensemble`."""
    options: EnsembleOptions = parse(EnsembleOptions, "ensemble", words)
    if len(options.run) < 2:
        raise ValueError("An ensemble has at least two members: gloro-jax ensemble RUN RUN ...")
    if options.learn_weights and (options.kind != "voting" or options.weights):
        raise ValueError("--learn-weights goes with --kind voting, without --weights.")
    if options.weights and options.kind == "cascade":
        raise ValueError("--weights go with --kind voting or soft: a cascade asks one by one.")
    if options.examples is not None and options.examples < 1:
        raise ValueError(f"--examples is at least 1, got {options.examples}.")
    opened = open_run(options.run[0], options)
    rest = [runs.load(run, checkpoint=options.checkpoint) for run in options.run[1:]]
    members, names = [opened.frozen, *rest], [_class_names(run) for run in options.run]
    check_members(members, what="the ensemble", names=[str(run) for run in options.run])
    known = names if all(names) else None
    weights = options.weights or None
    if options.learn_weights:
        weights = _learned(options, members, opened.epsilon)
    opened = opened._replace(split=sample(opened.split, options.examples))
    table = _table(opened, options)
    for run, member in zip(options.run, members, strict=True):
        _add(table, str(run), _report(member, opened))
    if options.kind == "cascade":
        _add_cascade(table, ensembles.Cascade(members, known), opened, options.steps)
    else:
        made = ensembles.Voting if options.kind == "voting" else ensembles.SoftVoting
        one = made(members, weights, known)
        shares = ", ".join(f"{w:.3g}" for w in np.asarray(one.weights, float))
        _add(table, f"[bold]{options.kind}[/], weights {shares}", _report(one, opened))
    Console(highlight=False).print(table)
    return 0


def _class_names(run: Path) -> tuple[str, ...]:
    return tuple(runs.read_config(run, sections=("data",))["data"].get("class_names") or ())


def _learned(options: EnsembleOptions, members: list[FrozenNet], epsilon: float) -> Any:
    run = options.run[0]
    config = runs.read_config(run, sections=("data", "training"))
    data = data_config(run, config, data=options.data, directory=options.data_dir)
    train = open_data(data).train
    return ensembles.learn_weights(members, np.asarray(train.images), train.labels, epsilon=epsilon)


def _table(opened: Opened, options: EnsembleOptions) -> Table:
    what = f"{len(opened.split)} images, {opened.source}, l2 radius {in_words(opened.epsilon)}"
    table = Table(title=escape(f"{options.kind} of {len(options.run)} runs: {what}"))
    table.add_column("network")
    for column in ("clean accuracy", "VRA", "median certified radius"):
        table.add_column(column, justify="right")
    return table


def _report(one: Any, opened: Opened) -> Report:
    split = opened.split
    return verified_robust_accuracy(one, [(split.images, split.labels)], epsilon=opened.epsilon)


def _add(table: Table, name: str, report: Report) -> None:
    shown = f"{report.clean_accuracy:.4f}", f"{report.vra:.4f}", f"{np.median(report.radii):.4f}"
    table.add_row(name, *shown)


def _add_cascade(table: Table, cascade: Any, opened: Opened, steps: int) -> None:
    images, labels = np.asarray(opened.split.images), np.asarray(opened.split.labels)
    found = ensembles.attack_cascade(cascade, images, labels, epsilon=opened.epsilon, steps=steps)
    clean = f"{found.is_correct.mean():.4f}"
    table.add_row("cascade, as it claims (not sound)", clean, f"{found.claimed_vra:.4f}", "")
    table.add_row("[bold]cascade, left by the attack[/]", "", f"at most {found.vra_left:.4f}", "")
