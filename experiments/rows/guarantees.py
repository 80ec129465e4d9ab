"""Strict, top-2 to top-5 and affinity certificates of trained networks, and an attack on the sets.

CIFAR-10: experiments/zoo/cifar10_liresnet_small, l2 36/255; its affinity sets are the vehicles
(airplane, automobile, ship, truck) and the animals. CIFAR-100:
experiments/zoo/cifar100_liresnet_small, and its 20 superclasses. The sets of 2,000 certified points
of CIFAR-10 and of 8,000 of MNIST (experiments/zoo/mnist_liresnet_small) are attacked at 0.999 of
their certified radius.

Command: python -m experiments.rows.guarantees (about 15 minutes on 2 CPU cores; the data sets must
have been prepared: docs/data.md).
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import gloro_jax as gj
from experiments.rows import save
from gloro_jax import guarantees
from gloro_jax.plain import in_words

ZOO = Path(__file__).parent.parent / "zoo"
EPSILON, STEPS, TARGETS = 36 / 255, 8, 2
VEHICLES_AND_ANIMALS = "[0,1,8,9][2,3,4,5,6,7]"


def certified(frozen: Any, split: Any, word: str) -> Any:
    batches = [(split.images, split.labels)]
    return gj.evaluation.verified_robust_accuracy(
        frozen, batches, epsilon=EPSILON, guarantee=guarantees.parse(word)
    )


def figures(frozen: Any, split: Any, affinity: str) -> dict[str, Any]:
    rows, clean = {}, 0.0
    x = np.asarray(split.images)
    parts = (x[i : i + 500].astype(np.float32) / 255 for i in range(0, len(x), 500))
    scores = np.concatenate([np.asarray(frozen(part).values) for part in parts])
    order = np.argsort(-scores, axis=1, kind="stable")
    for place, word in enumerate(("strict", "top-2", "top-3", "top-4", "top-5", affinity)):
        report = certified(frozen, split, word)
        clean = report.clean_accuracy
        top = (order[:, : place + 1] == split.labels[:, None]).any(axis=1).mean()
        rows[word] = {
            "vra": report.vra,
            "rejected": report.rejection_rate,
            "top_k": None if word == affinity else float(top),
            "sizes": np.bincount(report.k[report.is_certified]).tolist(),
        }
        print(word, rows[word], flush=True)
    return {
        "count": len(split),
        "radius": in_words(EPSILON),
        "clean": clean,
        "guarantees": rows,
    }


def attacked(frozen: Any, split: Any, count: int) -> tuple[int, int]:
    """Tries to change certified sets of up to three classes: how many points, and successes."""
    report = certified(frozen, split, "top-3")
    held = np.flatnonzero(report.is_certified)[:count]
    found = gj.evaluation.attack(
        frozen,
        np.asarray(split.images)[held],
        radii=0.999 * report.radii[held],
        sets=report.sets[held],
        steps=STEPS,
        restarts=1,
        targets=TARGETS,
    )
    return len(held), found.successes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    data = gj.data.open_data(gj.data.DataConfig("cifar10", validation=0.05))
    fine = gj.data.open_data(gj.data.DataConfig("cifar100", validation=0.05))
    frozen, finer = (
        gj.load(ZOO / "cifar10_liresnet_small"),
        gj.load(ZOO / "cifar100_liresnet_small"),
    )
    networks = {
        "CIFAR-10": figures(frozen, data.test, VEHICLES_AND_ANIMALS),
        "CIFAR-100": figures(finer, fine.test, "cifar100-superclasses"),
    }
    start = time.perf_counter()
    mnist = gj.data.open_data(gj.data.DataConfig("mnist", validation=1 / 12)).test
    parts = [attacked(frozen, data.test, 2000)]
    parts.append(attacked(gj.load(ZOO / "mnist_liresnet_small"), mnist, 8000))
    points, successes = (sum(column) for column in zip(*parts, strict=True))
    attack = {"points": points, "successes": successes, "steps": STEPS, "targets": TARGETS}
    row = {"networks": networks, "attack": attack}
    print(f"attack: {time.perf_counter() - start:.0f} s", flush=True)
    save("guarantees", row, command="python -m experiments.rows.guarantees")


if __name__ == "__main__":
    main()
