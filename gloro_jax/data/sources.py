"""Where images come from, and the checks they pass before anything is computed with them."""

import dataclasses
from typing import Any, Literal

import numpy as np

DataName = Literal["digits"]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and labels, checked.

    Attributes:
        images: (n, H, W, C), uint8, or float32 in [0, 1].
        labels: (n,), integers from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        check_images(self.images)
        check_labels(self.labels, count=len(self.images))

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one task: train to learn, validation to choose, test to report.

    Attributes:
        name: what reports call it.
        train: the training split.
        validation: picks epochs and hyperparameters.
        test: looked at last.
        num_classes: labels run from 0 to num_classes - 1.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            split: Split = getattr(self, name)
            if split.images.shape[1:] != self.input_shape:
                raise ValueError(
                    f"Every split has images of one shape: train {self.input_shape}, "
                    f"{name} {split.images.shape[1:]}."
                )
            check_labels(split.labels, count=len(split), num_classes=self.num_classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image, (H, W, C)."""
        return tuple(self.train.images.shape[1:])


def from_arrays(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    validation: float = 0.1,
    seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """A dataset from arrays of one's own; validation is carved out of the training arrays.

    Args:
        train: images (n, H, W, C), uint8 or float32 in [0, 1], and labels (n,).
        test: likewise.
        validation: the share of the training arrays, in every class alike.
        seed: of the choice of validation images.
        name: what reports call it.

    Raises:
        TypeError: if an array has the wrong type.
        ValueError: if shapes, values or labels do not fit; nothing is repaired silently.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation is a share between 0 and 1, got {validation}.")
    images, labels = np.asarray(train[0]), np.asarray(train[1])
    whole, held_out = Split(images, labels), Split(np.asarray(test[0]), np.asarray(test[1]))
    classes = int(max(labels.max(), held_out.labels.max())) + 1
    is_validation = _stratified(whole.labels, share=validation, seed=seed)
    return Dataset(
        name=name,
        train=Split(images[~is_validation], labels[~is_validation]),
        validation=Split(images[is_validation], labels[is_validation]),
        test=held_out,
        num_classes=max(classes, 2),
    )


def digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; nothing is downloaded.

    A fifth is held out for testing and a fifth of the rest for validation, by a fixed seed.
    Pixels 0 to 16 become float32 in [0, 1].
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = (bunch.images[..., None] / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int32)
    is_test = _stratified(labels, share=0.2, seed=0)
    return from_arrays(
        (images[~is_test], labels[~is_test]),
        (images[is_test], labels[is_test]),
        validation=0.2,
        name="digits",
    )


SOURCES = {"digits": digits}


def check_images(images: Any) -> None:
    """Raises a TypeError or a ValueError unless `images` are (n, H, W, C) in [0, 1] or uint8."""
    if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
        raise TypeError(
            "Images are a NumPy array of uint8, or of float32 in [0, 1]; got "
            f"{getattr(images, 'dtype', type(images).__name__)}."
        )
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"Images have shape (n, H, W, C), none of them 0; got {images.shape}.")
    if images.dtype == np.float32:
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise ValueError(
                f"float32 images lie in [0, 1], got values from {low} to {high}. Divide pixels "
                "by 255; put means and deviations into the network with layers.Normalize."
            )


def check_labels(labels: Any, *, count: int, num_classes: int | None = None) -> None:
    """Raises a TypeError or a ValueError unless `labels` are `count` integers in range."""
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            "Labels are a NumPy array of integers, got "
            f"{getattr(labels, 'dtype', type(labels).__name__)}."
        )
    if labels.shape != (count,):
        raise ValueError(f"There is one label per image: {count} images, labels {labels.shape}.")
    limit = np.inf if num_classes is None else num_classes
    bad = np.nonzero((labels < 0) | (labels >= limit))[0]
    if len(bad):
        allowed = "from 0" if num_classes is None else f"from 0 to {num_classes - 1}"
        raise ValueError(
            f"Labels run {allowed}; label {labels[bad[0]]} of example {bad[0]} does not "
            f"({len(bad)} such labels)."
        )


def _stratified(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """A mask of about `share` of each class, at least one example and never all."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.nonzero(labels == label)[0])
        if len(members) < 2:
            raise ValueError(f"Class {label} has one example; a split needs at least two.")
        chosen[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return chosen
