"""Feeding a training step: gathering batches, augmenting them, and what a CIFAR-10 step waits for.

Command: python -m experiments.bench.data
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gloro_jax.data import Augmentation, Batch, Split, training_batches
from gloro_jax.data.augment import augmented
from gloro_jax.platforms import jit
from gloro_jax.recipes import cifar10_6c2f
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.scaling import parallel
from gloro_jax.training.state import initial_state
from gloro_jax.training.step import make_train_step

BATCH, SHAPE, EXAMPLES, STEPS = 256, (32, 32, 3), 50_000, 12


def split() -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, *SHAPE)).astype(np.uint8)
    return Split(images, rng.integers(0, 10, EXAMPLES))


def images_per_second(consume: Callable[[int, Batch], Any], source: Split, *, epoch: int) -> float:
    start, seen = time.perf_counter(), 0
    batches = training_batches(source, batch_size=BATCH, seed=0, epoch=epoch)
    for step, batch in enumerate(batches):
        jax.block_until_ready(consume(step, batch))
        seen += BATCH
        if time.perf_counter() - start > 3:
            break
    return seen / (time.perf_counter() - start)


def gather_and(config: Augmentation) -> Callable[[int, Batch], Any]:
    @jit
    def run(images: Any, index: Any, step: Any) -> Any:
        return augmented(images, index, config=config, key=jax.random.key(0), step=step)

    return lambda step, batch: run(batch.images, batch.index, step)


def waiting_share(source: Split) -> tuple[float, float]:
    """Median share of a CIFAR-10 6C2F step spent waiting for its batch, and the step's seconds."""
    recipe = cifar10_6c2f()
    net, config = recipe.model.build(), recipe.training
    optimizer = make_optimizer(config, steps_per_epoch=EXAMPLES // BATCH)
    step = make_train_step(net, config, optimizer, steps_per_epoch=EXAMPLES // BATCH)
    run = parallel.data_parallel(step, devices=jax.devices()[:1])
    state = initial_state(net, optimizer, seed=0, input_shape=SHAPE)
    batches = training_batches(source, batch_size=BATCH, seed=0, epoch=1)
    waits, steps = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter()
        state, sums = run(state, batch)
        jax.block_until_ready((state, sums))
        waits.append(waited - start)
        steps.append(time.perf_counter() - start)
    return float(np.median(waits[2:]) / np.median(steps[2:])), float(np.median(steps[2:]))


def main() -> None:
    source = split()
    print(f"JAX {jax.__version__}, batches of {BATCH}, {SHAPE}, images per second")
    rows = {
        "gather": lambda step, batch: batch.images,
        "gather, crop, flip": gather_and(Augmentation(crop=4, is_flipping=True)),
        "gather, crop, flip, 2 operations": gather_and(Augmentation(4, True, 2)),
    }
    for name, consume in rows.items():
        images_per_second(consume, source, epoch=1)  # compiles
        print(f"{name:<34}{images_per_second(consume, source, epoch=2):>12,.0f}")
    share, seconds = waiting_share(source)
    print(f"cifar10_6c2f: waits for data {100 * share:.2f} % of a step of {seconds:.3f} s")


if __name__ == "__main__":
    main()
