"""Tables of verifiers and of networks trained to be verified, for RESULTS.md."""

from typing import Any

import numpy as np

from experiments.rows import origin


def verifiers_radii(found: dict[str, Any]) -> list[str]:
    """The median certified radius of every verifier on two networks, and its time."""
    networks = found["networks"]
    lines = [
        "## Verifiers: median certified l2 radius of 100 digits, and seconds for all of them", "",
        "| method | GloRo net | plain MLP, 2 x 24 ReLUs |", "| --- | --- | --- |",
    ]  # fmt: skip
    for word in networks["gloro"]["methods"]:
        cells = []
        for name in ("gloro", "plain"):
            row = networks[name]["methods"][word]
            cells.append(f"{np.median(row['radii']):.4f}, {row['seconds']:.1f} s")
        lines.append(f"| {word} | {' | '.join(cells)} |")
    attacks = ", ".join(f"{one['successes']} of {one['attacks']}" for one in networks.values())
    lines += [
        "",
        "Seconds with compilation and the search for the radius, beside other work. Projections "
        "and BranchAndBound had 5 seconds an image; MixedInteger knows linf alone. Attacks at "
        f"0.999 of the largest radius that a deterministic method certifies: {attacks} succeeded.",
        "",
        origin(found), "",
    ]  # fmt: skip
    return lines


def branch(found: dict[str, Any]) -> list[str]:
    """What branch and bound decides on plain MLPs within its time."""
    words = {
        "mlp": "Adam, no weight decay",
        "mlp_decay": "SGD with momentum, weight decay 5e-4",
    }
    if "branch" not in found:
        return []
    lines = [
        "## BranchAndBound, ReLU MLP 256 x 2 on MNIST, linf, 60 seconds an image", "",
        "| trained by | radius | images | VERIFIED | FALSIFIED | UNKNOWN | MixedInteger decided in "
        "10 s | contradictions |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, row in found["branch"].items():
        ours, theirs = (
            [one[method]["status"] for one in row["rows"]]
            for method in ("BranchAndBound", "MixedInteger")
        )
        counts = (ours.count(word) for word in ("VERIFIED", "FALSIFIED", "UNKNOWN"))
        lines.append(
            f"| {words[name]} | {row['radius']} | {row['images']} | "
            f"{' | '.join(map(str, counts))} | {len(theirs) - theirs.count('UNKNOWN')} | "
            f"{row['contradictions']} |"
        )
    return [
        *lines,
        "",
        "The first correctly classified test images, within the range of pixels. A FALSIFIED has a "
        "witness that was checked in float64.",
        "",
        "Command: `python -m experiments.bench.verifiers branch`.",
        "",
    ]


def verified(found: dict[str, Any]) -> list[str]:
    """Attacks in float64 on what verifiers verified."""
    rows = found["rows"]
    lines = [
        "## Attacks in float64 on VERIFIED points", "",
        "| network | norm | radius | images | verified by | attacked | successes |"
        " of 256 at eight times the radius |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in rows:
        counts = ", ".join(f"{word} {count:,}" for word, count in row["verified"].items())
        lines.append(
            f"| {row['network']} | {row['norm']} | {row['radius']} | {row['images']:,} | "
            f"{counts} | {row['attacked']:,} | {row['successes']} | "
            f"{row['successes_of_256_at_8_radii']} |"
        )
    total, won = (sum(row[name] for row in rows) for name in ("attacked", "successes"))
    return [
        *lines,
        "",
        f"{total:,} points, {won} successes, {found['steps']} steps each. The digits are the "
        "training images (there are more of them), the MNIST images the first of the test split.",
        "",
        origin(found),
        "",
    ]


def interval_training(found: dict[str, Any]) -> list[str]:
    """Networks trained to be verified at linf."""
    lines = [
        "## Trained to be verified, MNIST, linf", "",
        "| recipe | radius | epochs, minutes | clean | VRA, IntervalBounds | VRA, Crown | "
        "left by the attack |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in found["rows"]:
        shares = (
            f"{100 * count / row['images'][word]:.2f} of {row['images'][word]:,}"
            for word, count in row["verified"].items()
        )
        lines.append(
            f"| `{row['network']}` | {row['radius']} | {row['epochs']}, {row['minutes']:.1f} | "
            f"{100 * row['clean']:.2f} | {' | '.join(shares)} | "
            f"{100 * row['left_by_attack']:.1f} |"
        )
    return [
        *lines,
        "",
        f"Every rounding counted; the box is {found['box']}. The attack is projected gradient "
        f"descent in float64, {found['attack_steps']} steps, on the first 1,000 images.",
        "",
        origin(found),
        "",
    ]
