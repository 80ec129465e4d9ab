"""Images with labels, and the checks they pass before anything is computed with them."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from gloro_jax.data.photographs.pictures import Pictures
from gloro_jax.plain import brief, settle

_CHANNELS = (1, 3, 4)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and labels, checked.

    Attributes:
        images: (n, H, W, C), uint8, or float32 in [0, 1]; or photographs on disk.
        labels: (n,), integers from 0.
    """

    images: np.ndarray | Pictures
    labels: np.ndarray

    __repr__ = brief

    def __post_init__(self) -> None:
        if not isinstance(self.images, Pictures):
            check_images(self.images)
        check_labels(self.labels, count=len(self.images))
        for name in ("images", "labels"):  # as this machine orders bytes; JAX takes no other
            array: np.ndarray = getattr(self, name)
            if isinstance(array, Pictures):
                continue
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            object.__setattr__(self, name, native)

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data, and how validation is carved out of its training split.

    Attributes:
        source: a set's name (`gloro-jax data list`), or an .npz file of x_train, y_train, x_test
            and y_test.
        validation: the share of the training split held out to choose epochs, in every class.
        seed: of the choice of validation images.
        directory: where prepared sets are; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.
        image_size: height and width that the network sees of photographs that are read from disk;
            None for sets whose images have a size.
        extra: another set, or an .npz file, whose training images are trained on as well; generated
            ones, say. Copies of held-out images are left out.
        extra_share: of each batch that is taken from it; 3/4 are three extra images for one.
    """

    source: str
    validation: float = 0.1
    seed: int = 0
    directory: str | None = None
    image_size: int | None = None
    extra: str | None = None
    extra_share: float = 0.75

    def __post_init__(self) -> None:
        settle(self)
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is a share between 0 and 1, got {self.validation}.")
        if not 0 < self.extra_share < 1:
            raise ValueError(f"extra_share is between 0 and 1, got {self.extra_share}.")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is at least 1, got {self.image_size}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Extra:
    """More training images, of which each batch takes a share.

    Attributes:
        images: those images.
        share: of each batch.
        left_out: how many were copies of held-out images.
    """

    images: Split
    share: float
    left_out: int = 0

    __repr__ = brief


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one task: train to learn, validation to choose, test to report.

    Attributes:
        name: what reports call it.
        train: the training split.
        validation: picks epochs and hyperparameters.
        test: looked at last.
        num_classes: labels run from 0 to num_classes - 1.
        class_names: what reports call the classes; their numbers unless given.
        origin: how to open the data again; None for arrays that came from nowhere.
        extra: more training images (`gloro_jax.data.with_extra`); None for none.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...] = ()
    origin: DataConfig | None = None
    extra: Extra | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        names = self.class_names or tuple(str(label) for label in range(self.num_classes))
        if len(names) != self.num_classes:
            raise ValueError(
                f"class_names has one name per class: {self.num_classes} classes, {names}."
            )
        object.__setattr__(self, "class_names", names)
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

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images to train on and to validate with, which decide what is learnt."""
        sha = hashlib.sha256()
        more = [] if self.extra is None else [self.extra.images]
        for split in (self.train, self.validation, *more):
            for array in (split.images, split.labels.astype("<i8")):
                if isinstance(array, Pictures):
                    sha.update(array.fingerprint.encode())
                    continue
                sha.update(f"{array.shape} {array.dtype.str}".encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def from_arrays(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    validation: float = 0.1,
    seed: int = 0,
    name: str = "arrays",
    class_names: tuple[str, ...] = (),
    origin: DataConfig | None = None,
) -> Dataset:
    """A dataset from arrays of one's own; validation is carved out of the training arrays.

    Args:
        train: images (n, H, W, C), or (n, H, W) for one channel, uint8 or float32 in [0, 1], and
            labels (n,).
        test: likewise.
        validation: the share of the training arrays, in every class alike.
        seed: of the choice of validation images.
        name: what reports call it.
        class_names: what reports call the classes; also fixes their number.
        origin: how to open the data again, for run folders.

    Raises:
        TypeError: if an array has the wrong type.
        ValueError: if shapes, values or labels do not fit; nothing is repaired silently.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation is a share between 0 and 1, got {validation}.")
    whole, held_out = (_split(*arrays) for arrays in (train, test))
    images, labels = whole.images, whole.labels
    largest = int(max(labels.max(), held_out.labels.max()))
    classes = len(class_names) or largest + 1
    check_labels(labels, count=len(labels), num_classes=classes)
    check_classes(labels, num_classes=min(classes, largest + 1))
    is_validation = stratified(labels, share=validation, seed=seed)
    return Dataset(
        name=name,
        train=Split(images[~is_validation], labels[~is_validation]),
        validation=Split(images[is_validation], labels[is_validation]),
        test=held_out,
        num_classes=max(classes, 2),
        class_names=class_names,
        origin=origin,
    )


def _split(images: Any, labels: Any) -> Split:
    images, labels = np.asarray(images), np.asarray(labels)
    return Split(images[..., None] if images.ndim == 3 else images, labels)


def check_classes(labels: np.ndarray, *, num_classes: int) -> None:
    """Raises a ValueError unless every class from 0 to `num_classes` - 1 is among the labels."""
    found = np.unique(labels)  # before anything is made that is as large as the largest label
    if len(found) == num_classes or num_classes < 2:
        return
    first = next(i for i, label in enumerate([*found.tolist(), -1]) if label != i)
    way_out = "Number the classes from 0 without gaps."
    if found[0] == 1 and len(found) == found[-1]:
        way_out = "These run from 1: subtract 1 from all labels, of every split."
    raise ValueError(
        f"No training image has label {first}: there are {len(found)} different training labels, "
        f"from {found[0]} to {found[-1]}, and {num_classes} classes. {way_out}"
    )


def check_images(images: Any) -> None:
    """Raises a TypeError or a ValueError unless `images` are (n, H, W, C) in [0, 1] or uint8."""
    kind = getattr(images, "dtype", None)
    native = kind.newbyteorder("=") if isinstance(kind, np.dtype) else kind
    if not isinstance(images, np.ndarray) or native not in (np.uint8, np.float32):
        raise TypeError(
            "Images are a NumPy array of uint8, or of float32 in [0, 1] (.astype('float32')); got "
            f"{getattr(images, 'dtype', type(images).__name__)}."
        )
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"Images have shape (n, H, W, C), none of them 0; got {images.shape}.")
    if images.shape[1] in _CHANNELS and images.shape[3] > max(_CHANNELS) < images.shape[2]:
        raise ValueError(
            f"Images have shape (n, H, W, C), and {images.shape} looks like (n, C, H, W), as "
            "PyTorch has them. Move the channels to the end: np.moveaxis(images, 1, -1)."
        )
    if native == np.float32:
        strange = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        if len(strange):
            raise ValueError(
                f"Images are finite numbers; {len(strange)} of {len(images)} hold NaN or infinite "
                f"pixels, the first of them image {strange[0]}. Leave them out or mend them."
            )
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"float32 images lie in [0, 1], got values from {low} to {high}. Divide pixels "
                "by 255; put means and deviations into the network with layers.Normalize."
            )


def check_labels(labels: Any, *, count: int, num_classes: int | None = None) -> None:
    """Raises a TypeError or a ValueError unless `labels` are `count` integers in range."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise TypeError(
            "Labels are a NumPy array of integers, got "
            f"{getattr(labels, 'dtype', type(labels).__name__)}{_cure(labels)}"
        )
    if labels.shape != (count,):
        raise ValueError(
            f"There is one label per image: {count} images, labels {labels.shape}{_cure(labels)}"
        )
    limit = np.inf if num_classes is None else num_classes
    bad = np.nonzero((labels < 0) | (labels >= limit))[0]
    if len(bad):
        allowed = "from 0" if num_classes is None else f"from 0 to {num_classes - 1}"
        raise ValueError(
            f"Labels run {allowed}; label {labels[bad[0]]} of example {bad[0]} does not "
            f"({len(bad)} such labels)."
        )


def _cure(labels: Any) -> str:
    """How to make class numbers of labels that are one-hot, or whole numbers of another type."""
    array = np.asarray(labels)
    is_table = array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf"
    if is_table and (np.sort(array, axis=1) == np.eye(array.shape[1])[-1]).all():
        return ", one-hot. Give class numbers: labels.argmax(axis=1)."
    if array.dtype.kind == "f" and array.size and np.array_equal(array, np.round(array)):
        return ". They are whole numbers: labels.astype(int)."
    if array.dtype.kind in "US":
        return ". Number the names: class_names, labels = np.unique(names, return_inverse=True)."
    return "."


def stratified(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """A mask of about `share` of each class, at least one example and never all."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.nonzero(labels == label)[0])
        if len(members) < 2:
            raise ValueError(f"Class {label} has one example; a split needs at least two.")
        chosen[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return chosen
