"""Cases of ReLUs, and one pass back for a batch of them: bounds, gradients, and a step upwards."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import jit
from gloro_jax.verifiers.bounds.boxes import Walk
from gloro_jax.verifiers.bounds.lines import adaptive_lines, below, follow, start
from gloro_jax.verifiers.bounds.operations import Chain
from gloro_jax.verifiers.bounds.regions import Box, Norm, Region, minimum, region
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.complete.method import by_unit, places
from gloro_jax.verifiers.scores import charge_of

RATE = {"slopes": 0.1, "weights": 0.05}
_CLOSE = 1e-9


class Case(NamedTuple):
    """A case in the queue: its parent's bounds, slopes and multipliers, and its own conditions.

    `split` is -1, 0 or 1 for each ReLU, and `unit` the one that was split last.
    """

    bound: float
    number: int
    rival: int
    unit: int
    split: np.ndarray
    low: np.ndarray
    high: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray

    @property
    def is_open(self) -> np.ndarray:
        """Which ReLUs it leaves open."""
        return (self.low < 0) & (self.high > 0)

    @property
    def is_empty(self) -> bool:
        """Whether its conditions contradict each other."""
        return bool((self.low > self.high + _CLOSE * (1 + np.abs(self.high))).any())

    def halves(self, unit: int) -> tuple["Case", "Case"]:
        """The two cases of one of its ReLUs."""
        return self.half(unit, -1), self.half(unit, 1)

    def half(self, unit: int, side: int) -> "Case":
        """The case where that ReLU's input is at most 0, or at least 0."""
        split, low, high = self.split.copy(), self.low.copy(), self.high.copy()
        split[unit] = side
        low[unit], high[unit] = (low[unit], 0.0) if side < 0 else (0.0, high[unit])
        return self._replace(unit=unit, split=split, low=low, high=high)


def ascended(free: Any, gradient: Any, state: Any, step: int) -> Any:
    """A step of Adam upwards, in NumPy: the arrays are small."""
    first, second = state or (dict.fromkeys(free, 0.0), dict.fromkeys(free, 0.0))
    first = {n: 0.9 * first[n] + 0.1 * gradient[n] for n in free}
    with np.errstate(over="ignore"):  # in very large balls; whoever moves far there proves nothing
        second = {n: 0.999 * second[n] + 0.001 * np.square(gradient[n]) for n in free}
    out = {}
    for name in free:
        mean = first[name] / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(second[name] / (1 - 0.999 ** (step + 1)))
        moved = free[name] + RATE[name] * 0.95**step * mean / (spread + 1e-12)
        out[name] = np.clip(moved, 0, 1 if name == "slopes" else np.inf)
    return out, (first, second)


def _bound_cases(
    network: Network,
    x: Any,
    radius: Any,
    label: Any,
    rivals: Any,
    low: Any,
    high: Any,
    split: Any,
    free: Any,
    *,
    norm: Norm,
    box: Box,
) -> Any:
    """Bounds of cases, their gradients, scores of ReLUs to split, and where bounds are reached.

    Rounding is taken off the bounds: a lead that is none is not made by it.
    """
    chain, count = chain_of(network), len(rivals)
    centre = jnp.broadcast_to(x, (count, *x.shape))
    area = region(centre, jnp.full(count, radius), norm=norm, box=box)
    boxes = _boxes(chain, area, low, high)
    eye = jnp.eye(network.num_classes, dtype=x.dtype)
    rows = (eye[label][None] - eye[rivals])[:, None]

    def total(free: Any) -> Any:
        lines = {
            op.unit: _lines(*(part[:, where].reshape(count, 1, *op.after) for part in parts))
            for op, where in places(chain)
            for parts in [(low, high, split, free["slopes"], free["weights"])]
        }
        found = follow(chain, start(rows), relu=below(lines), sizes=boxes.sizes)
        bounds = boxes.concluded(found, *minimum(area, found.rows, is_tight=True))[:, 0]
        return bounds.sum(), (bounds, found, lines)

    (_, (bounds, found, lines)), gradient = jax.value_and_grad(total, has_aux=True)(free)
    scores = [
        _score(found.met[op.unit], lines[op.unit], low[:, where], high[:, where])
        for op, where in places(chain)
    ]
    nothing = jnp.zeros((count, 0), x.dtype)
    return bounds, gradient, jnp.concatenate([nothing, *scores], axis=1), _reached(area, found.rows)


def _boxes(chain: Chain, area: Region, low: Any, high: Any) -> Walk:
    """How large activations can be in each case, which rounding is charged by."""
    flat, charge = dataclasses.replace(area, norm="linf"), charge_of(chain, area.centre.dtype)
    walk = Walk(flat, None, charge, limits=by_unit(chain, low, high))
    walk.through(chain, (area.lower, area.upper))
    return walk


bound = jit(_bound_cases, static_argnames=("norm", "box"))


def _lines(low: Any, high: Any, split: Any, slopes: Any, weights: Any) -> Any:
    lines = adaptive_lines(low, high).with_slopes(slopes)
    # With z >= 0 as -z <= 0, a multiplier adds at most 0 to what is bounded.
    return lines._replace(tilt=-split * jnp.maximum(weights, 0))


def _score(met: Any, lines: Any, low: Any, high: Any) -> Any:
    """How much the lines of a ReLU may cost: the row that meets it times their largest gap."""
    row = met.reshape(len(met), -1)
    over, slope = (part.reshape(len(met), -1) for part in (lines.over, lines.low))
    gap = jnp.maximum(-low * slope, high * (1 - slope))
    return jnp.where(row < 0, -row * over, row * gap)


def _reached(area: Any, rows: Any) -> Any:
    """The point of the ball where the linear function is least."""
    row = rows[:, 0]
    if area.norm == "linf":
        return jnp.where(row > 0, area.lower, area.upper)
    axes = tuple(range(1, row.ndim))
    length = jnp.sqrt(jnp.square(row).sum(axes, keepdims=True))
    radius = area.radius.reshape(-1, *(1,) * (row.ndim - 1))
    return area.centre - radius * row / jnp.maximum(length, 1e-30)
