"""Reports as tables for a terminal."""

from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from gloro_jax.evaluation.attacks import AttackReport
from gloro_jax.evaluation.vra import Report
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.guarantees import Affinity
from gloro_jax.plain import flat, in_words


def settings(config: dict[str, Any]) -> Table:
    """A nested config, one row per field."""
    table = Table("setting", "value", title="configuration")
    for section, fields in config.items():
        for name, value in flat(fields).items():
            shown = in_words(value) if name == "epsilon" else str(value)
            table.add_row(f"{section}.{name}", escape(shown))
        table.add_section()
    return table


def summary(report: Report, *, title: str) -> Table:
    """Accuracy, VRA and radii of one report."""
    table = Table(title=escape(title), show_header=False)
    table.add_row("images", str(report.count))
    table.add_row("clean accuracy", f"{report.clean_accuracy:.4f}")
    radius = in_words(report.epsilon)
    if report.guarantee is not None:
        _add_set_rows(table, report)
    table.add_row(f"VRA at l2 radius {radius} (guaranteed bounds)", f"[bold]{report.vra:.4f}[/]")
    table.add_row("not certified", f"{report.rejection_rate:.4f}")
    table.add_row("median certified radius", f"{np.median(report.radii):.4f}")
    return table


def _add_set_rows(table: Table, report: Report) -> None:
    """What was certified, and how large the certified sets are."""
    words, (sizes, counts) = (
        str(report.guarantee),
        np.unique(report.k[report.is_certified], return_counts=True),
    )
    table.add_row("guarantee", escape(words if len(words) < 60 else words[:57] + "..."))
    if isinstance(report.guarantee, Affinity) and report.sets is not None:
        alone = report.guarantee.without(report.sets.shape[1])
        if alone:  # of whose points none can be certified
            table.add_row("classes in no set", ", ".join(map(str, alone)))
    found = ", ".join(f"{n} of {k}" for k, n in zip(sizes, counts, strict=True))
    table.add_row("certified sets", found or "none")


def add_attack_rows(
    table: Table, report: Report, inside: AttackReport, at_epsilon: AttackReport
) -> None:
    """What the attacks at epsilon and inside certified radii left standing."""
    withstood = float((report.has_label & ~at_epsilon.is_success).mean())
    table.add_row(f"accuracy under attack at {in_words(report.epsilon)}", f"{withstood:.4f}")
    table.add_row("attacks that succeeded inside a certified radius", str(inside.successes))


def norms(frozen: FrozenNet) -> Table:
    """The guaranteed norm of every linear layer, and K."""
    table = Table("layer", "guaranteed norm", title="Lipschitz bounds")
    for name, norm in frozen.layer_norms().items():
        table.add_row(name, f"{norm:.5f}")
    table.add_row("K, the whole body", f"{frozen.lipschitz:.5f}", end_section=True)
    if frozen.flushed:
        table.add_row("weights below the smallest normal float32, set to 0", str(frozen.flushed))
    return table
