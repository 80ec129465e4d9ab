"""report.html: one self-contained page about a run, or one that compares several."""

import os
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import numpy as np

from gloro_jax import runs
from gloro_jax.data.dataset import Split
from gloro_jax.evaluation import figures
from gloro_jax.evaluation.findings import Findings, look_at
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.paths import place
from gloro_jax.plain import flat, number
from gloro_jax.version import __version__


def report(
    run: str | os.PathLike[str],
    frozen: FrozenNet,
    split: Split,
    *,
    epsilon: float | str | None = None,
    source: str = "test split",
    out: str | os.PathLike[str] | None = None,
    examples: int = 200,
    steps: int = 50,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Findings:
    """Writes the page about a run, as `gloro-jax report` does, also for a network of one's own.

    Args:
        run: the run folder.
        frozen: its network, from `fit(...).frozen` or `gj.load(run, net=...)`.
        split: the images, `data.test` for example.
        epsilon: the l2 radius; the run's own unless given.
        source: which images these are, in words.
        out: the page; RUN/report.html unless given.
        examples: how many images to attack, drawn at random with a fixed seed.
        steps: of the attack, per target class.
        on_progress: called with the number of images attacked since the last call.

    Returns:
        What the page says; `is_alarm` tells whether anything refutes the certificates.

    Raises:
        FileNotFoundError: if this is no run folder.
        ValueError: if images do not fit the network, or a number is out of range.
    """
    folder = place(run)
    if examples < 1:
        raise ValueError(f"examples is at least 1, got {examples}.")
    config = runs.read_config(folder, sections=("data", "training"))
    radius = number(config["training"]["epsilon"] if epsilon is None else epsilon)
    found = look_at(
        folder,
        frozen,
        split,
        source=source,
        epsilon=radius,
        examples=examples,
        steps=steps,
        on_progress=on_progress,
    )
    write_page([found], folder / "report.html" if out is None else out)
    return found


def write_page(findings: Sequence[Findings], out: str | os.PathLike[str]) -> None:
    """Writes the page whole or not at all."""
    runs.write_atomically(place(out), render(findings).encode())


def render(findings: Sequence[Findings]) -> str:
    """The page as HTML; it refers to nothing outside itself.

    Args:
        findings: one per run; several make a page that compares them.
    """
    import jinja2
    from markupsafe import Markup

    if not findings:
        raise ValueError("A report is about at least one run.")
    was_trained = any(one.history for one in findings)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = (
        resources.files("gloro_jax.evaluation")
        .joinpath("report.html.jinja")
        .read_text(encoding="utf-8")
    )
    return environment.from_string(source).render(
        version=__version__,
        runs=[_described(one) for one in findings],
        settings=_settings(findings),
        curve=Markup(figures.certified_accuracy(findings)),
        training=Markup(figures.training_curves(findings)) if was_trained else "",
        schedules=Markup(figures.schedules(findings)) if was_trained else "",
        is_alarm=any(one.is_alarm for one in findings),
        is_relaxed=any(one.relaxed is not None for one in findings),
    )


def _described(one: Findings) -> dict[str, Any]:
    report, attacked = one.report, len(one.attacked)
    return {
        "name": one.name,
        "source": one.source,
        "count": report.count,
        "epsilon": report.epsilon,
        "clean": report.clean_accuracy,
        "vra": report.vra,
        "interval": _error(report.vra, report.count),
        "rejection_rate": report.rejection_rate,
        "relaxed": one.relaxed,
        "attacked": attacked,
        "certified_attacked": float((report.is_correct & report.is_certified)[one.chosen].mean()),
        "withstood": float(one.accuracy_under_attack([report.epsilon])[0]),
        "median_radius": float(np.median(report.radii)),
        "refuted": one.refuted,
        "norm_alarm": one.norm_alarm,
        "lipschitz": one.frozen.lipschitz,
        "tightness": one.tightness,
        "norms": _norms(one),
        "best_epoch": one.summary.get("best_epoch"),
        "epochs": one.config["training"].get("epochs"),
        "imported": one.config.get("imported", {}).get("file"),
        "seconds": one.summary.get("seconds"),
        "jax": one.summary.get("jax"),
        "digest": one.frozen.digest,
        "cards": figures.image_cards(one),
        "parameters": sum(a.size for n, a in one.frozen.arrays().items() if _is_weight(n)),
    }


def _norms(one: Findings) -> list[dict[str, Any]]:
    """Per layer of the network shown: its norm found from below, and the guaranteed one."""
    return [
        {"layer": name, "estimate": one.lower_norms.get(name), "guaranteed": norm}
        for name, norm in one.frozen.layer_norms().items()
    ]


def _error(share: float, count: int) -> float:
    """Half the Wilson interval of a share at 95 %; not 0 where the share is 0 or 1."""
    z = 1.96
    spread = np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(z * spread / (1 + z**2 / count))


def _is_weight(name: str) -> bool:
    return name.endswith(("kernel", "bias"))


def _settings(findings: Sequence[Findings]) -> list[dict[str, Any]]:
    """Every setting with its value in each run, and whether the runs differ in it."""
    columns = [flat({k: v for k, v in one.config.items() if v is not None}) for one in findings]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, [str(column.get(name, "")) for column in columns]) for name in names]
    return [
        {"name": name, "values": values, "differs": len(set(values)) > 1} for name, values in rows
    ]
