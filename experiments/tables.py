"""Builds RESULTS.md and its plots from the JSON files of experiments/results.

Nothing in RESULTS.md is typed by hand. Command: python -m experiments.tables
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.rows import origin
from experiments.tables_guarantees import ace, ensembles, figure, guarantees, selective
from experiments.tables_training import NAMES, emma_classes, stability, sweep
from experiments.tables_verifiers import branch, interval_training, verified, verifiers_radii

HERE = Path(__file__).parent
PAPER_EPOCHS = {
    "mnist_2c2f": 500, "mnist_4c3f": 300, "mnist_chord_mlp": 400, "cifar10_6c2f": 800,
}  # fmt: skip


def digits_losses(row: dict[str, Any]) -> list[str]:
    """The comparison of two losses: table, paired difference, curves."""
    lines = [
        f"## Digits, l2 radius {row['epsilon']}, test split, guaranteed bounds", "",
        "| loss | learning rate, overshoot (tuned) | clean, 3 seeds | VRA, 3 seeds | mean VRA |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for loss, result in row["losses"].items():
        clean, vra = (", ".join(f"{v:.3f}" for v in result[key]) for key in ("clean", "vra"))
        lines.append(
            f"| {NAMES[loss]} | {result['learning_rate']:g}, {result['epsilon_end']:g} | {clean} | "
            f"{vra} | {np.mean(result['vra']):.4f} |"
        )
    paired = row["emma_minus_gloro_cross_entropy"]
    low, high = paired["interval_95"]
    seeds = ", ".join(f"{100 * d:+.1f}" for d in paired["per_seed"])
    verdict = "not told apart" if low <= 0 <= high else "told apart"
    lines += [
        "",
        f"EMMA minus GloRo cross-entropy: {100 * paired['mean']:+.2f} points of VRA, 95 % interval "
        f"{100 * low:+.2f} to {100 * high:+.2f} (bootstrap over test images, paired); by seed "
        f"{seeds}. The two are {verdict} here. Hu et al. 2023 report EMMA ahead, most of all with "
        "many classes; digits have ten.",
        "",
        "Certified accuracy (share of test images correct with a certified radius above r; mean of "
        "three seeds):", "",
        "![Certified accuracy against radius for both losses](results/digits_losses.svg)", "",
        "| r | " + " | ".join(f"{r:g}" for r in row["radii"][::4]) + " |",
        "| --- |" + " --- |" * len(row["radii"][::4]),
    ]  # fmt: skip
    for loss, result in row["losses"].items():
        curve = np.mean(result["curves"], axis=0)[::4]
        lines.append(f"| {NAMES[loss]} | " + " | ".join(f"{v:.3f}" for v in curve) + " |")
    lines += ["", origin(row), ""]
    return lines


def seeds(rows: dict[str, Any]) -> list[str]:
    """A line per recipe of several seeds: VRA by certificate file, of each and on average."""
    many = {name: row for name, row in rows.items() if "seeds" in row and row["certificate"]}
    if not many:
        return []
    lines = ["", "| recipe | VRA by certificate file, a seed each | mean | clean, mean |"]
    lines += ["| --- | --- | --- | --- |"]
    for name, row in many.items():
        others = row["seeds"].values()
        vra = [row["certificate"]["vra"], *(other["vra"] for other in others)]
        clean = [row["clean"], *(other["clean"] for other in others)]
        each = " ".join(f"{100 * share:.2f}" for share in vra)
        lines.append(
            f"| `{name}` | {each} | {100 * np.mean(vra):.2f} | {100 * np.mean(clean):.2f} |"
        )
    return lines


def recipes(rows: dict[str, Any]) -> list[str]:
    """One line per recipe: what was proved on the test split, what the paper reports."""
    lines = [
        "## Recipes, test split, guaranteed bounds, one seed", "",
        "| recipe | l2 radius | epochs, minutes | clean | VRA | left by the attack | "
        "paper: VRA, clean (epochs) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, row in rows.items():
        paper = "not reported"
        if row["paper"]:
            vra, clean = row["paper"]
            paper = f"{vra}, {clean or '?'} ({PAPER_EPOCHS[name]})"
        error = 196 * np.sqrt(row["vra"] * (1 - row["vra"]) / row["count"])
        lines.append(
            f"| `{name}` | {row['epsilon']:.4g} | {row['epochs']}, {minutes(row):.1f}"
            f"{on_another_device(row)} | "
            f"{100 * row['clean']:.2f} | {100 * row['vra']:.2f} ± {error:.2f} | "
            f"{100 * row['left_by_attack']:.1f} of {row['attacked']:,} | {paper} |"
        )
    lines += [
        "",
        "On 2 CPU cores unless said otherwise. Minutes are those of the run as it went, mostly "
        "beside other work; where a step was measured alone (`experiments.bench.step_seconds`), "
        "those of its steps. ± is 1.96 standard errors over test images; seeds "
        "are not in it. The paper (Leino et al. 2021; for `mnist_chord_mlp` the best published "
        "figure, 4C3F of Fazlyab et al. 2023) certifies with power iteration. CIFAR-10: 9,966 "
        "test images (docs/data.md). The attack aims at the nine nearest other classes, inside "
        "certified radii and at epsilon; accuracy is what it leaves of the images attacked, which "
        "may be few.",
        "",
        "| recipe | images attacked, steps per class | certificates refuted | "
        "tightness, at least | lowest estimate / guaranteed norm | commit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        ratio = row["lowest_estimate_over_guaranteed"]
        lines.append(
            f"| `{name}` | {row['attacked']:,}, {row['attack_steps']} | {row['refuted']} | "
            f"{row['tightness']:.3f} | {ratio:.5f} | `{row['commit'][:12]}` |"
        )
    lines += seeds(rows)
    wide = {name: row for name, row in rows.items() if "certified_accuracy" in row}
    if wide:
        lines += ["", "| recipe | " + " | ".join(next(iter(wide.values()))["certified_accuracy"])]
        lines[-1] += " |\n| --- | --- | --- | --- |"
        for name, row in wide.items():
            shares = (f"{100 * share:.2f}" for share in row["certified_accuracy"].values())
            lines.append(f"| `{name}`: correct and certified at | " + " | ".join(shares) + " |")
    return [*lines, "", "Command: `python -m experiments.rows.recipes --runs RUNS NAMES`.", ""]


def minutes(row: dict[str, Any]) -> float:
    """Of all steps on an idle machine where bench/step_seconds measured them, else of the run."""
    return row["step"]["minutes"] if "step" in row else row["minutes"]


def on_another_device(row: dict[str, Any]) -> str:
    """What trained a recipe, where that was no CPU; steps are measured on the CPU all the same."""
    if row.get("device", "cpu") == "cpu":
        return ""
    if "step" not in row:
        return f" on one {row['device']}"
    return f" on 2 CPU cores by its steps (this run: {row['minutes']:.1f} on one {row['device']})"


def accelerator(found: dict[str, Any]) -> list[str]:
    """Training steps on one accelerator, and the ratio to the PyTorch reference."""
    lines = [
        f"## One {found['device']}: training steps", "",
        "| network | batch | ms a step | images a second | share of the bfloat16 peak | compiled |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, row in found["steps"].items():
        lines.append(
            f"| {name} | {row['batch']} | {row['ms']:.1f} | {row['images_per_second']:,.0f} | "
            f"{100 * row['share_of_bfloat16_peak']:.0f} % | {row['compile_seconds']:.0f} s |"
        )
    other = found["reference"]
    low, high = other["interval_95"]
    runs = "; ".join(f"{name}: {run['seconds']:.0f} s" for name, run in found["runs"].items())
    return [
        *lines,
        "",
        f"Against the authors' PyTorch code ({other['shape']}): "
        f"{1e3 * other['ours_seconds']:.0f} against {1e3 * other['reference_seconds']:.0f} ms a "
        f"step, {other['ratio']:.2f} times as fast (95 % interval {low:.2f} to {high:.2f}). Whole "
        f"runs beside each other, compilation and freezing included: {runs}.",
        "",
        f"JAX {found['jax']}. {origin(found)}",
        "",
    ]


def lipnext(found: dict[str, Any]) -> list[str]:
    """A step of LipNeXt against one of a LiResNet."""
    parts = (
        f"{name}, {row['parameters']:,} parameters, {1e3 * row['seconds']:.0f} ms a step"
        for name, row in found["steps"].items()
    )
    return [
        "## LipNeXt against LiResNet, 2 CPU cores", "",
        f"CIFAR-10, batch {found['steps']['LipNeXt']['batch']}, the same recipe: "
        f"{'; '.join(parts)}: {found['ratio']:.2f} times as long.",
        "",
        origin(found),
        "",
    ]  # fmt: skip


def draw_curves(row: dict[str, Any]) -> None:
    made, axes = figure()
    for (loss, result), colour in zip(row["losses"].items(), ("#1f5f99", "#b3591a"), strict=True):
        curves = np.asarray(result["curves"])
        axes.plot(row["radii"], curves.mean(axis=0), color=colour, label=NAMES[loss])
        axes.fill_between(
            row["radii"], curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2
        )
    axes.axvline(row["epsilon"], color="#888888", lw=0.8, ls="--")
    axes.set(xlabel="l2 radius r", ylabel="certified accuracy", ylim=(0, 1), xlim=(0, None))
    axes.legend(frameon=False)
    made.tight_layout()
    made.savefig(HERE / "results" / "digits_losses.svg", metadata={"Date": None})


def main() -> None:
    row = json.loads((HERE / "results" / "digits_losses.json").read_text())
    draw_curves(row)
    lines = ["# Results", "", "Generated by `python -m experiments.tables`; do not edit.", ""]
    sections = {"recipes": recipes, "emma_classes": emma_classes, "stability": stability}
    sections |= {"verifiers_radii": verifiers_radii, "verified": verified, "verifiers": branch}
    sections |= {"interval_training": interval_training}
    sections |= {"guarantees": guarantees}
    sections |= {"ensembles": ensembles, "selective": selective, "ace": ace}
    sections |= {"accelerator": accelerator, "lipnext": lipnext}
    for name, section in sections.items():
        path = HERE / "results" / f"{name}.json"
        if path.is_file():
            lines += section(json.loads(path.read_text()))
    for path in sorted((HERE / "results").glob("sweep_*.json")):
        lines += sweep(json.loads(path.read_text()))
    (HERE / "RESULTS.md").write_text("\n".join([*lines, *digits_losses(row)]))


if __name__ == "__main__":
    main()
