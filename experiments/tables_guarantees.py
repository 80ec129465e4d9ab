"""Tables and figures of relaxed guarantees and ensembles, for RESULTS.md and the docs."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from experiments.rows import origin

DOCS = Path(__file__).parent.parent / "docs"


def figure(width: float = 5.5, height: float = 3.4) -> Any:
    """An empty figure with plain axes."""
    mpl.rcParams["svg.hashsalt"] = "gloro"
    made, axes = plt.subplots(figsize=(width, height))
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


def guarantees(found: dict[str, Any]) -> list[str]:
    """Strict, top-k and affinity VRA and rejection of the same networks."""
    draw_guarantees(found)
    lines = ["## Relaxed guarantees", ""]
    for name, one in found["networks"].items():
        lines += [
            f"{name}: {one['count']:,} test images, l2 {one['radius']}, clean accuracy "
            f"{100 * one['clean']:.2f}.",
            "", "| guarantee | VRA | rejected | label among the k highest (top-k accuracy) |",
            "| --- | --- | --- | --- |",
        ]  # fmt: skip
        for word, row in one["guarantees"].items():
            top = "" if row["top_k"] is None else f"{100 * row['top_k']:.2f}"
            lines.append(
                f"| {word} | {100 * row['vra']:.2f} | {100 * row['rejected']:.2f} | {top} |"
            )
        lines.append("")
    attack = found["attack"]
    return [
        *lines,
        f"Attack on the sets of {attack['points']:,} certified points of CIFAR-10 and MNIST, "
        f"{attack['steps']} steps at each of {attack['targets']} outside classes: "
        f"{attack['successes']} sets changed.", "",
        origin(found), "",
    ]  # fmt: skip


def draw_guarantees(found: dict[str, Any]) -> None:
    made, axes = figure()
    for (name, one), colour in zip(found["networks"].items(), ("#1f5f99", "#b3591a"), strict=False):
        rows = [
            one["guarantees"][word] for word in one["guarantees"] if word.startswith(("s", "t"))
        ]
        k = np.arange(1, len(rows) + 1)
        axes.plot(k, [100 * r["vra"] for r in rows], "o-", color=colour, label=f"{name}: VRA")
        axes.plot(
            k, [100 * r["rejected"] for r in rows], "o--", color=colour, label=f"{name}: rejected"
        )
        if affinity := [r for w, r in one["guarantees"].items() if "superclasses" in w or "[" in w]:
            for measure, marker in (("vra", "s"), ("rejected", "D")):
                axes.plot(len(rows) + 0.7, 100 * affinity[0][measure], marker, color=colour)
    axes.set_xticks(
        [1, 2, 3, 4, 5, 5.7], ["strict", "top-2", "top-3", "top-4", "top-5", "affinity"]
    )
    axes.set(ylabel="percent of test images", ylim=(0, None))
    axes.legend(frameon=False, fontsize=7, ncol=2, loc="lower left", bbox_to_anchor=(0, 1))
    made.tight_layout()
    made.savefig(DOCS / "guarantees.svg", metadata={"Date": None})


def ensembles(found: dict[str, Any]) -> list[str]:
    """Voting, mean scores and what is left of cascades."""
    draw_cascades(found)
    lines = [
        f"## Ensembles: three 2C2F on MNIST, l2 {found['epsilon']:g}, {found['count']:,} images",
        "",
        "| network | in turn: clean | VRA | apart: clean | VRA |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in found["apart"]:
        if name == "cascade":
            continue
        cells = [
            f"{100 * found[how][name]['clean']:.2f} | {100 * found[how][name]['vra']:.2f}"
            for how in ("in turn", "apart")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    words = []
    for how in ("in turn", "apart"):
        one = found[how]["cascade"]
        words.append(
            f"{how}, {100 * one['claimed']:.1f} are claimed and at most {100 * one['left']:.1f} "
            f"are true ({100 * one['share_fallen']:.1f} % of the claims fall)"
        )
    return [
        *lines,
        "",
        f'"In turn": each member, trained for {found["epochs"]} epochs, saw only what those before '
        'it left open; "apart": other seeds. Cascades are not sound: on '
        f"{found['apart']['cascade']['examples']:,} images, of members "
        f"{'; of members '.join(words)}.",
        "",
        origin(found),
        "",
    ]


def selective(found: dict[str, Any]) -> list[str]:
    """Consistency of predictions and attributions on each data set, and times of training."""
    tasks = found["tasks"].items()
    lines = [
        f"## Selective ensembles: consistency over seeds, alpha {found['alpha']:g}", "",
        "| data | one model: accuracy, points that change | 10 members: abstains, accuracy, points "
        "that change | 20 members | Spearman 1 / 10 / 20 | top 5 | SSIM |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, task in tasks:
        told, alike = task["predictions"], task["attributions"]
        cells = [
            f"{100 * told['accuracy of one model']:.1f}, "
            f"{100 * told['points on which single models disagree']:.1f}"
        ]
        cells += [
            ", ".join(f"{100 * v:.1f}" for v in told["ensembles"][n].values()) for n in ("10", "20")
        ]
        for measure in ("Spearman", "top 5", "SSIM"):
            values = [alike[n].get(measure) for n in ("1", "10", "20")]
            cells.append(" / ".join("" if v is None else f"{v:.2f}" for v in values).strip(" /"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    times = "; ".join(
        f"{name} {t['seconds, 20 members mapped']:.1f} and "
        f"{t['seconds, 20 members one after another']:.1f} s"
        for name, t in tasks
    )
    return [
        *lines, "",
        "Percent of test points; abstention counts as an error. Five members always abstain. "
        f"Pools of {', '.join(str(t['models']) for _, t in tasks)} models; {found['ensembles']} "
        f"ensembles of each size. 20 members trained as one mapped program, and one after another: "
        f"{times}.", "",
        origin(found), "",
    ]  # fmt: skip


def ace(found: dict[str, Any]) -> list[str]:
    """The curve of an entropy gate from all-core to all-certified, and a gate network."""
    draw_ace(found)
    lines = [
        f"## ACE on CIFAR-10, l2 36/255, {found['count']:,} test images", "",
        "| gate | asks the certified network | clean | VRA |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    rows = {f"entropy up to {float(t):g}": one for t, one in found["entropy"].items()}
    for name, one in {**rows, "a GloRo net of two classes": found["gate network"]}.items():
        shown = " | ".join(f"{100 * one[key]:.2f}" for key in ("gated", "clean", "vra"))
        lines.append(f"| {name} | {shown} |")
    return [
        *lines, "",
        f"On linf balls of 0.5/255, {found['linf']['images']} images, by the verifier Lipschitz "
        f"with the gate network: {100 * found['linf']['vra']:.1f}.", "",
        origin(found), "",
    ]  # fmt: skip


def draw_cascades(found: dict[str, Any]) -> None:
    made, axes = figure(5.5, 2.6)
    names = {"in turn": "members trained in turn", "apart": "members of other seeds"}
    bars = {
        "best member, certified": [
            max(one["vra"] for name, one in found[how].items() if name.startswith("member"))
            for how in names
        ],
        "voting, certified": [found[how]["voting, equal"]["vra"] for how in names],
        "mean scores, certified": [found[how]["mean scores"]["vra"] for how in names],
        "cascade, claimed": [found[how]["cascade"]["claimed"] for how in names],
        "cascade, left by the attack": [found[how]["cascade"]["left"] for how in names],
    }
    colours = ("#1f5f99", "#4f8fc0", "#9bbfdd", "#d8a58a", "#b3591a")
    for place, ((label, values), colour) in enumerate(zip(bars.items(), colours, strict=True)):
        at = np.arange(len(names)) + 0.16 * (place - 2)
        axes.bar(at, [100 * v for v in values], 0.15, color=colour, label=label)
    axes.set_xticks(range(len(names)), names.values())
    axes.set(ylabel=f"percent at l2 {found['epsilon']:g}", ylim=(0, 70))
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper center")
    made.tight_layout()
    made.savefig(DOCS / "ensembles.svg", metadata={"Date": None})


def draw_ace(found: dict[str, Any]) -> None:
    made, axes = figure()
    rows = list(found["entropy"].values())
    axes.plot(
        [100 * one["vra"] for one in rows], [100 * one["clean"] for one in rows],
        "o-", color="#1f5f99", label="entropy gate, by its threshold",
    )  # fmt: skip
    gate = found["gate network"]
    axes.plot(100 * gate["vra"], 100 * gate["clean"], "s", color="#b3591a", label="gate network")
    axes.annotate("all core", (100 * rows[0]["vra"], 100 * rows[0]["clean"]), (6, 4),
                  textcoords="offset points", fontsize=8)  # fmt: skip
    axes.annotate("all certified", (100 * rows[-1]["vra"], 100 * rows[-1]["clean"]), (-60, -4),
                  textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set(xlabel="VRA at l2 36/255, percent", ylabel="clean accuracy, percent")
    axes.legend(frameon=False, fontsize=8)
    made.tight_layout()
    made.savefig(DOCS / "ace.svg", metadata={"Date": None})
