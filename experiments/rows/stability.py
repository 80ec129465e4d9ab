"""Thirty-two short runs: every family of layers x {float32, bfloat16} x two seeds. Any collapse?

A published sweep of Lipschitz networks lost 8 of 58 runs to NaN or to one class for everything. A
run counts as collapsed if a loss or a weight was not finite (training stops then), if its accuracy
on validation is within 5 points of guessing, or if it predicts one class for nine images of ten.
One learning rate and one schedule for all; LiResNets and LipNeXt are the library's models, and
every other family is the same small network with its own layers inside.

Command: python -m experiments.rows.stability [--families ...] (about 40 minutes on 2 CPU cores;
finished runs in --scratch are not repeated, and rows of families that are not named stay as they
are; CIFAR-10 must have been prepared: docs/data.md)
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import gloro_jax as gj
from experiments.rows import first_of, others, save
from gloro_jax import layers
from gloro_jax.data import Augmentation, Dataset
from gloro_jax.models import ChordLiResNet, LipNext, LiResNet

COMPUTE = ("float32", "bfloat16")
SEEDS = (0, 1)
IMAGES, EPSILON = 10_000, 36 / 255
_WIDTH, _DEPTH, _NECK = 32, 4, 64


def _net(conv: Callable[[], Any], dense: Callable[[], Any]) -> gj.GloroNet:
    """Patches to 8 x 8, four layers of images, patches to 2 x 2, and a dense layer."""
    body = [layers.OrthogonalPatches(_WIDTH, 4, use_bias=True, name="stem")]
    for _ in range(_DEPTH):
        body += [conv(), layers.MinMax()]
    body += [layers.OrthogonalPatches(_NECK, 4, name="neck"), layers.MinMax(), layers.Flatten()]
    return gj.GloroNet(nn.Sequential([*body, dense(), layers.MinMax()]), 10)


FAMILIES: dict[str, Callable[[], Any]] = {
    "LiResNet": lambda: LiResNet(depth=4, width=32, neck_features=64, dense_features=128),
    "CHORD": lambda: ChordLiResNet(depth=4, width=32, dense_features=128, dense_depth=8),
    "LipNeXt": lambda: LipNext(depth=4, width=64, neck_features=32, dense_features=128),
    "convolutions": lambda: _net(lambda: layers.Conv(_WIDTH, 3), lambda: layers.Dense(256)),
    "orthonormal": lambda: _net(
        lambda: layers.OrthogonalPatches(_WIDTH, 1, use_bias=True),
        lambda: layers.OrthogonalDense(256),
    ),
    "AOL": lambda: _net(lambda: layers.AolConv(_WIDTH, 3), lambda: layers.AolDense(256)),
    "CPL": lambda: _net(layers.CplConv, layers.CplDense),
    "BRO": lambda: _net(layers.BroConv, layers.BroDense),
}


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
    model = FAMILIES[name]()
    try:
        gj.training.fit(model, data, config, run=run, session=session)
    except FloatingPointError as error:
        return {**row, "is_collapsed": True, "why": str(error)}
    split = data.validation
    net = model if isinstance(model, gj.GloroNet) else model.build()
    report = gj.evaluation.verified_robust_accuracy(
        gj.load(run, checkpoint="last", net=net), [(split.images, split.labels)], epsilon=EPSILON
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
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    options = parser.parse_args()
    scratch = options.scratch
    data = gj.data.open_data(gj.data.DataConfig("cifar10", validation=0.05))
    data = first_of(data, IMAGES)
    rows = others("stability", key="runs", field="model", named=options.families)
    for name, compute, seed in itertools.product(options.families, COMPUTE, SEEDS):
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
