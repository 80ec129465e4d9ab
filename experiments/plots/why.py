"""Draws docs/why.svg: demonstration A, a false certificate by power iteration, and its refutation.

Command: python -m experiments.plots.why
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

import gloro_jax as gj
from tests.soundness.demonstrations import counterexample, opponent, reference_radius

OUT = Path(__file__).parent.parent.parent / "docs" / "why.svg"
BLUE, RED, GREY = "#3465a4", "#c0392b", "#888888"


def main() -> None:
    demonstration = opponent()
    theirs, estimate = reference_radius(demonstration, steps=500)
    found = counterexample(demonstration)
    certificate = gj.certify(
        demonstration.frozen, demonstration.image, epsilon=demonstration.epsilon
    )
    ours, distance = float(certificate.radius[0]), float(found.squared_distance) ** 0.5
    plt.rcParams.update({"svg.hashsalt": "gloro-jax", "font.size": 9, "svg.fonttype": "none"})
    figure = plt.figure(figsize=(7.2, 3.6))
    grid = figure.add_gridspec(2, 3, height_ratios=[2.4, 1], hspace=0.35)
    clean, changed = demonstration.image[0], found.image
    change = changed - clean
    pictures = (
        ("class 0", clean),
        (f"class 1, at l2 distance {distance:.4f}", changed),
        ("the change, 20 times enlarged", np.clip(0.5 + 20 * change, 0, 1)),
    )
    for column, (title, picture) in enumerate(pictures):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    axes = figure.add_subplot(grid[1, :])
    rows = (
        (f"certified by power iteration, 500 steps: K = {estimate:.3f}", theirs, RED),
        (f"certified here: K = {demonstration.frozen.lipschitz:.4f}", ours, BLUE),
    )
    for height, (words, radius, colour) in enumerate(rows):
        axes.barh(height, radius, color=colour, height=0.6)
        axes.text(radius + 0.004, height, f"{words}, radius {radius:.4f}", va="center")
    axes.axvline(distance, color=GREY, linestyle="--", linewidth=1)
    axes.text(distance, 1.5, "the class changes", ha="center", va="bottom", color=GREY)
    axes.set_xlim(0, 0.72)
    axes.set_yticks([])
    axes.set_xlabel("l2 radius")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(OUT, bbox_inches="tight", metadata={"Date": None})
    print(f"{OUT.name}: ours {ours:.4f}, changed at {distance:.4f}, theirs {theirs:.4f}")


if __name__ == "__main__":
    main()
