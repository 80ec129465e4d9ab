"""A training step of 4C3F: what power iteration costs, and what the CPU compiler option gains.

Command: python -m experiments.bench.training
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np

import gloro_jax as gj
from gloro_jax.data import Batch
from gloro_jax.models import gloro_4c3f
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.scaling import parallel
from gloro_jax.training.state import initial_state
from gloro_jax.training.step import make_train_step

BATCH, STEPS, SHAPE = 256, 8, (28, 28, 1)
CONFIG = gj.training.TrainConfig(epsilon=1.58, epochs=1, batch_size=BATCH)


def step_seconds(config: gj.training.TrainConfig) -> float:
    """Median time of one step on one device."""
    net = gloro_4c3f().build()
    optimizer = make_optimizer(config, steps_per_epoch=100)
    step = make_train_step(net, config, optimizer, steps_per_epoch=100)
    run = parallel.data_parallel(step, devices=jax.devices()[:1])
    state = initial_state(net, optimizer, seed=0, input_shape=SHAPE)
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(BATCH, *SHAPE)).astype(np.float32)
    batch = Batch(images, rng.integers(0, 10, BATCH), np.ones(BATCH, bool), np.arange(BATCH))
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        state, sums = run(state, batch)
        jax.block_until_ready((state, sums))
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def without_the_option(config: gj.training.TrainConfig) -> float:
    original: Any = parallel.compiler_options
    parallel.compiler_options = dict
    try:
        return step_seconds(config)
    finally:
        parallel.compiler_options = original


def main() -> None:
    print(f"JAX {jax.__version__}, 4C3F, batch {BATCH}, seconds per step")
    seconds = {}
    for steps in (1, 5, 10):
        seconds[steps] = step_seconds(dataclasses.replace(CONFIG, power_steps=steps))
        print(f"power_steps {steps:>2}: {seconds[steps]:.3f}")
    share = 5 * (seconds[10] - seconds[1]) / 9 / seconds[5]
    print(f"five rounds of power iteration: {100 * share:.1f} % of a step")
    print(f"power_steps  5, XLA's default convolutions: {without_the_option(CONFIG):.3f}")


if __name__ == "__main__":
    main()
