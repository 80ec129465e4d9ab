"""The entropy gate: ask the certified network where it is sure, over a whole ball (ICLR 2021).

Differences of scores move by at most epsilon K_ij on the ball, so each probability
p_i = 1 / sum_k exp(y_k - y_i) has bounds there, and so has the entropy: h(p) = -p ln p is concave,
least at an end of an interval and largest at 1/e or the end next to it. Bounds add up over classes.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from gloro_jax.ensembles.members import check_batch
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.plain import settle
from gloro_jax.platforms import outside_jit

_ROUNDING = 1e-9  # of float64 here, far above what its errors add up to
_HALVINGS = 60


@dataclasses.dataclass(frozen=True)
class EntropyGate:
    """The certified network answers where its entropy, in nats, is at most the threshold.

    Attributes:
        threshold: above 0.

    Raises:
        ValueError: if the threshold is not positive and finite.
    """

    threshold: float

    def __post_init__(self) -> None:
        settle(self)
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold is an entropy above 0 in nats, got {self.threshold}.")

    def is_open(self, certified: FrozenNet, x: Any) -> np.ndarray:
        """Whether the certified network answers, (n,)."""
        return self._opens(_scores(certified, x)[0])

    def radius(self, certified: FrozenNet, x: Any) -> np.ndarray:
        """The l2 radius within which that does not change, (n,), by bisection, rounded down."""
        return self.decision(certified, x)[1]

    @outside_jit
    def decision(self, certified: FrozenNet, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """`is_open` and `radius`, from one forward pass."""
        values, constants = _scores(certified, x)
        is_open = self._opens(values)

        def holds(radius: np.ndarray) -> np.ndarray:
            low, high = entropy_bounds(values, radius[:, None, None] * constants)
            return np.where(is_open, high <= self.threshold, low > self.threshold)

        reach = np.full(len(values), 1e-6)
        while (growing := holds(reach) & (reach < 1e6)).any():
            reach = np.where(growing, 2 * reach, reach)
        below, above = np.where(reach > 1e-6, reach / 2, 0.0), reach
        for _ in range(_HALVINGS):
            middle = (below + above) / 2
            is_held = holds(middle)
            below, above = np.where(is_held, middle, below), np.where(is_held, above, middle)
        is_finite = np.isfinite(values).all(axis=1) & holds(np.zeros(len(values)))
        return is_open, np.where(is_finite, below, 0.0)

    def _opens(self, values: np.ndarray) -> np.ndarray:
        low, high = entropy_bounds(values, np.zeros((values.shape[1],) * 2))
        return (low + high) / 2 <= self.threshold


def entropy_bounds(values: np.ndarray, lifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (n,) of the entropy of softmax, where y_i - y_k moves by at most lifts[..., i, k].

    Args:
        values: scores (n, m), float64.
        lifts: (m, m) or (n, m, m), at least 0, with a diagonal of 0.
    """
    m = values.shape[1]
    apart = values[:, None, :] - values[:, :, None]  # (n, i, k): y_k - y_i
    lift = np.where(np.eye(m, dtype=bool), 0.0, lifts)
    with np.errstate(over="ignore"):
        low, high = (1 / np.exp(apart + sign * lift).sum(axis=2) for sign in (1, -1))
    low, high = np.maximum(low * (1 - _ROUNDING), 0), np.minimum(high * (1 + _ROUNDING), 1)
    ends = [_entropy(low), _entropy(high)]
    most = np.where((low <= 1 / math.e) & (high >= 1 / math.e), 1 / math.e, np.maximum(*ends))
    least, largest = np.minimum(*ends).sum(axis=1), most.sum(axis=1)
    return least - _ROUNDING * m, np.minimum(largest, math.log(m)) + _ROUNDING * m


def _entropy(p: np.ndarray) -> np.ndarray:
    return np.where(p > 0, -p * np.log(np.where(p > 0, p, 1.0)), 0.0)


def _scores(certified: FrozenNet, x: Any) -> tuple[np.ndarray, np.ndarray]:
    check_batch(x, certified.input_shape, what="EntropyGate")
    logits = certified(x)
    constants = np.asarray(logits.head_distances, np.float64) * certified.lipschitz
    return np.asarray(logits.values, np.float64), constants * (1 + _ROUNDING)
