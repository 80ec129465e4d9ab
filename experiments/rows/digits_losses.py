"""EMMA against GloRo cross-entropy on scikit-learn's digits, l2 radius 0.5.

Both losses get the same network, the same number of epochs and the same grid of learning rates
and radius overshoots. For each loss the grid point with the best guaranteed VRA on validation
(seed 0) is trained with three seeds, and those six networks are certified once on the test split.
The papers (Hu et al. 2023) expect EMMA ahead; the row reports what is.

Command: python -m experiments.rows.digits_losses (about 10 minutes on 2 CPU cores; finished runs
in --scratch are not repeated).
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

import gloro_jax as gj
from experiments.rows import save
from gloro_jax.runs import read_config

LOSSES = ("emma", "gloro_cross_entropy")
LEARNING_RATES = (3e-3, 1e-2, 3e-2)
OVERSHOOTS = (1.0, 1.5, 2.0, 3.0)
SEEDS = (0, 1, 2)
EPSILON = 0.5
RADII = [round(0.05 * i, 2) for i in range(41)]


def frozen_of(scratch: Path, loss: str, rate: float, overshoot: float, seed: int) -> Any:
    """Trains unless the run is there already, and loads the best epoch."""
    recipe = gj.recipes.digits()
    config = dataclasses.replace(
        recipe.training,
        epsilon=EPSILON,
        loss=loss,
        learning_rate=rate,
        epsilon_schedule=f"[0.1]-[50%:{overshoot}]",
        seed=seed,
    )
    run = scratch / f"{loss}-{rate:g}-{overshoot:g}-{seed}"
    if not (run / "weights" / "last.safetensors").is_file():
        gj.training.fit(recipe.model, gj.data.digits(), config, run=run)
    if read_config(run)["training"] != dataclasses.asdict(config):
        raise ValueError(f"{run} was trained otherwise: use a fresh --scratch folder.")
    return gj.load(run)


def report_of(frozen: Any, split: Any) -> Any:
    return gj.evaluation.verified_robust_accuracy(
        frozen, [(split.images, split.labels)], epsilon=EPSILON
    )


def tune(scratch: Path, loss: str, validation: Any) -> dict[str, Any]:
    """Every grid point's VRA on validation, and the best."""
    table = {}
    for rate, overshoot in itertools.product(LEARNING_RATES, OVERSHOOTS):
        report = report_of(frozen_of(scratch, loss, rate, overshoot, SEEDS[0]), validation)
        table[rate, overshoot] = report.vra
        print(f"{loss} lr {rate:g} overshoot {overshoot:g}: validation VRA {report.vra:.4f}")
    rate, overshoot = max(table, key=lambda point: table[point])
    grid = [{"learning_rate": r, "epsilon_end": o, "vra": v} for (r, o), v in table.items()]
    return {"learning_rate": rate, "epsilon_end": overshoot, "grid": grid}


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Mean difference over seeds and test images, with a bootstrap interval over images."""
    difference = (ours.astype(float) - theirs.astype(float)).mean(axis=0)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(difference), (10_000, len(difference)))
    low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
    return {
        "mean": float(difference.mean()),
        "interval_95": [float(low), float(high)],
        "per_seed": [float(d) for d in ours.mean(axis=1) - theirs.mean(axis=1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, default=Path("scratch/digits_losses"))
    scratch = parser.parse_args().scratch
    data = gj.data.digits()
    held: dict[str, np.ndarray] = {}
    row: dict[str, Any] = {"epsilon": EPSILON, "radii": RADII, "losses": {}}
    for loss in LOSSES:
        choice = tune(scratch, loss, data.validation)
        reports = [
            report_of(
                frozen_of(scratch, loss, choice["learning_rate"], choice["epsilon_end"], seed),
                data.test,
            )
            for seed in SEEDS
        ]
        held[loss] = np.stack([r.is_correct & r.is_certified for r in reports])
        row["losses"][loss] = {
            **choice,
            "clean": [r.clean_accuracy for r in reports],
            "vra": [r.vra for r in reports],
            "curves": [r.certified_accuracy(RADII).tolist() for r in reports],
        }
    row["emma_minus_gloro_cross_entropy"] = paired(held[LOSSES[0]], held[LOSSES[1]])
    row["recipe"] = dataclasses.asdict(gj.recipes.digits())
    save("digits_losses", row, command="python -m experiments.rows.digits_losses")
    print(json.dumps(row["emma_minus_gloro_cross_entropy"], indent=1))


if __name__ == "__main__":
    main()
