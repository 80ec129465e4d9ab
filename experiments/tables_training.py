"""Tables of trainings side by side: losses, parts of recipes, short runs."""

from typing import Any

from experiments.rows import origin

NAMES = {
    "emma": "EMMA",
    "gloro_cross_entropy": "GloRo cross-entropy",
    "trades_kl": "TRADES (KL)",
}


def emma_classes(row: dict[str, Any]) -> list[str]:
    """Three losses by number of classes."""
    lines = [
        "## EMMA by number of classes, CIFAR, l2 36/255, test split, guaranteed bounds", "",
        "| classes | loss | clean, by seed | VRA, by seed | EMMA minus this, 95 % interval |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for classes, found in row["classes"].items():
        for loss, result in found["losses"].items():
            clean, vra = (
                ", ".join(f"{100 * v:.2f}" for v in result[key]) for key in ("clean", "vra")
            )
            difference = found["differences"].get(f"emma - {loss}")
            words = ""
            if difference:
                low, high = difference["interval_95"]
                mean = 100 * difference["mean"]
                words = f"{mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            lines.append(f"| {classes} | {NAMES[loss]} | {clean} | {vra} | {words} |")
    return [
        *lines,
        "",
        "The first classes of CIFAR-10, and CIFAR-100. The same network, learning rate and "
        "schedules for all, and for CIFAR-10 the same steps; nothing is tuned per loss. "
        "Intervals: bootstrap over test images, paired; seeds are not in them. Hu et al. 2023 "
        "claim that EMMA gains with the number of classes.",
        "",
        origin(row),
        "",
    ]


def sweep(found: dict[str, Any]) -> list[str]:
    """What each change to a recipe brings on held-out images."""
    images = f"{found['images']:,} images" if found["images"] else "all but held-out images"
    budget = f"{found['epochs']} epochs of {images}"
    lines = [
        f"## What each part of `{found['recipe']}` brings: {budget}", "",
        "| variant | parameters | minutes | clean | VRA | gain in VRA, 95 % interval |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, row in found["variants"].items():
        words = ""
        if "gain" in row:
            low, high = row["gain"]["interval_95"]
            words = f"{100 * row['gain']['mean']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            words += ", undecided" if low <= 0 <= high else ""
        lines.append(
            f"| {name} | {row['parameters']:,} | {row['seconds'] / 60:.1f} | "
            f"{100 * row['clean']:.2f} | {100 * row['vra']:.2f} | {words} |"
        )
    return [
        *lines,
        "",
        f"One change at a time, the same steps; guaranteed bounds on "
        f"{found['held_out']:,} held-out training images, at the recipe's radius. Intervals: "
        'bootstrap over these images, paired; "seed 1" says what a seed changes. '
        f"Device: {found['device']}; minutes of the run as it went.",
        "",
        origin(found),
        "",
    ]


def stability(found: dict[str, Any]) -> list[str]:
    """Short runs, and how many collapsed."""
    lines = [
        f"## {len(found['runs'])} short runs, CIFAR-10, {found['images']:,} images, 5 epochs", "",
        "| network | precision | clean on validation, by seed | VRA, by seed | collapsed |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in found["runs"]:
        groups.setdefault((run["model"], run["compute"]), []).append(run)
    for (model, compute), runs in groups.items():
        clean, vra = (
            ", ".join(f"{100 * run[key]:.1f}" if key in run else "none" for run in runs)
            for key in ("clean", "vra")
        )
        collapsed = sum(run["is_collapsed"] for run in runs)
        lines.append(f"| {model} | {compute} | {clean} | {vra} | {collapsed} |")
    return [
        *lines,
        "",
        f"{found['collapsed']} of {len(found['runs'])} collapsed: met a NaN, guessed, or gave nine "
        "images of ten one class. LiResNet, CHORD and LipNeXt are the library's models; the others "
        "are one small network with these layers inside, `convolutions` bounded by their norm, "
        "`orthonormal` ones of 1 x 1 pixel by a Cholesky factor.",
        "",
        origin(found),
        "",
    ]
