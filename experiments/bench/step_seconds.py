"""The budget of a recipe: seconds a step of its very program, on an idle machine.

Takes the recipe's own step for three times --seconds after a warm-up, and gives the median; that
times all steps of the recipe is what its training costs, validation and freezing apart, whatever
else the machine did while it ran. The figure is put into the recipe's row.

Command: python -m experiments.bench.step_seconds NAME...
(about four minutes each; the sets must have been prepared, and nothing else may run)
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import gloro_jax as gj
from gloro_jax.data import training_batches
from gloro_jax.platforms import one_blas_thread
from gloro_jax.recipes import RECIPES
from gloro_jax.recipes.recipe import Recipe
from gloro_jax.training import data_parallel
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.state import initial_state
from gloro_jax.training.step import make_train_step

RESULTS = Path(__file__).parent.parent / "results" / "recipes.json"


def seconds_a_step(recipe: Recipe, *, seconds: float, parts: int = 3) -> dict[str, Any]:
    """Seconds a step, the median of the parts, and what all steps of the recipe take."""
    data = gj.data.open_data(recipe.data)
    config = recipe.training
    net, steps = recipe.model.build(), len(data.train) // config.batch_size
    optimizer = make_optimizer(config, steps_per_epoch=steps)
    step = make_train_step(net, config, optimizer, steps_per_epoch=steps)
    with one_blas_thread():
        run = data_parallel(step)
        state = initial_state(net, optimizer, seed=config.seed, input_shape=data.input_shape)
        size = config.batch_size
        batch = next(iter(training_batches(data.train, batch_size=size, seed=0, epoch=1)))
        found = []
        for limit in (seconds / 4, *[seconds] * parts):
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < limit:
                state, sums = run(state, batch)
                jax.block_until_ready(sums)
                count += 1
            found.append((time.perf_counter() - start) / count)
    median, steps = float(np.median(found[1:])), config.epochs * steps
    return {
        "seconds": median,
        "spread": [min(found[1:]), max(found[1:])],
        "steps": steps,
        "minutes": steps * median / 60,
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of three parts")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in options.names:
        found = seconds_a_step(RECIPES[name](), seconds=options.seconds)
        rows.setdefault(name, {})["step"] = found
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
