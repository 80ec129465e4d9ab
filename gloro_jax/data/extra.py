"""Extra training images, generated ones say, that every batch takes a share of.

They are training images only: what is an exact copy of a validation or a test image is left out, so
that nothing that is judged has been learnt by heart.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from gloro_jax.data.dataset import Dataset, Extra, Split
from gloro_jax.data.photographs.pictures import Pictures


def with_extra(data: Dataset, images: Split, *, share: float) -> Dataset:
    """`data` with extra training images, of which each batch takes `share`.

    Args:
        data: the data set.
        images: more images of its classes, of its shape and type.
        share: of each batch; 3/4 are three extra images for one of the set's own.

    Raises:
        ValueError: if shapes, types or labels do not fit, the share is not between 0 and 1, or
            none of the images is left when copies of held-out ones are gone.
    """
    if not 0 < share < 1:
        raise ValueError(f"extra_share is a share of each batch between 0 and 1, got {share}.")
    own = data.train.images
    if images.images.shape[1:] != data.input_shape or images.images.dtype != own.dtype:
        raise ValueError(
            f"Extra images are like those of {data.name}, {data.input_shape} of type {own.dtype}; "
            f"got {tuple(images.images.shape[1:])} of type {images.images.dtype}."
        )
    if isinstance(own, Pictures) != isinstance(images.images, Pictures):
        raise ValueError(
            "Extra images are held in memory or read from disk like those of the set itself: "
            "prepare both with --shorter-side, or neither."
        )
    if images.labels.max() >= data.num_classes:
        raise ValueError(
            f"Extra images have labels up to {images.labels.max()}, and {data.name} has "
            f"{data.num_classes} classes: they are of the same classes, in the same order."
        )
    judged = {key for split in (data.validation, data.test) for key in keys(split)}
    is_new = np.array([key not in judged for key in keys(images)], bool)
    if not is_new.any():
        raise ValueError("Every extra image is a copy of one that is held out: nothing is left.")
    kept = images if is_new.all() else _only(images, is_new)
    return dataclasses.replace(data, extra=Extra(kept, share, int((~is_new).sum())))


def _only(split: Split, is_kept: np.ndarray) -> Split:
    images = split.images
    chosen = images.only(is_kept) if isinstance(images, Pictures) else images[is_kept]
    return Split(chosen, split.labels[is_kept])


def keys(split: Split) -> Iterator[bytes]:
    """What two images have in common if and only if they are equal, byte for byte."""
    if isinstance(split.images, Pictures):
        yield from split.images.keys()
        return
    for image in split.images:
        yield hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
