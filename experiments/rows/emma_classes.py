"""EMMA, GloRo cross-entropy and TRADES on the first 2, 5 and 10 classes of CIFAR-10, l2 36/255.

Hu et al. 2023 introduce EMMA for many classes, where the class that threatens most keeps
changing. Here each loss gets the same small LiResNet with CHORD layers, the same number of steps,
learning rate, radius schedule and seeds, whatever the number of classes; TRADES has the weight 1 of
the authors' code. Nothing is tuned per loss. The best epoch by validation is certified on the
test images of those classes.

Command: python -m experiments.rows.emma_classes (about 30 minutes on 2 CPU cores; finished runs in
--scratch are not repeated; CIFAR-10 must have been prepared: docs/data.md).
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
from experiments.rows.digits_losses import paired
from gloro_jax.data import Augmentation, Dataset, Split
from gloro_jax.models import ChordLiResNet
from gloro_jax.runs import read_config

LOSSES = ("emma", "gloro_cross_entropy", "trades_kl")
CLASSES = (2, 5, 10)
SEEDS = (0, 1)
EPSILON = 36 / 255
EPOCHS_TIMES_CLASSES = 40  # the same number of steps for all


def model(classes: int) -> ChordLiResNet:
    return ChordLiResNet(
        depth=2,
        width=32,
        num_classes=classes,
        neck_features=64,
        is_neck_activated=True,
        dense_features=128,
        dense_depth=2,
    )


def training(loss: Any, classes: int, seed: int) -> gj.training.TrainConfig:
    return gj.training.TrainConfig(
        epsilon=EPSILON,
        epochs=EPOCHS_TIMES_CLASSES // classes,
        loss=loss,
        augmentation=Augmentation(crop=2, is_flipping=True),
        seed=seed,
    )


def restricted(data: Dataset, classes: int) -> Dataset:
    """The images of the first classes."""

    def kept(split: Split) -> Split:
        chosen = split.labels < classes
        return Split(split.images[chosen], split.labels[chosen])

    return dataclasses.replace(
        data,
        name=f"{data.name}, {classes} classes",
        train=kept(data.train),
        validation=kept(data.validation),
        test=kept(data.test),
        num_classes=classes,
        class_names=data.class_names[:classes],
        origin=None,
    )


def report_of(scratch: Path, data: Dataset, loss: str, classes: int, seed: int) -> Any:
    """Trains unless the run is there already, and certifies its best epoch on test images."""
    config, run = training(loss, classes, seed), scratch / f"{loss}-{classes}-{seed}"
    part = restricted(data, classes)
    session = gj.training.Session(is_resuming=True)
    if not (run / "summary.json").is_file():
        gj.training.fit(model(classes), part, config, run=run, session=session)
    if read_config(run)["training"] != dataclasses.asdict(config):
        raise ValueError(f"{run} was trained otherwise: use a fresh --scratch folder.")
    return gj.evaluation.verified_robust_accuracy(
        gj.load(run), [(part.test.images, part.test.labels)], epsilon=EPSILON
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, default=Path("scratch/emma_classes"))
    scratch = parser.parse_args().scratch
    data = gj.data.open_data(gj.data.DataConfig("cifar10", validation=0.05))
    row: dict[str, Any] = {"epsilon": EPSILON, "seeds": SEEDS, "classes": {}}
    for classes in CLASSES:
        held, found = {}, {}
        for loss in LOSSES:
            reports = [report_of(scratch, data, loss, classes, seed) for seed in SEEDS]
            held[loss] = np.stack([r.is_correct & r.is_certified for r in reports])
            found[loss] = {
                "clean": [r.clean_accuracy for r in reports],
                "vra": [r.vra for r in reports],
            }
            print(classes, loss, json.dumps(found[loss]), flush=True)
        pairs = itertools.product(LOSSES[:1], LOSSES[1:])
        row["classes"][classes] = {
            "count": held[LOSSES[0]].shape[1],
            "losses": found,
            "differences": {f"{a} - {b}": paired(held[a], held[b]) for a, b in pairs},
        }
    row["model"] = gj.models.as_plain(model(10))
    row["training"] = dataclasses.asdict(training("emma", 10, 0))
    save("emma_classes", row, command="python -m experiments.rows.emma_classes")


if __name__ == "__main__":
    main()
