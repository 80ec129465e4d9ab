"""Batches: shuffled and whole to train, in order and padded to evaluate."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gloro_jax.data.sources import Split


class Batch(NamedTuple):
    """One batch of equal-sized arrays.

    Attributes:
        images: (batch, H, W, C), uint8 or float32.
        labels: (batch,).
        is_real: (batch,), False where an example only fills the batch up.
    """

    images: Any
    labels: Any
    is_real: Any


def training_batches(split: Split, *, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """One epoch of full batches in an order that depends on `seed` and `epoch` alone.

    The last, smaller batch is left out; another one is in the next epoch's order.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    for start in range(0, len(split) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield Batch(split.images[chosen], split.labels[chosen], np.ones(batch_size, bool))


def evaluation_batches(split: Split, *, batch_size: int) -> Iterator[Batch]:
    """The whole split in order; the last batch is padded and marked in `is_real`."""
    for start in range(0, len(split), batch_size):
        stop = start + batch_size
        yield padded(split.images[start:stop], split.labels[start:stop], batch_size)


def padded(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Batch:
    """A batch of `batch_size`, filled up by repeating the first example."""
    missing = batch_size - len(images)
    fill = np.zeros(missing, int)
    return Batch(
        np.concatenate([images, images[fill]]),
        np.concatenate([labels, labels[fill]]),
        np.arange(batch_size) < len(images),
    )


def as_float(images: Any) -> Any:
    """Images as float32 in [0, 1]; uint8 is divided by 255."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


def rebatched(pairs: Iterable[tuple[Any, Any]], *, batch_size: int | None) -> Iterator[Batch]:
    """Batches of one size from (images, labels) of any sizes, so that one program serves all.

    Args:
        pairs: batches, the last perhaps smaller; none larger than the first unless `batch_size`
            is given.
        batch_size: the size to pad to; None takes the first batch's.
    """
    for images, labels in pairs:
        batch_size = batch_size or len(images)
        for start in range(0, len(images), batch_size):
            stop = start + batch_size
            yield padded(images[start:stop], labels[start:stop], batch_size)
