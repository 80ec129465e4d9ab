"""Networks trained to be verified: IBP and CROWN-IBP on MNIST, linf 0.1, images in the box [0, 1].

Trains the recipes (finished runs are not repeated), verifies the test images, and attacks the first
thousand in float64 in the same regions. What "IntervalBounds" and "Crown" verify is proved with
every rounding counted.

Command: python -m experiments.rows.interval_training --runs RUNS NAME... (about 12 and 30 minutes
on 2 CPU cores; the set "mnist" must have been prepared: docs/data.md)
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import gloro_jax as gj
from experiments.rows import others, save
from experiments.rows.recipes import trained
from experiments.rows.verified import STEPS, attacked
from gloro_jax import verifiers
from gloro_jax.recipes import RECIPES
from gloro_jax.runs import read_summary

NAMES = ("mnist_ibp", "mnist_crown_ibp")
BOX, FEW, AT_ONCE = (0.0, 1.0), 1_000, 500


def verified(frozen: Any, x: np.ndarray, labels: np.ndarray, method: Any, radius: float) -> int:
    """How many images are VERIFIED, each rounding counted."""
    count = 0
    for first in range(0, len(x), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        about: Any = {"norm": "linf", "radius": radius, "box": BOX}
        found = method.verify(frozen, x[part], labels[part], **about)
        count += int((found.is_verified & (found.semantics == "rounded")).sum())
    return count


def look_at(name: str, run: Path) -> dict[str, Any]:
    recipe = RECIPES[name]()
    frozen, test = trained(recipe, run)
    radius = recipe.training.epsilon
    x = np.asarray(test.images).astype(np.float32) / 255
    labels = np.asarray(test.labels).astype(np.int64)
    report = gj.evaluation.verified_robust_accuracy(frozen, [(x, labels)], epsilon=radius)
    is_right = report.is_correct[:FEW]
    few = x[:FEW][is_right], labels[:FEW][is_right]
    won = attacked(frozen, *few, norm="linf", radius=radius, box=BOX)
    return {
        "network": name,
        "radius": radius,
        "epochs": recipe.training.epochs,
        "minutes": read_summary(run)["seconds"] / 60,
        "clean": report.clean_accuracy,
        "verified": {
            "IntervalBounds": verified(frozen, x, labels, verifiers.IntervalBounds(), radius),
            "Crown": verified(frozen, x[:FEW], labels[:FEW], verifiers.Crown(), radius),
        },
        "images": {"IntervalBounds": len(x), "Crown": FEW},
        "left_by_attack": (int(is_right.sum()) - won) / FEW,
        "digest": frozen.digest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES)
    parser.add_argument("--runs", type=Path, required=True, help="folder of run folders")
    options = parser.parse_args()
    rows = others("interval_training", key="rows", field="network", named=options.names)
    for name in options.names:
        rows.append(look_at(name, options.runs / name))
        print(rows[-1], flush=True)
    found = {"box": BOX, "attack_steps": STEPS, "rows": rows}
    save(
        "interval_training",
        found,
        command="python -m experiments.rows.interval_training --runs RUNS NAMES",
    )


if __name__ == "__main__":
    main()
