"""Where a property speaks: preconditions over inputs, and how far away their truth changes.

Features are numbered along the flattened input. Bounds are rounded to float32, in which inputs are
compared with them; distances are in float64, rounded down.
"""

import abc
import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gloro_jax.plain import check_comparable

_DOWN = 1 - 1e-12
_UNIT = 2.0**-24  # of float32


class Precondition(abc.ABC):
    """Whether a property speaks of an input."""

    @abc.abstractmethod
    def holds(self, x: Any, prediction: Any) -> Any:
        """Whether it does, (n,), of inputs (n, d) with the predictions (n,) of a network."""

    @abc.abstractmethod
    def distance(self, x: np.ndarray) -> np.ndarray:
        """The l2 distance (n,) within which that cannot change while the prediction does not."""

    def check(self, features: int, num_classes: int) -> None:
        """Raises a ValueError if it speaks of features or classes that there are not."""
        del features, num_classes


@dataclasses.dataclass(frozen=True)
class Always(Precondition):
    """Of every input."""

    def holds(self, x: Any, prediction: Any) -> Any:
        """Yes."""
        del prediction
        return jnp.ones(len(x), bool)

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Infinity."""
        return np.full(len(x), np.inf)


@dataclasses.dataclass(frozen=True)
class InBox(Precondition):
    """Of inputs whose features lie between bounds, the bounds included.

    Attributes:
        bounds: (feature, lower, upper) of some features; bounds may be infinite.

    Raises:
        ValueError: if a feature is no number from 0 on, or a lower bound exceeds the upper one.
    """

    bounds: Sequence[tuple[int, float, float]]

    def __post_init__(self) -> None:
        found: dict[int, tuple[float, float]] = {}
        for i, low, high in self.bounds:  # a feature that comes twice is within both bounds
            least, most = found.get(_feature(i), (-math.inf, math.inf))
            low, high = _limits(low, high, what=f"x[{i}]")
            found[_feature(i)] = _limits(max(low, least), min(high, most), what=f"x[{i}]")
        bounds = tuple((i, *limits) for i, limits in sorted(found.items()))
        object.__setattr__(self, "bounds", bounds)

    @classmethod
    def between(cls, lower: Any, upper: Any) -> "InBox":
        """All features, from arrays of one shape."""
        pairs = zip(np.ravel(lower), np.ravel(upper), strict=True)
        return cls(tuple((i, float(low), float(high)) for i, (low, high) in enumerate(pairs)))

    def holds(self, x: Any, prediction: Any) -> Any:
        """Whether all do."""
        del prediction
        inside = jnp.ones(len(x), bool)
        for i, low, high in self.bounds:
            inside &= (x[:, i] >= np.float32(low)) & (x[:, i] <= np.float32(high))
        return inside

    def distance(self, x: np.ndarray) -> np.ndarray:
        """To the nearest face from inside, to the box from outside."""
        if not self.bounds:
            return np.full(len(x), np.inf)
        index, low, high = (np.array(column) for column in zip(*self.bounds, strict=True))
        values = x[:, index].astype(np.float64)
        excess = np.maximum(np.maximum(low - values, values - high), 0.0)
        outside = np.sqrt(np.square(excess).sum(axis=1))
        room = np.minimum(values - low, high - values).min(axis=1)
        return np.where(outside > 0, outside, np.maximum(room, 0.0)) * _DOWN

    def check(self, features: int, num_classes: int) -> None:
        """Features that are there."""
        _check_features([i for i, _, _ in self.bounds], features)


@dataclasses.dataclass(frozen=True)
class SumIn(Precondition):
    """Of inputs whose sum of features lies between bounds.

    Attributes:
        lower: of the sum.
        upper: of the sum.
        features: which are summed; all unless given.

    Raises:
        ValueError: if the lower bound exceeds the upper one, or a feature is no number from 0 on.
    """

    lower: float
    upper: float
    features: Sequence[int] | None = None

    def __post_init__(self) -> None:
        low, high = _limits(self.lower, self.upper, what="the sum")
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", high)
        if self.features is not None:
            chosen = tuple(_feature(i) for i in self.features)
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"A feature is summed twice: {list(chosen)}.")
            object.__setattr__(self, "features", chosen)

    def holds(self, x: Any, prediction: Any) -> Any:
        """Whether the sum does."""
        del prediction
        total = jnp.sum(self._chosen(x), axis=1)
        return (total >= np.float32(self.lower)) & (total <= np.float32(self.upper))

    def distance(self, x: np.ndarray) -> np.ndarray:
        """To the nearest of the two planes, less what float32 sums may be off by."""
        values = self._chosen(x).astype(np.float64)
        count = max(1, values.shape[1])
        total, unsure = values.sum(axis=1), 2 * count * _UNIT
        gap = np.minimum(np.abs(total - self.lower), np.abs(total - self.upper))
        # Sums of a point at distance r are off by at most unsure * (sum |x| + sqrt(count) r).
        room = gap - unsure * np.abs(values).sum(axis=1) * (1 + 1e-9)
        return np.maximum(room, 0.0) / (math.sqrt(count) * (1 + unsure)) * _DOWN

    def check(self, features: int, num_classes: int) -> None:
        """Features that are there."""
        _check_features(self.features or (), features)

    def _chosen(self, x: Any) -> Any:
        return x if self.features is None else x[:, np.array(self.features, int)]


@dataclasses.dataclass(frozen=True)
class PredictedIn(Precondition):
    """Of inputs that the network, before its repair, gives one of some classes.

    Attributes:
        classes: these.
    """

    classes: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(sorted({_feature(i) for i in self.classes})))

    def holds(self, x: Any, prediction: Any) -> Any:
        """Whether the prediction is one."""
        del x
        wanted = np.array(self.classes, np.int32)
        return (prediction[:, None] == wanted[None]).any(axis=1)

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Infinity: it changes with the prediction."""
        return np.full(len(x), np.inf)

    def check(self, features: int, num_classes: int) -> None:
        """Classes that are there."""
        if missing := [label for label in self.classes if label >= num_classes]:
            raise ValueError(
                f"PredictedIn names class {missing[0]}; there are 0 to {num_classes - 1}."
            )


@dataclasses.dataclass(frozen=True)
class AllOf(Precondition):
    """Of inputs of which every one of several preconditions holds.

    Attributes:
        parts: these.
    """

    parts: Sequence[Precondition]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        for part in self.parts:
            check_comparable(part, what="A precondition")

    def holds(self, x: Any, prediction: Any) -> Any:
        """Whether all do."""
        found = [part.holds(x, prediction) for part in self.parts]
        return jnp.stack(found).all(axis=0) if found else jnp.ones(len(x), bool)

    def distance(self, x: np.ndarray) -> np.ndarray:
        """The least of all parts': none of them changes."""
        found = [part.distance(x) for part in self.parts]
        return np.min(found, axis=0) if found else np.full(len(x), np.inf)

    def check(self, features: int, num_classes: int) -> None:
        """As each part."""
        for part in self.parts:
            part.check(features, num_classes)


def _limits(low: Any, high: Any, *, what: str) -> tuple[float, float]:
    with np.errstate(over="ignore"):
        found = float(np.float32(low)), float(np.float32(high))
    if math.isinf(found[0]) != math.isinf(low) or math.isinf(found[1]) != math.isinf(high):
        raise ValueError(f"A bound of {what} is beyond float32: {low}, {high}.")
    if not found[0] <= found[1]:
        raise ValueError(f"The bounds of {what} are a lower and an upper one, got {low}, {high}.")
    return found


def _feature(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"Features and classes are whole numbers from 0 on, got {value!r}.")
    return int(value)


def _check_features(named: Sequence[int], features: int) -> None:
    if named and max(named) >= features:
        raise ValueError(f"A property names x[{max(named)}], and inputs have {features} features.")
