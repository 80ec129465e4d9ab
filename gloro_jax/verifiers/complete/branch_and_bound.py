"""BranchAndBound: cases of ReLUs, bounded with the conditions of each case (beta-CROWN)."""

import dataclasses
import functools
import heapq
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits, jit
from gloro_jax.verifiers.complete.descent import descend
from gloro_jax.verifiers.complete.method import Complete, Goal, first_witness, relu_bounds
from gloro_jax.verifiers.complete.polytopes import Pattern, nearest
from gloro_jax.verifiers.complete.unrolled import Unrolled, unrolled
from gloro_jax.verifiers.lines import adaptive_lines, below, follow, start
from gloro_jax.verifiers.operations import Relu, relus
from gloro_jax.verifiers.regions import Box, Norm, minimum, region
from gloro_jax.verifiers.rules import chain_of
from gloro_jax.verifiers.scores import in_float64
from gloro_jax.verifiers.verdicts import Status

_RATE = {"slopes": 0.1, "weights": 0.05}


@dataclasses.dataclass(frozen=True)
class BranchAndBound(Complete):
    """Splits unstable ReLUs into their two cases until every case is verified, or a witness found.

    A case's conditions, z >= 0 or z <= 0, enter its bound with multipliers, which are optimised
    together with the slopes below unstable ReLUs (Wang et al. 2021, beta-CROWN). Bounds of the
    ReLUs' inputs are Crown's over the whole region. Where a case leaves no ReLU open, the network
    is affine, and a quadratic or linear program decides. Witnesses come from descent first.

    Attributes:
        steps: of Adam for each batch of cases.
        cases: in a batch.
        restarts: of descent, for each other class; 0 for no descent.
    """

    steps: int = 12
    cases: int = 64
    restarts: int = 4

    def decide(self, network: Network, goal: Goal) -> Status | np.ndarray:
        """Descent, then cases, the least bound first."""
        witness = None
        if self.restarts:
            witness = descend(network, goal, steps=40, restarts=self.restarts)
        return witness if witness is not None else _Cases(self, network, goal).decide()


class _Case(NamedTuple):
    """A case in the queue; `bound` is its parent's, `split` -1, 0 or 1 for each ReLU."""

    bound: float
    number: int
    rival: int
    split: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray


class _Cases:
    def __init__(self, method: BranchAndBound, network: Network, goal: Goal) -> None:
        self.method, self.network, self.goal = method, network, goal
        self.low, self.high = relu_bounds(network, goal)
        self.wide, self.number = in_float64(network), itertools.count()
        count = len(self.low)
        slopes = np.where(self.high >= -self.low, 1.0, 0.0).astype(np.float32)
        self.queue = [
            _Case(
                -np.inf,
                next(self.number),
                rival,
                np.zeros(count, np.int8),
                slopes,
                np.zeros(count, np.float32),
            )
            for rival in range(network.num_classes)
            if rival != goal.label
        ]
        heapq.heapify(self.queue)

    @functools.cached_property
    def plan(self) -> Unrolled:
        """The network unrolled, for cases that leave no ReLU open."""
        return unrolled(self.network)

    def decide(self) -> Status | np.ndarray:
        """VERIFIED when no case is left, UNKNOWN when the time is, or a point."""
        while self.queue:
            if self.goal.is_late:
                return Status.UNKNOWN
            count = min(self.method.cases, len(self.queue))
            some = [heapq.heappop(self.queue) for _ in range(count)]
            bounds, scores, points, slopes, weights = self._bounded(some)
            is_open = ~(bounds[: len(some)] > 0)
            if (point := self._tried(points[: len(some)][is_open])) is not None:
                return point
            for i in np.flatnonzero(is_open):
                case = some[i]
                found = case._replace(bound=bounds[i], slopes=slopes[i], weights=weights[i])
                if (point := self._split(found, scores[i])) is not None:
                    return point
        return Status.VERIFIED

    def _tried(self, points: np.ndarray) -> np.ndarray | None:
        """A witness among the points where bounds' linear functions are least."""
        finite = points[np.isfinite(points).all(axis=tuple(range(1, points.ndim)))]
        return first_witness(self.network, self.goal, finite)

    def _split(self, case: _Case, scores: np.ndarray) -> np.ndarray | None:
        low, high = _clipped(self.low, self.high, case.split)
        is_open = (low < 0) & (high > 0)
        if not is_open.any():
            return self._leaf(case, low)
        unit = int(np.where(is_open, np.nan_to_num(scores), -np.inf).argmax())
        for side in (-1, 1):
            split = case.split.copy()
            split[unit] = side
            child = case._replace(number=next(self.number), split=split)
            heapq.heappush(self.queue, child)
        return None

    def _leaf(self, case: _Case, low: np.ndarray) -> np.ndarray | None:
        goal, pattern = self.goal, Pattern(self.plan, low >= 0)
        rows, constants = pattern.leads(goal.label)
        sides, limits = pattern.region()
        distance, point = nearest(
            goal.x.ravel(),
            np.vstack([sides, rows[case.rival]]),
            np.append(limits, -constants[case.rival]),
            norm=goal.norm,
            box=goal.box,
        )
        is_near = point is not None and distance <= goal.radius * (1 + 1e-9)
        return goal.inside(point) if point is not None and is_near else None

    def _bounded(self, some: list[_Case]) -> Any:
        fill = [some[0]] * (self.method.cases - len(some))
        cases = [*some, *fill]
        split = np.stack([case.split for case in cases])
        low, high = _clipped(self.low[None], self.high[None], split)
        rivals = np.array([case.rival for case in cases])
        free = {
            name: np.stack([getattr(case, name) for case in cases]).astype(np.float64)
            for name in _RATE
        }
        goal = self.goal
        about = {"norm": goal.norm, "box": goal.box}
        fixed = (goal.x, goal.radius, goal.label, rivals, low, high, split)
        best, kept, state = np.full(len(cases), -np.inf), free, None
        scores = points = None
        for step in range(self.method.steps):
            with in_64_bits():
                found = _bound(self.wide, *fixed, free, **about)
            bounds, gradient, scores, points = (jax.tree.map(np.asarray, part) for part in found)
            is_better = bounds > best
            best = np.where(is_better, bounds, best)
            kept = {n: np.where(is_better[:, None], free[n], kept[n]) for n in free}
            if (best > 0).all() or step == self.method.steps - 1:
                break
            free, state = _ascended(free, gradient, state, step)
        narrow = [kept[name].astype(np.float32) for name in _RATE]
        return best, scores, points, *narrow


def _ascended(free: Any, gradient: Any, state: Any, step: int) -> Any:
    """A step of Adam upwards, in NumPy: the arrays are small."""
    first, second = state or (dict.fromkeys(free, 0.0), dict.fromkeys(free, 0.0))
    first = {n: 0.9 * first[n] + 0.1 * gradient[n] for n in free}
    second = {n: 0.999 * second[n] + 0.001 * np.square(gradient[n]) for n in free}
    out = {}
    for name in free:
        mean = first[name] / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(second[name] / (1 - 0.999 ** (step + 1)))
        moved = free[name] + _RATE[name] * 0.95**step * mean / (spread + 1e-12)
        out[name] = np.clip(moved, 0, 1 if name == "slopes" else np.inf)
    return out, (first, second)


def _clipped(low: np.ndarray, high: np.ndarray, split: np.ndarray) -> tuple[Any, Any]:
    clipped = np.where(split > 0, np.maximum(low, 0), low)
    return clipped, np.where(split < 0, np.minimum(high, 0), high)


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
    """Bounds of cases, their gradients, scores of ReLUs to split, and where bounds are reached."""
    chain, count = chain_of(network), len(rivals)
    centre = jnp.broadcast_to(x, (count, *x.shape))
    area = region(centre, jnp.full(count, radius), norm=norm, box=box)
    eye = jnp.eye(network.num_classes, dtype=x.dtype)
    rows = (eye[label][None] - eye[rivals])[:, None]

    def total(free: Any) -> Any:
        lines = {
            op.unit: _lines(*(part[:, where].reshape(count, 1, *op.after) for part in parts))
            for op, where in _places(chain)
            for parts in [(low, high, split, free["slopes"], free["weights"])]
        }
        found = follow(chain, start(rows), relu=below(lines))
        value, _ = minimum(area, found.rows, is_tight=True)
        bounds = (value + found.offset)[:, 0]
        return bounds.sum(), (bounds, found, lines)

    (_, (bounds, found, lines)), gradient = jax.value_and_grad(total, has_aux=True)(free)
    scores = [
        _score(found.met[op.unit], lines[op.unit], low[:, where], high[:, where])
        for op, where in _places(chain)
    ]
    nothing = jnp.zeros((count, 0), x.dtype)
    return bounds, gradient, jnp.concatenate([nothing, *scores], axis=1), _reached(area, found.rows)


_bound = jit(_bound_cases, static_argnames=("norm", "box"))


def _places(chain: Any) -> list[tuple[Relu, slice]]:
    """Each ReLU, and where its units are among all."""
    found, first = [], 0
    for op in relus(chain):
        size = int(np.prod(op.after))
        found.append((op, slice(first, first + size)))
        first += size
    return found


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
