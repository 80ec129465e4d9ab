"""Voting, mean scores and cascades of three 2C2F networks on MNIST at l2 1.58, and the attack.

"in turn": each member is trained on the images that the members before it do not both classify
correctly and certify, as published cascades are. "apart": members differ in their seed alone.
Weights of voting are learnt on the training split. Each cascade is attacked on 1,000 test images
drawn with a fixed seed: what it calls correct and certified, and what of that falls within 1.58.

Command: python -m experiments.rows.ensembles (about 15 minutes on 2 CPU cores; finished runs in
--scratch are not repeated; MNIST must have been prepared: docs/data.md).
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import gloro_jax as gj
from experiments.rows import save
from gloro_jax.data import Dataset, Split
from gloro_jax.models import gloro_2c2f

EPSILON, MEMBERS, EPOCHS, ATTACKED = 1.58, 3, 6, 1000


def trained(folder: Path, data: Dataset, seed: int) -> gj.FrozenNet:
    """A member, from its run folder if it is there already."""
    config = gj.training.TrainConfig(
        epsilon=EPSILON,
        epochs=EPOCHS,
        batch_size=256,
        epsilon_schedule="[0.1]-[50%:1.1]",
        seed=seed,
    )
    if not (folder / "summary.json").is_file():
        session = gj.training.Session(is_resuming=True)
        gj.training.fit(gloro_2c2f(), data, config, run=folder, session=session)
    return gj.load(folder)


def in_turn(scratch: Path, data: Dataset) -> list[gj.FrozenNet]:
    """Members that are trained on what those before them leave open."""
    members: list[gj.FrozenNet] = []
    left = np.ones(len(data.train), bool)
    for stage in range(MEMBERS):
        part = Split(np.asarray(data.train.images)[left], data.train.labels[left])
        rest = dataclasses.replace(data, name=f"MNIST, left at {stage}", train=part, origin=None)
        members.append(trained(scratch / f"turn{stage}", rest, seed=stage))
        report = gj.evaluation.verified_robust_accuracy(
            members[-1], [(data.train.images, data.train.labels)], epsilon=EPSILON
        )
        left &= ~(report.is_correct & report.is_certified)
    return members


def figures(one: Any, split: Split) -> dict[str, float]:
    report = gj.evaluation.verified_robust_accuracy(
        one, [(split.images, split.labels)], epsilon=EPSILON
    )
    return {"clean": report.clean_accuracy, "vra": report.vra}


def row_of(members: list[gj.FrozenNet], data: Dataset) -> dict[str, Any]:
    weights = gj.ensembles.learn_weights(
        members, np.asarray(data.train.images), data.train.labels, epsilon=EPSILON
    )
    found = {f"member {i}": figures(one, data.test) for i, one in enumerate(members)}
    found["voting, equal"] = figures(gj.ensembles.Voting(members), data.test)
    learnt = gj.ensembles.Voting(members, weights)
    found["voting, learnt"] = {**figures(learnt, data.test), "weights": weights.tolist()}
    found["mean scores"] = figures(gj.ensembles.SoftVoting(members), data.test)
    chosen = np.random.default_rng(0).permutation(len(data.test))[:ATTACKED]
    attack = gj.ensembles.attack_cascade(
        gj.ensembles.Cascade(members),
        np.asarray(data.test.images)[chosen],
        data.test.labels[chosen],
        epsilon=EPSILON,
    )
    found["cascade"] = {
        "clean": float(attack.is_correct.mean()),
        "claimed": attack.claimed_vra,
        "left": attack.vra_left,
        "share_fallen": attack.share_fallen,
        "examples": ATTACKED,
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, default=Path("scratch/ensembles"))
    scratch = parser.parse_args().scratch
    data = gj.data.open_data(gj.data.DataConfig("mnist", validation=1 / 12))
    apart = [trained(scratch / f"apart{seed}", data, seed) for seed in range(MEMBERS)]
    row = {"epsilon": EPSILON, "epochs": EPOCHS, "count": len(data.test)}
    row |= {"in turn": row_of(in_turn(scratch, data), data), "apart": row_of(apart, data)}
    save("ensembles", row, command="python -m experiments.rows.ensembles")


if __name__ == "__main__":
    main()
