"""EMMA, GloRo cross-entropy and TRADES with 2, 5, 10 and 100 classes of CIFAR, l2 36/255.

Hu et al. 2023 introduce EMMA for many classes, where the class that threatens most keeps
changing. Here each loss gets the same small LiResNet with CHORD layers, learning rate, radius
schedule and seeds, and the same number of steps for the first 2, 5 and all classes of CIFAR-10, two
and a half times as many for CIFAR-100; TRADES has the weight 1 of the authors' code. Nothing is
tuned per loss. The best epoch by validation is certified on the test images of those classes.

Command: python -m experiments.rows.emma_classes [cifar10] [cifar100] (about 30 and 40 minutes on 2
CPU cores; finished runs in --scratch are not repeated, and the rows of the other set are kept; the
sets must have been prepared: docs/data.md).
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

import gloro_jax as gj
from experiments.rows import RESULTS, save
from experiments.rows.digits_losses import paired
from gloro_jax.data import Augmentation, Dataset, Split
from gloro_jax.models import ChordLiResNet
from gloro_jax.runs import read_config

LOSSES = ("emma", "gloro_cross_entropy", "trades_kl")
EPSILON = 36 / 255
RESULT = RESULTS / "emma_classes.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The classes to take of a set, epochs for each of these, and seeds."""

    classes: tuple[int, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]


PLANS = {
    "cifar10": Plan((2, 5, 10), (20, 8, 4), (0, 1)),  # the same number of steps
    "cifar100": Plan((100,), (10,), (0, 1, 2)),
}


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


def training(loss: Any, epochs: int, seed: int) -> gj.training.TrainConfig:
    return gj.training.TrainConfig(
        epsilon=EPSILON,
        epochs=epochs,
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


def report_of(run: Path, part: Dataset, config: gj.training.TrainConfig) -> Any:
    """Trains unless the run is there already, and certifies its best epoch on test images."""
    session = gj.training.Session(is_resuming=True)
    if not (run / "summary.json").is_file():
        gj.training.fit(model(part.num_classes), part, config, run=run, session=session)
    if read_config(run)["training"] != dataclasses.asdict(config):
        raise ValueError(f"{run} was trained otherwise: use a fresh --scratch folder.")
    return gj.evaluation.verified_robust_accuracy(
        gj.load(run), [(part.test.images, part.test.labels)], epsilon=EPSILON
    )


def compared(part: Dataset, epochs: int, seeds: tuple[int, ...], scratch: Path) -> dict[str, Any]:
    """The losses side by side on one set."""
    held, found = {}, {}
    for loss in LOSSES:
        reports = [
            report_of(
                scratch / f"{loss}-{part.num_classes}-{seed}", part, training(loss, epochs, seed)
            )
            for seed in seeds
        ]
        held[loss] = np.stack([r.is_correct & r.is_certified for r in reports])
        found[loss] = {
            "clean": [r.clean_accuracy for r in reports],
            "vra": [r.vra for r in reports],
        }
        print(part.num_classes, loss, json.dumps(found[loss]), flush=True)
    pairs = itertools.product(LOSSES[:1], LOSSES[1:])
    return {
        "count": held[LOSSES[0]].shape[1],
        "epochs": epochs,
        "losses": found,
        "differences": {f"{a} - {b}": paired(held[a], held[b]) for a, b in pairs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", choices=list(PLANS), default=list(PLANS), metavar="SET")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/emma_classes"))
    options = parser.parse_args()
    row: dict[str, Any] = {"epsilon": EPSILON, "classes": {}}
    if RESULT.is_file():
        row["classes"] = json.loads(RESULT.read_text())["classes"]
    for name in options.sets:
        data, plan = gj.data.open_data(gj.data.DataConfig(name, validation=0.05)), PLANS[name]
        for classes, epochs in zip(plan.classes, plan.epochs, strict=True):
            part = restricted(data, classes)
            row["classes"][str(classes)] = compared(part, epochs, plan.seeds, options.scratch)
    row["model"] = gj.models.as_plain(model(10))
    row["training"] = dataclasses.asdict(training("emma", 4, 0))
    save(RESULT.stem, row, command="python -m experiments.rows.emma_classes")


if __name__ == "__main__":
    main()
