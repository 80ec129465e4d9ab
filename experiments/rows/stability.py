"""Sixteen short runs: seeds x {float32, bfloat16} x {LiResNet, CHORD}. Does any of them collapse?

A published sweep of Lipschitz networks lost 8 of 58 runs to NaN or to one class for everything. A
run counts as collapsed if a loss or a weight was not finite (training stops then), if its accuracy
on validation is within 5 points of guessing, or if it predicts one class for nine images of ten.

Command: python -m experiments.rows.stability (about 15 minutes on 2 CPU cores; finished runs in
--scratch are not repeated; CIFAR-10 must have been prepared: docs/data.md).
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import gloro_jax as gj
from experiments.rows import save
from gloro_jax.data import Augmentation, Dataset, Split
from gloro_jax.models import ChordLiResNet, LiResNet

MODELS = {
    "LiResNet": LiResNet(depth=4, width=32, neck_features=64, dense_features=128),
    "CHORD": ChordLiResNet(depth=4, width=32, dense_features=128, dense_depth=8),
}
COMPUTE = ("float32", "bfloat16")
SEEDS = (0, 1, 2, 3)
IMAGES, EPSILON = 10_000, 36 / 255


def part_of(data: Dataset) -> Dataset:
    """The first training images, and all others as they are."""
    few = Split(data.train.images[:IMAGES], data.train.labels[:IMAGES])
    return dataclasses.replace(data, train=few, origin=None)


def one(scratch: Path, data: Dataset, name: str, compute: Any, seed: int) -> dict[str, Any]:
    config = gj.training.TrainConfig(
        epsilon=EPSILON,
        epochs=5,
        augmentation=Augmentation(crop=2, is_flipping=True),
        compute=compute,
        seed=seed,
    )
    run, session = scratch / f"{name}-{compute}-{seed}", gj.training.Session(is_resuming=True)
    row: dict[str, Any] = {"model": name, "compute": compute, "seed": seed}
    try:
        gj.training.fit(MODELS[name], data, config, run=run, session=session)
    except FloatingPointError as error:
        return {**row, "is_collapsed": True, "why": str(error)}
    split = data.validation
    report = gj.evaluation.verified_robust_accuracy(
        gj.load(run, checkpoint="last"), [(split.images, split.labels)], epsilon=EPSILON
    )
    most = float(np.bincount(report.predictions).max() / report.count)
    guessing = 1 / data.num_classes
    is_collapsed = report.clean_accuracy < guessing + 0.05 or most > 0.9
    return {
        **row,
        "clean": report.clean_accuracy,
        "vra": report.vra,
        "commonest_class": most,
        "is_collapsed": bool(is_collapsed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, default=Path("scratch/stability"))
    scratch = parser.parse_args().scratch
    data = part_of(gj.data.open_data(gj.data.DataConfig("cifar10", validation=0.05)))
    rows = []
    for name, compute, seed in itertools.product(MODELS, COMPUTE, SEEDS):
        rows.append(one(scratch, data, name, compute, seed))
        print(json.dumps(rows[-1]), flush=True)
    found = {
        "runs": rows,
        "collapsed": sum(row["is_collapsed"] for row in rows),
        "images": IMAGES,
        "device": str(jax.devices()[0].device_kind),
    }
    save("stability", found, command="python -m experiments.rows.stability")


if __name__ == "__main__":
    main()
