"""BranchAndBound: cases of ReLUs, bounded with the conditions of each case (beta-CROWN)."""

import dataclasses
import functools
import heapq
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.complete.cases import RATE, Case, ascended, bound
from gloro_jax.verifiers.complete.descent import attacked, descend
from gloro_jax.verifiers.complete.goals import Goal, first_witness
from gloro_jax.verifiers.complete.method import Complete, places, relu_bounds
from gloro_jax.verifiers.complete.polytopes import Pattern, deepest, is_empty, nearest
from gloro_jax.verifiers.complete.unrolled import Unrolled, unrolled
from gloro_jax.verifiers.scores import in_float64
from gloro_jax.verifiers.verdicts import Status

_FAR = (1e30, 1e4)  # where to look if descent finds no witness
_CANDIDATES = 3
_FEW = 1024
_SMALL = 128  # variables of a linear program that is worth its time before all ReLUs are decided
_TOGETHER = 16  # cases whose ReLUs are bounded anew together


@dataclasses.dataclass(frozen=True)
class BranchAndBound(Complete):
    """Splits unstable ReLUs into their two cases until every case is verified, or a witness found.

    A case's conditions, z >= 0 or z <= 0, enter its bound with multipliers, which are optimised
    together with the slopes below unstable ReLUs (Wang et al. 2021, beta-CROWN); the rounding of
    that bound is taken off. Bounds of the ReLUs' inputs are Crown's; in networks of at most 1,024
    ReLUs, each case finds them anew under its conditions. Where a case leaves no ReLU open, the
    network is affine, and a quadratic or linear program decides. Witnesses come from descent first.

    Attributes:
        steps: of Adam for each batch of cases.
        cases: in a batch.
        restarts: of descent, for each other class; 0 for no descent.
    """

    steps: int = 12
    cases: int = 64
    restarts: int = 4

    def __post_init__(self) -> None:
        """Raises a ValueError for no step, no case, or fewer restarts than none."""
        super().__post_init__()
        if min(self.steps, self.cases) < 1 or self.restarts < 0:
            raise ValueError(
                "BranchAndBound takes steps and cases of at least 1 and restarts of at least 0, "
                f"got {self.steps}, {self.cases} and {self.restarts}."
            )

    def prepare(self, network: Network, goal: Goal) -> None:
        """Compiles each program that `decide` runs."""
        if self.restarts:
            descend(network, goal, steps=1, restarts=self.restarts)
        _Cases(self, network, goal).once()

    def decide(self, network: Network, goal: Goal) -> Status | np.ndarray:
        """Descent, then cases, the least bound first."""
        witness = None
        if self.restarts:
            witness = descend(network, goal, steps=40, restarts=self.restarts)
        return witness if witness is not None else _Cases(self, network, goal).decide()

    def radius_of(self, network: Network, goal: Goal) -> float:
        """The distance of the nearest witness; by bisection if half the time is too little."""
        reach = np.inf
        search = goal._replace(deadline=(time.perf_counter() + goal.deadline) / 2)
        if self.restarts:
            reach = attacked(network, goal, restarts=self.restarts)
        for radius in filter(np.isfinite, (reach, *_FAR)):
            found = _Cases(self, network, search._replace(radius=radius)).shortest()
            if found == radius < reach and goal._replace(radius=radius).is_whole_box:
                return np.inf
            if found is not None:
                return found * (1 - 1e-9)
        return super().radius_of(network, goal)


class _Cases:
    def __init__(self, method: BranchAndBound, network: Network, goal: Goal) -> None:
        self.method, self.network, self.goal = method, network, goal
        low, high = relu_bounds(network, goal)
        self.wide, self.number = in_float64(network), itertools.count()
        self.status = Status.UNKNOWN
        self.is_unsure = False  # whether a solver left a case open
        self.is_shrinking = False  # whether the nearest point is wanted, not any
        found = places(chain_of(network))
        # Of many ReLUs, new bounds for a case take longer than many cases without.
        self.last = found[-1][1].start if found and len(low) <= _FEW else 0
        slopes = np.where(high >= -low, 1.0, 0.0).astype(np.float32)
        split, weights = np.zeros(len(low), np.int8), np.zeros(len(low), np.float32)
        self.queue = [
            Case(-np.inf, next(self.number), rival, -1, split, low, high, slopes, weights)
            for rival in range(network.num_classes)
            if rival != goal.label
        ]
        heapq.heapify(self.queue)

    @functools.cached_property
    def plan(self) -> Unrolled:
        """The network unrolled, for cases that leave no ReLU open."""
        return unrolled(self.network)

    def decide(self) -> Status | np.ndarray:
        """A point that may be a witness, or what is known when there is none."""
        point = next(self.points(), None)
        return self.status if point is None else point

    def shortest(self) -> float | None:
        """The distance of the nearest point of another class, up to the radius; None if late."""
        self.is_shrinking = True
        for point in self.points():
            nearer = min(self.goal.radius, self.goal.distance(point))
            self.goal = self.goal._replace(radius=nearer)
        return self.goal.radius if self.status == Status.VERIFIED else None

    def points(self) -> Iterator[np.ndarray]:
        """Points that may be witnesses, until no case is left or no time; then there is a status.

        Between two of them, the radius may become smaller: bounds hold in a smaller region, too.
        """
        while self.queue:
            if self.goal.is_late:
                return
            count = min(self.method.cases, len(self.queue))
            some = self._tightened([heapq.heappop(self.queue) for _ in range(count)])
            if not all(np.isfinite([case.low, case.high]).all() for case in some):
                return  # the ball is too large for float64
            some = [case for case in some if not case.is_empty]
            if not some:
                continue
            bounded, scores, points = self._bounded(some)
            left = [i for i, case in enumerate(bounded) if not case.bound > 0]
            if (point := self._tried(points[left])) is not None:
                yield point
            yield from self._split([bounded[i] for i in left], scores[left])
        self.status = Status.UNKNOWN if self.is_unsure else Status.VERIFIED

    def once(self) -> None:
        """Runs each program on the first case, whatever comes out."""
        some = [case._replace(unit=0) for case in self.queue[:1]]
        _, _, points = self._bounded(self._tightened(some), steps=1)
        self._tried(points)

    def _tried(self, points: np.ndarray) -> np.ndarray | None:
        """A witness among the points where bounds' linear functions are least."""
        finite = points[np.isfinite(points).all(axis=tuple(range(1, points.ndim)))]
        if not len(finite):
            return None
        fill = np.repeat(finite[:1], self.method.cases - len(finite), axis=0)
        return first_witness(self.network, self.goal, [*finite, *fill])

    def _split(self, cases: list[Case], scores: np.ndarray) -> Iterator[np.ndarray]:
        """Puts the halves of cases in the queue; points of cases that leave no ReLU open."""
        kept = [i for i, case in enumerate(cases) if not self._is_impossible(case)]
        cases, scores = [cases[i] for i in kept], scores[kept]
        has_open = np.array([case.is_open.any() for case in cases], bool)
        split = [cases[i] for i in np.flatnonzero(has_open)]
        units = self._best_units(split, scores[has_open]) if split else ()
        for case, unit in zip(split, units, strict=True):
            for half in case.halves(int(unit)):
                heapq.heappush(self.queue, half._replace(number=next(self.number)))
        for i in np.flatnonzero(~has_open):
            if (point := self._leaf(cases[i])) is not None:
                yield point

    def _best_units(self, cases: list[Case], scores: np.ndarray) -> np.ndarray:
        """The ReLU to split in each case: among the highest scores, whose worse half is best.

        One pass for each half, at its case's slopes and multipliers (De Palma et al. 2021).
        """
        open_scores = np.where([c.is_open for c in cases], np.nan_to_num(scores), -np.inf)
        ranked = np.argsort(-open_scores, axis=1, kind="stable")[:, :_CANDIDATES]
        rows = np.arange(len(cases))
        worse = []
        for units in ranked.T:
            halves = [
                self._passed([c.half(int(u), side) for c, u in zip(cases, units, strict=True)])[0]
                for side in (-1, 1)
            ]
            is_choice = open_scores[rows, units] > -np.inf
            worse.append(np.where(is_choice, np.minimum(*halves), -np.inf))
        return ranked[rows, np.argmax(worse, axis=0)]

    def _is_impossible(self, case: Case) -> bool:
        """Whether a linear program finds no point in a case, wherever; asked of a few cases only.

        Asked where the number of open ReLUs is a power of two, programs are fewer than leaves.
        """
        number = int(case.is_open.sum())
        if number < 2 or number & (number - 1) or len(case.low) + self.goal.x.size > _SMALL:
            return False
        pattern = (case.low >= 0, case.is_open)
        return is_empty(self.plan, *pattern, self.goal.label, case.rival)

    def _leaf(self, case: Case) -> np.ndarray | None:
        goal, x = self.goal, self.goal.x.ravel()
        polytope = Pattern(self.plan, case.low >= 0).lost(goal.label, case.rival)
        about: Any = {"norm": goal.norm, "box": goal.box}
        distance, point = nearest(x, *polytope, **about)
        self.is_unsure |= bool(np.isnan(distance))
        if point is None or distance > goal.radius * (1 + 1e-9):
            return None
        inner = None if self.is_shrinking else deepest(x, *polytope, radius=goal.radius, **about)
        return goal.inside(point if inner is None else inner)

    def _tightened(self, some: list[Case]) -> list[Case]:
        """Cases with bounds of their ReLUs' inputs under their own conditions.

        A condition on a ReLU of the last layer of them says nothing of others, so its case keeps
        what it has.
        """
        early = [i for i, case in enumerate(some) if 0 <= case.unit < self.last]
        found = list(some)
        for first in range(0, len(early), _TOGETHER):
            places = early[first : first + _TOGETHER]
            cases = [some[i] for i in places]
            limits = [self._stacked(cases, name, _TOGETHER) for name in ("low", "high")]
            low, high = relu_bounds(self.network, self.goal, (limits[0], limits[1]))
            for row, i in enumerate(places):
                found[i] = some[i]._replace(low=low[row], high=high[row])
        return found

    def _bounded(
        self, some: list[Case], steps: int | None = None
    ) -> tuple[list[Case], np.ndarray, np.ndarray]:
        """Cases with the best bounds of a few steps upwards, scores of ReLUs, and points."""
        best, state = [case._replace(bound=-np.inf) for case in some], None
        now, scores, points = some, np.zeros(0), np.zeros(0)
        steps = steps or self.method.steps
        for step in range(steps):
            bounds, gradient, scores, points = self._passed(now)
            found = [case._replace(bound=bounds[i]) for i, case in enumerate(now)]
            best = [a if a.bound > b.bound else b for a, b in zip(found, best, strict=True)]
            if all(case.bound > 0 for case in best) or step == steps - 1:
                break
            free = {name: self._stacked(now, name, len(now)) for name in RATE}
            free, state = ascended(free, gradient, state, step)
            moved = zip(now, free["slopes"], free["weights"], strict=True)
            # The queue holds many cases, and any slopes and multipliers are admissible.
            now = [
                case._replace(slopes=s.astype(np.float32), weights=w.astype(np.float32))
                for case, s, w in moved
            ]
        return best, scores, points

    def _passed(self, some: list[Case]) -> Any:
        """Bounds of cases, their gradients, scores, and points, by one pass back."""
        goal, count = self.goal, self.method.cases
        free = {name: self._stacked(some, name, count).astype(np.float64) for name in RATE}
        parts = (self._stacked(some, name, count) for name in ("rival", "low", "high", "split"))
        with in_64_bits():
            about = (goal.x, goal.radius, goal.label)
            found = bound(self.wide, *about, *parts, free, norm=goal.norm, box=goal.box)
        return jax.tree.map(lambda part: np.asarray(part)[: len(some)], found)

    def _stacked(self, some: list[Case], name: str, count: int) -> np.ndarray:
        """An entry of all cases, filled up with the first to `count`: one program serves."""
        fill = [some[0]] * (count - len(some))
        return np.stack([getattr(case, name) for case in [*some, *fill]])
