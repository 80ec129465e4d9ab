"""The figures of a report, as SVG text, and its images, as data URIs."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from gloro_jax.evaluation.findings import Findings

_COLOURS = ("#1f5fa8", "#c4471b", "#2f7d3b", "#7a3f9d", "#8a6d00", "#44525c")


def certified_accuracy(findings: Sequence[Findings]) -> str:
    """Certified accuracy over all radii, with the accuracy that attacks left above it."""
    figure, axes = _figure(7.2, 3.8)
    limit = max(f.reach for f in findings)
    for one, colour in zip(findings, _cycle(len(findings)), strict=True):
        grid = np.linspace(0, limit, 600)
        certified = one.report.certified_accuracy(grid)
        axes.plot(
            grid, certified, color=colour, label=f"{_legend(one.name)}: certified, guaranteed"
        )
        seen = grid[grid < one.reach]
        attacked = one.accuracy_under_attack(seen)
        axes.plot(
            seen,
            attacked,
            color=colour,
            linestyle=(0, (4, 2)),
            linewidth=1.2,
            label=f"{_legend(one.name)}: left by the attack on {len(one.attacked)} images",
        )
        axes.axvline(one.report.epsilon, color="#999999", linewidth=0.8)
    axes.set(xlabel="l2 radius, pixels in [0, 1]", ylabel="accuracy", xlim=(0, limit), ylim=(0, 1))
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def training_curves(findings: Sequence[Findings]) -> str:
    """Loss, clean accuracy and estimated VRA over epochs."""
    figure, (left, right) = _figure(7.2, 3.0, columns=2)
    for one, colour in zip(findings, _cycle(len(findings)), strict=True):
        if not one.history:
            continue
        epochs = [row["epoch"] for row in one.history]
        for part, style in (("train", ":"), ("validation", "-")):
            rows = [row[part] for row in one.history]
            label = f"{_legend(one.name)}, {part}"
            loss = [row["loss"] for row in rows]
            left.plot(epochs, loss, style, color=colour, linewidth=1.2, label=label)
        rows = [row["validation"] for row in one.history]
        for name, style, label in (
            ("clean", "--", "clean"),
            ("vra_estimate", "-", "VRA, estimated"),
        ):
            values = [row[name] for row in rows]
            right.plot(
                epochs,
                values,
                style,
                color=colour,
                linewidth=1.2,
                label=f"{_legend(one.name)}, {label}",
            )
        best = one.summary.get("best_epoch")
        if best:
            right.axvline(best, color=colour, linewidth=0.6, alpha=0.5)
    left.set(xlabel="epoch", ylabel="loss (its radius moves)", yscale="log")
    right.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1))
    for axes in (left, right):
        axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def schedules(findings: Sequence[Findings]) -> str:
    """The learning rate and the training radius at the end of each epoch."""
    figure, (left, right) = _figure(7.2, 2.0, columns=2)
    for one, colour in zip(findings, _cycle(len(findings)), strict=True):
        epochs = [row["epoch"] for row in one.history]
        for axes, name in ((left, "learning_rate"), (right, "epsilon")):
            values = [row.get(name, np.nan) for row in one.history]
            axes.plot(epochs, values, color=colour, linewidth=1.2)
    left.set(xlabel="epoch", ylabel="learning rate")
    right.set(xlabel="epoch", ylabel="training radius")
    return _svg(figure)


def image_cards(one: Findings, *, count: int = 12) -> list[dict[str, Any]]:
    """Attacked images spread evenly over certified radii: what was proved, what was found."""
    radii, names = one.report.radii[one.chosen], one.class_names
    order = np.argsort(radii, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))]
    return [_card(one, int(i), names) for i in chosen]


def _card(one: Findings, i: int, names: list[str]) -> dict[str, Any]:
    clean = _as_float(one.attacked.images[i])
    is_found = bool(one.attack.is_success[i])
    near = _as_float(one.attack.examples[i]) if is_found else clean
    # Differences are small: stretched to the full range around middle grey.
    change = near - clean
    largest = float(np.abs(change).max()) or 1.0
    whole = int(one.chosen[i])
    return {
        "index": whole,
        "label": names[one.attacked.labels[i]],
        "prediction": names[one.report.predictions[whole]],
        "is_correct": bool(one.report.is_correct[whole]),
        "radius": float(one.report.radii[whole]),
        "is_found": is_found,
        "distance": float(one.attack.distances[i]),
        "became": names[one.attack.predictions[i]],
        "clean": _png(clean),
        "attack": _png(near),
        "change": _png(0.5 + 0.5 * change / largest),
        "gain": 0.5 / largest,
    }


def _figure(width: float, height: float, *, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    out = io.StringIO()
    nothing: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "gloro-jax"}
    with mpl.rc_context(settings):
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _legend(name: str) -> str:
    """A run's name, without what Matplotlib would take for mathematics or for a hidden label."""
    return "\N{NO-BREAK SPACE}" + name.replace("$", r"\$")


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _as_float(image: np.ndarray) -> np.ndarray:
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def _png(image: np.ndarray) -> str:
    from PIL import Image

    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    plain = pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]
    buffer = io.BytesIO()
    Image.fromarray(plain).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
