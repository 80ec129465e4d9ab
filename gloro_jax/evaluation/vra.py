"""Verified robust accuracy: the share of examples both correct and certified."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from gloro_jax.certification import Certifier, judge
from gloro_jax.data.batches import as_float, rebatched
from gloro_jax.data.dataset import check_images, check_labels
from gloro_jax.data.photographs.pictures import Pictures
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.guarantees import Guarantee, SetCertificate
from gloro_jax.margins import as_epsilon
from gloro_jax.plain import brief, number
from gloro_jax.platforms import in_32_bits, outside_jit


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What was certified, example by example, in the order of the data.

    Attributes:
        epsilon: the l2 radius certified at.
        labels: (n,).
        predictions: (n,).
        radii: (n,) certified radii, whatever the label.
        is_certified: (n,) at epsilon.
        guarantee: what was certified; None is the strict guarantee.
        sets: (n, m) the set of classes that each certificate speaks of, under a relaxed guarantee;
            None under the strict one, where it is the prediction.
    """

    epsilon: float
    labels: np.ndarray
    predictions: np.ndarray
    radii: np.ndarray
    is_certified: np.ndarray
    guarantee: Guarantee | None = None
    sets: np.ndarray | None = None

    __repr__ = brief

    @property
    def count(self) -> int:
        """How many examples."""
        return len(self.labels)

    @property
    def has_label(self) -> np.ndarray:
        """(n,) whether the label is in the set that the certificate speaks of."""
        if self.sets is None:
            return self.is_correct
        return self.sets[np.arange(self.count), self.labels]

    @property
    def k(self) -> np.ndarray:
        """(n,) how many classes that set has."""
        return np.ones(self.count, np.int64) if self.sets is None else self.sets.sum(axis=1)

    @property
    def is_correct(self) -> np.ndarray:
        """(n,) whether the prediction is the label."""
        return self.predictions == self.labels

    @property
    def clean_accuracy(self) -> float:
        """Share of examples classified correctly."""
        return float(self.is_correct.mean())

    @property
    def vra(self) -> float:
        """Share of examples certified at epsilon with the label in the certified set."""
        return float((self.has_label & self.is_certified).mean())

    @property
    def rejection_rate(self) -> float:
        """Share of examples not certified at epsilon."""
        return float(1 - self.is_certified.mean())

    def certified_accuracy(self, radii: Any) -> np.ndarray:
        """Share of examples that hold the label with a certified radius above each of `radii`."""
        held = np.where(self.has_label, self.radii, -1.0)
        return (held[None, :] > np.asarray(radii, float).reshape(-1, 1)).mean(axis=1)


@in_32_bits
@outside_jit
def verified_robust_accuracy(
    frozen: FrozenNet | Certifier,
    batches: Iterable[tuple[Any, Any]],
    *,
    epsilon: float | str,
    guarantee: Guarantee | None = None,
) -> Report:
    """Certifies every example of `batches` with guaranteed bounds.

    Exact over a ragged last batch: padding is not counted.

    Args:
        frozen: from `freeze` or `gj.load`; or an ensemble that certifies.
        batches: (images, labels) pairs; images (n, H, W, C), uint8 or float32 in [0, 1].
        epsilon: the l2 radius, in units of images in [0, 1]; it may be text, "36/255".
        guarantee: None for the strict one, or `gj.guarantees.TopK(k)` or `Affinity(sets)`.

    Returns:
        The report.

    Raises:
        TypeError: if an array has the wrong type.
        ValueError: if values, labels or shapes do not fit, or there is no example.
    """
    check_reach(float(as_epsilon(epsilon)), frozen.input_shape)
    classes = frozen.net.num_classes if isinstance(frozen, FrozenNet) else frozen.num_classes
    columns: list[tuple[np.ndarray, ...]] = []
    for batch in rebatched(_checked(batches, classes)):
        prediction, certificate = _judged(frozen, as_float(batch.images), epsilon, guarantee)
        row = (batch.labels, prediction, certificate.radius, certificate.is_certified)
        if isinstance(certificate, SetCertificate):
            row += (certificate.classes,)
        columns.append(tuple(np.asarray(field)[batch.is_real] for field in row))
    if not columns:
        raise ValueError("There is nothing to certify: batches is empty.")
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    sets = joined.pop() if len(joined) > 4 else None
    return Report(number(epsilon), *joined, guarantee=guarantee, sets=sets)


def _judged(frozen: Any, x: Any, epsilon: Any, guarantee: Guarantee | None) -> tuple[Any, Any]:
    if isinstance(frozen, FrozenNet):
        return judge(frozen, x, epsilon=epsilon, guarantee=guarantee)
    if guarantee is not None:
        raise TypeError(
            "Relaxed guarantees are counted for one FrozenNet here. A SoftVoting has its own "
            "certify(x, epsilon=..., guarantee=...)."
        )
    certificate = frozen.certify(x, epsilon=epsilon)
    return certificate.prediction, certificate


def check_reach(
    epsilon: float, input_shape: tuple[int, ...], *, norm: str = "l2", what: str = "epsilon"
) -> None:
    """Raises a ValueError if every image in [0, 1] is nearer than epsilon to every other."""
    diameter = math.sqrt(math.prod(input_shape)) if norm == "l2" else 1.0
    if epsilon >= diameter:
        raise ValueError(
            f"{what} is {epsilon:g}, and two images of shape {input_shape} with pixels in "
            f"[0, 1] are never further apart than {diameter:.4g} in {norm}: nothing but a constant "
            "could be certified. Radii in steps of a pixel are divided by 255: 36/255."
        )


_NO_PAIRS = "batches is a list of (images, labels) pairs; for one pair: [(images, labels)]."


def _checked(batches: Iterable[tuple[Any, Any]], classes: int) -> Iterable[tuple[Any, Any]]:
    is_one_pair = isinstance(batches, tuple) and any(hasattr(part, "shape") for part in batches)
    if is_one_pair or not isinstance(batches, Iterable):
        raise ValueError(_NO_PAIRS)
    for pair in batches:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(_NO_PAIRS)
        images, labels = pair
        labels = np.asarray(labels)
        if not isinstance(images, Pictures):  # photographs on disk are decoded batch by batch
            images = np.asarray(images)
            check_images(images)
        check_labels(labels, count=len(images), num_classes=classes)
        yield images, labels
