"""What each part of a recipe brings: variants of it, each with one thing changed, side by side.

All variants of a sweep train for the same number of epochs from the same seed, with a part of the
training images held out, and are certified on those; the test images are not looked at. The
difference to the unchanged recipe comes with a 95 % interval over the held-out images. It leaves
out what another seed would change: the variants named "seed" say how much that is.

On an accelerator a variant trains for 10 to 15 epochs with a fifth held out; with --small, which is
for CPUs, for 8 epochs of 20,000 images with a tenth held out, in rows of their own.

Workers share one device. Finished variants in --runs are not trained again, and the results are
written anew from all that are finished, so that a sweep may be stopped and taken up.

Command: python -m experiments.rows.sweeps SWEEP... --runs DIR [--small] [--data FILE.npz]
(minutes on one H200 with --workers 8; about 7 minutes a variant on 2 CPU cores with --small; the
sets must have been prepared: docs/data.md, or --data names an .npz file of the same images).
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import gloro_jax as gj
from experiments.rows import first_of, save
from experiments.rows.digits_losses import paired
from gloro_jax.models import LipNext, LiResNet
from gloro_jax.recipes import RECIPES
from gloro_jax.recipes.recipe import Recipe

Change = dict[str, Any]
Budget = Literal["short", "small", "full"]
_SMALL_EPOCHS, _SMALL_IMAGES = 8, 20_000


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Variants of a recipe: by name, what each changes ("training.epochs": 20)."""

    recipe: str
    epochs: int
    variants: dict[str, Change]
    common: Change = dataclasses.field(default_factory=dict)


def _radius(factor: float) -> Change:
    return {"training.epsilon_schedule": f"[0.1]-[50%:{factor}]"}


_LIRESNET: dict[str, Change] = {
    "unchanged": {},
    "seed 1": {"training.seed": 1},
    "radius up to 1.0": _radius(1),
    "radius up to 2.0": _radius(2),
    "learning rate 0.001": {"training.learning_rate": 1e-3},
    "learning rate 0.004": {"training.learning_rate": 4e-3},
    "Muon": {"training.optimizer": "muon"},
    "Muon, radius up to 2.5": {"training.optimizer": "muon", **_radius(2.5)},
    "weights averaged": {"training.average": 0.999},
    "batch of 128": {"training.batch_size": 128},
    "no augmentation": {"training.augmentation": gj.data.Augmentation()},
    "8 CHORD layers": {"model.dense_depth": 8},
    "512 dense features": {"model.dense_features": 512},
    "blocks not centred": {"model.is_centered": False},
    "no activation in the neck": {"model.is_neck_activated": False},
}
_CIFAR: dict[str, Change] = {
    "radius up to 3.0": _radius(3),
    "Lookahead": {"training.lookahead": 6},
    "crop 4": {"training.augmentation.crop": 4},
    "6 blocks": {"model.depth": 6},
    "width 96": {"model.width": 96},
    "no view": {"model.views": ()},
    "LiResNet of 2023": {"model": LiResNet(depth=4, width=64, dense_features=256)},
    **{
        f"LipNeXt, {depth} blocks of {width}": {
            "model": LipNext(depth=depth, width=width, views=("identity", "mirror"))
        }
        for depth, width in ((8, 128), (16, 128), (8, 256))
    },
    "GloRo cross-entropy": {"training.loss": "gloro_cross_entropy"},
    "TRADES": {"training.loss": "trades_kl"},
    "logit annealing": {"training.loss": "logit_annealing"},
    "CRM": {"training.loss": "crm"},
}
_LOSSES = {"EMMA": "emma", "cross-entropy": "gloro_cross_entropy", "TRADES": "trades_kl"}
SWEEPS = {
    "cifar10_36": Sweep("cifar10_liresnet_small", 15, {**_LIRESNET, **_CIFAR}),
    "mnist_158": Sweep(
        "mnist_liresnet_small",
        10,
        {
            **_LIRESNET,
            "radius up to 1.2": _radius(1.2),
            "width 64": {"model.width": 64},
            "crop 4": {"training.augmentation.crop": 4},
            "neck of 512 channels": {"model.neck_features": 512},
            **{
                f"LipNeXt, {depth} blocks of {width}": {"model": LipNext(depth=depth, width=width)}
                for depth, width in ((8, 64), (8, 128), (16, 128), (8, 256))
            },
            "LipNeXt, 8 CHORD layers": {"model": LipNext(depth=8, width=128, dense_depth=8)},
            "LipNeXt, patches of 4": {"model": LipNext(depth=8, width=256, patch=4)},
        },
        common={"training.epsilon": 1.58, **_radius(1.1)},
    ),
    "cifar100_losses": Sweep(
        "cifar100_liresnet_small",
        12,
        {
            f"{name}, seed {seed}": {"training.loss": loss, "training.seed": seed}
            for name, loss in _LOSSES.items()
            for seed in range(3)
        },
    ),
}


def changed(thing: Any, changes: Change) -> Any:
    """A dataclass with the fields at these dotted paths replaced."""
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        inner = changed(getattr(thing, first), {rest: value}) if rest else value
        thing = dataclasses.replace(thing, **{first: inner})
    return thing


def recipe_of(sweep: Sweep, variant: str, budget: Budget) -> Recipe:
    """The recipe of a variant, or of several at once, "a + b"."""
    changes: dict[Budget, Change] = {
        "short": {"training.epochs": sweep.epochs, "data.validation": 0.2},
        "small": {"training.epochs": _SMALL_EPOCHS, "data.validation": 0.1},
        "full": {},
    }
    recipe = changed(RECIPES[sweep.recipe](), {**sweep.common, **changes[budget]})
    for name in variant.split(" + "):
        recipe = changed(recipe, sweep.variants[name])
    return recipe


def opened(data: gj.data.DataConfig, options: argparse.Namespace) -> gj.data.Dataset:
    """The set, from a file of the same images if there is one; the run's record names the set."""
    if options.data is None:
        found = gj.data.open_data(data)
    else:
        found = gj.data.open_data(dataclasses.replace(data, source=options.data))
        found = dataclasses.replace(found, origin=data)
    return first_of(found, _SMALL_IMAGES) if options.budget == "small" else found


def train(options: argparse.Namespace, sweep: Sweep, runs: Path, claims: Path) -> None:
    """Trains the variants that no other worker has taken, and certifies each on held-out images."""
    data = None
    for name in options.only or sweep.variants:
        run = runs / name.replace(" ", "_")
        try:
            (claims / run.name).mkdir()
        except FileExistsError:
            continue
        if (run / "row.json").is_file():
            continue
        recipe = recipe_of(sweep, name, options.budget)
        data = data or opened(recipe.data, options)
        session = gj.training.Session(is_resuming=True)
        result = gj.training.fit(recipe.model, data, recipe.training, run=run, session=session)
        held = data.validation
        report = gj.evaluation.verified_robust_accuracy(
            result.frozen, [(held.images, held.labels)], epsilon=recipe.training.epsilon
        )
        params = gj.runs.load_variables(run)["params"]
        row = {
            "clean": report.clean_accuracy,
            "vra": report.vra,
            "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(params)),
            "epochs": recipe.training.epochs,
            "held_out": report.count,
            "seconds": result.seconds,
            "device": jax.devices()[0].device_kind,
        }
        np.save(run / "held.npy", report.is_correct & report.is_certified)
        (run / "row.json").write_text(json.dumps(row))
        print(name, json.dumps(row), flush=True)


def in_workers(options: argparse.Namespace, name: str) -> None:
    """Lets processes take the variants of a sweep one by one, and waits for all of them."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with tempfile.TemporaryDirectory() as claims:
        command = [sys.executable, "-m", "experiments.rows.sweeps", *sys.argv[1:]]
        command += ["--of", name, "--claims", claims]
        workers = [subprocess.Popen(command, env=environment) for _ in range(options.workers)]
        for i, worker in enumerate(workers):
            if worker.wait():
                print(f"{name}: worker {i} ended with {worker.returncode}", file=sys.stderr)


def collected(runs: Path, sweep: Sweep) -> dict[str, Any]:
    """The rows of the variants that are finished, and what each differs from the recipe by."""
    done = {n: runs / n.replace(" ", "_") for n in sweep.variants}
    done = {n: run for n, run in done.items() if (run / "row.json").is_file()}
    rows = {n: json.loads((run / "row.json").read_text()) for n, run in done.items()}
    held = {n: np.load(run / "held.npy")[None] for n, run in done.items()}
    for name, row in rows.items():
        if name != "unchanged" and "unchanged" in held:
            row["gain"] = paired(held[name], held["unchanged"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="+", choices=list(SWEEPS), metavar="SWEEP")
    parser.add_argument("--runs", type=Path, required=True, help="a folder for run folders")
    parser.add_argument("--data", help="an .npz file of the set's images")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument(
        "--only", nargs="+", metavar="VARIANT", help="these alone; 'a + b' has both changes"
    )
    parser.add_argument(
        "--small",
        dest="budget",
        action="store_const",
        const="small",
        default="short",
        help=f"{_SMALL_EPOCHS} epochs of {_SMALL_IMAGES:,} images",
    )
    parser.add_argument(
        "--full",
        dest="budget",
        action="store_const",
        const="full",
        help="the recipe's own epochs and held-out share; no row",
    )
    parser.add_argument("--of", help=argparse.SUPPRESS)
    parser.add_argument("--claims", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.runs / options.budget
    if options.of:
        train(options, SWEEPS[options.of], folder / options.of, options.claims)
        return
    for name in options.sweeps:
        in_workers(options, name)
        if options.budget != "full":
            write_row(name, folder / name, options.budget)


def write_row(name: str, runs: Path, budget: Budget) -> None:
    """The row of a sweep, of all its variants that are finished."""
    is_small = budget == "small"
    variants = collected(runs, SWEEPS[name])
    told = {
        "recipe": SWEEPS[name].recipe,
        "epochs": _SMALL_EPOCHS if is_small else SWEEPS[name].epochs,
        "images": _SMALL_IMAGES if is_small else None,
        "held_out": next((row["held_out"] for row in variants.values()), 0),
        "device": next((row["device"] for row in variants.values()), ""),
        "variants": variants,
    }
    words = f"{name} --small" if is_small else name
    row = f"sweep_{name}_small" if is_small else f"sweep_{name}"
    save(row, told, command=f"python -m experiments.rows.sweeps {words}")


if __name__ == "__main__":
    main()
