"""A training step of a LipNeXt against that of the LiResNet of as many parameters.

Both in the recipe cifar10_liresnet_small: the same images, batch, loss and optimiser (orthogonal
matrices turn on their manifold). Twelve blocks of 128 channels have 1.5 % fewer parameters.

Command: python -m experiments.bench.lipnext
(four minutes on an idle machine; CIFAR-10 must have been prepared: docs/data.md)
"""

import argparse
import dataclasses
import json
from typing import Any

import jax
import numpy as np

from experiments.bench.step_seconds import seconds_a_step
from experiments.rows import save
from gloro_jax.models import LipNext
from gloro_jax.recipes import RECIPES
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.state import initial_state


def parameters(recipe: Any) -> int:
    """Trainable numbers."""
    optimizer = make_optimizer(recipe.training, steps_per_epoch=1)
    net, shape = recipe.model.build(), recipe.input_shape
    state = jax.eval_shape(lambda: initial_state(net, optimizer, seed=0, input_shape=shape))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of three parts")
    seconds = parser.parse_args().seconds
    liresnet = RECIPES["cifar10_liresnet_small"]()
    model = LipNext(depth=12, width=128, neck_features=64, views=liresnet.model.views)
    recipes = {"LiResNet": liresnet, "LipNeXt": dataclasses.replace(liresnet, model=model)}
    rows = {}
    for name, recipe in recipes.items():
        found = seconds_a_step(recipe, seconds=seconds)
        rows[name] = {
            "parameters": parameters(recipe),
            "batch": recipe.training.batch_size,
            **{key: found[key] for key in ("seconds", "spread", "load_before")},
        }
        print(name, json.dumps(rows[name]), flush=True)
    ratio = rows["LipNeXt"]["seconds"] / rows["LiResNet"]["seconds"]
    save("lipnext", {"steps": rows, "ratio": ratio}, command="python -m experiments.bench.lipnext")


if __name__ == "__main__":
    main()
