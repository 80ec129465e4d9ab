"""Batches: shuffled and whole to train, in order and padded to evaluate."""

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gloro_jax.data.dataset import Extra, Split
from gloro_jax.data.photographs.pictures import Pictures

_ALL = slice(None)
_EXTRA_STREAM = 1  # beside the order of the examples
_LARGEST_BATCH = 512  # of evaluation: activations of larger ones fill the memory for nothing


class Batch(NamedTuple):
    """One batch of equal-sized arrays.

    Attributes:
        images: (batch, H, W, C), uint8 or float32.
        labels: (batch,).
        is_real: (batch,), False where an example only fills the batch up.
        index: (batch,), which example of its split each is; augmentation depends on it.
    """

    images: Any
    labels: Any
    is_real: Any
    index: Any


def training_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    skip: int = 0,
    rows: slice = _ALL,
    area: float = 1.0,
    extra: Extra | None = None,
) -> Iterator[Batch]:
    """One epoch of full batches in an order that depends on `seed` and `epoch` alone.

    The last, smaller batch is left out; another one is in the next epoch's order. With extra
    images an epoch has as many batches as without, and sees a part of the examples.

    Args:
        split: the examples.
        batch_size: examples per batch.
        seed: of the order.
        epoch: which epoch's order.
        skip: batches already done, when a run is resumed.
        rows: of each batch, where several processes share it; the batches are the same.
        area: of photographs on disk, cut parts at random that cover at least this share of each;
            1 for the square in the middle.
        extra: more images, of which each batch takes a share; their numbers follow the split's.

    Photographs on disk are decoded while the step before is under way.
    """
    chosen = _order(split, extra, batch_size=batch_size, seed=seed, epoch=epoch, skip=skip)

    def look(source: Split, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pictures = source.images
        if isinstance(pictures, Pictures) and area < 1:
            images = pictures.random_crops(which, area=area, seed=seed, epoch=epoch)
        else:
            images = pictures[which]
        return images, source.labels[which]

    def batches() -> Iterator[Batch]:
        for whole in chosen:
            mine = whole[rows]
            is_own = mine < len(split)
            images, labels = look(split, mine[is_own])
            if extra is not None:
                more, theirs = look(extra.images, mine[~is_own] - len(split))
                images, labels = np.concatenate([images, more]), np.concatenate([labels, theirs])
            yield Batch(images, labels, np.ones(len(mine), bool), mine)

    yield from _ahead(batches()) if isinstance(split.images, Pictures) else batches()


def _order(
    split: Split, extra: Extra | None, *, batch_size: int, seed: int, epoch: int, skip: int
) -> Iterator[np.ndarray]:
    """The numbers of each batch: of the split, and after them those of extra images."""
    order = np.random.default_rng((seed, epoch)).permutation(len(split)).astype(np.int32)
    steps, taken = len(split) // batch_size, 0
    others = np.zeros(0, np.int32)
    if extra is not None and batch_size > 1:
        taken = min(max(1, round(extra.share * batch_size)), batch_size - 1)
        rng, count = np.random.default_rng((seed, epoch, _EXTRA_STREAM)), len(extra.images)
        rounds = -(-steps * taken // count)  # as often as each has to be seen
        several = [rng.permutation(count) for _ in range(rounds)]
        others = (len(split) + np.concatenate(several)).astype(np.int32)
    own = batch_size - taken
    for step in range(skip, steps):
        mine, more = order[step * own : (step + 1) * own], others[step * taken : (step + 1) * taken]
        yield np.concatenate([mine, more])


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, the next two of them under way in a thread."""
    with concurrent.futures.ThreadPoolExecutor(1, "next batch") as pool:
        pending = collections.deque(pool.submit(next, batches, None) for _ in range(2))
        while (batch := pending.popleft().result()) is not None:
            pending.append(pool.submit(next, batches, None))
            yield batch


def evaluation_batches(split: Split, *, batch_size: int, rows: slice = _ALL) -> Iterator[Batch]:
    """The whole split in order; the last batch is padded and marked in `is_real`.

    Args:
        split: the examples.
        batch_size: examples per batch.
        rows: of each batch, where several processes share it.
    """
    for start in range(0, len(split), batch_size):
        stop = start + batch_size
        batch = padded(split.images[start:stop], split.labels[start:stop], batch_size, start)
        yield Batch(*(array[rows] for array in batch))


def padded(images: np.ndarray, labels: np.ndarray, batch_size: int, start: int) -> Batch:
    """A batch of `batch_size`, filled up by repeating the first example; `start` is its index."""
    missing = batch_size - len(images)
    chosen = np.concatenate([np.arange(len(images)), np.zeros(missing, int)])
    is_real = np.arange(batch_size) < len(images)
    return Batch(images[chosen], labels[chosen], is_real, (start + chosen).astype(np.int32))


def as_float(images: Any) -> Any:
    """Images as float32 in [0, 1]; uint8 is divided by 255."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


def rebatched(pairs: Iterable[tuple[Any, Any]]) -> Iterator[Batch]:
    """Batches of one size from (images, labels) of any sizes, so that one program serves all.

    Args:
        pairs: batches of any sizes; the first sets the size, up to 512.
    """
    size, start = None, 0
    for images, labels in pairs:
        size = size or min(len(images), _LARGEST_BATCH)
        for first in range(0, len(images), size):
            last = first + size
            yield padded(images[first:last], labels[first:last], size, start + first)
        start += len(images)
