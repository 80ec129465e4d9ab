"""Projections: fast geometric projections (Fromherz, Leino, Fredrikson, Parno, Pasareanu 2021)."""

import dataclasses
import heapq
import itertools
from typing import Any, Literal

import numpy as np

from gloro_jax.network import Network
from gloro_jax.verifiers.bounds.regions import Norm
from gloro_jax.verifiers.complete.goals import Goal, first_witness
from gloro_jax.verifiers.complete.method import Complete
from gloro_jax.verifiers.complete.polytopes import Pattern, deepest, nearest
from gloro_jax.verifiers.complete.unrolled import unrolled
from gloro_jax.verifiers.verdicts import Status

_ROOM = 1 + 1e-9


@dataclasses.dataclass(frozen=True)
class Projections(Complete):
    """Walks over the regions on which a network is affine, from the image outwards.

    A region that meets the ball is reached through facets within the ball, and a facet is no
    nearer than its hyperplane, whose distance is a projection. Hyperplanes are taken in the order
    of their distances, which are all to the image itself.

    Attributes:
        mode: "complete" finds, where the boundary between two classes in a region may be near, its
            nearest point by a quadratic or linear program, and likewise the facet's, so that it
            enters no region that is empty. The other two cross every hyperplane, and try the
            projection to the boundary's hyperplane as a witness; where it is none, "lower_bound"
            ends with UNKNOWN, and "incomplete" goes on to look for witnesses further out. Their
            radius is the distance of the first such hyperplane.
    """

    mode: Literal["incomplete", "lower_bound", "complete"] = "complete"

    def decide(self, network: Network, goal: Goal) -> Status | np.ndarray:
        """Searches up to the radius."""
        status, _, point = _Search(self, network, goal).run(goal.radius)
        return point if point is not None else status

    def radius_of(self, network: Network, goal: Goal) -> float:
        """The distance at which the search ends; a lower bound if the time is up before."""
        _, radius, _ = _Search(self, network, goal).run(np.inf)
        return max(radius * (1 - 1e-9), 0.0)


class _Search:
    """A queue of hyperplanes by their distance to the image."""

    def __init__(self, method: Projections, network: Network, goal: Goal) -> None:
        self.method, self.network, self.goal = method, network, goal
        self.plan, self.x = unrolled(network), goal.x.ravel()
        self.queue: list[Any] = []
        self.number, self.visited = itertools.count(), set()
        self._visit(Pattern(self.plan, self._pattern_at(self.x)))

    def run(self, limit: float) -> tuple[Status, float, np.ndarray | None]:
        """What is found up to a distance: a status, how far was seen, and perhaps a witness."""
        seen, is_open = 0.0, False
        while self.queue and self.queue[0][0] <= limit * _ROOM:
            if self.goal.is_late:
                return Status.UNKNOWN, seen, None
            distance, _, kind, pattern, index = heapq.heappop(self.queue)
            seen = max(seen, distance)
            if kind == "unit":
                self._reach(pattern, index, distance)
            elif kind == "facet":
                self._cross(pattern, index)
            elif kind == "point":
                return Status.UNKNOWN, seen, self._deepest(pattern, index, limit)
            elif self.method.mode == "complete":
                is_open |= not self._solve(pattern, index)
            elif (point := self._projected(pattern, index)) is not None:
                return Status.UNKNOWN, seen, point
            elif self.method.mode == "lower_bound" or limit == np.inf:
                return Status.UNKNOWN, seen, None
            else:
                is_open = True
            if is_open and limit == np.inf:
                return Status.UNKNOWN, seen, None
        status = Status.UNKNOWN if is_open else Status.VERIFIED
        return status, limit if self.queue else np.inf, None

    def _solve(self, pattern: Pattern, rival: int) -> bool:
        """Whether it is known where a rival is level in the pattern's region, if anywhere."""
        distance, _ = self._nearest(*pattern.lost(self.goal.label, rival))
        self._push(distance, "point", pattern, rival)
        return not np.isnan(distance)

    def _deepest(self, pattern: Pattern, rival: int, limit: float) -> np.ndarray | None:
        """A point that may be a witness, for who looks no further than a radius."""
        if limit == np.inf:
            return None
        rows, limits = pattern.lost(self.goal.label, rival)
        about: Any = {"norm": self.goal.norm, "box": self.goal.box}
        return deepest(self.x, rows, limits, radius=self.goal.radius, **about)

    def _reach(self, pattern: Pattern, unit: int, distance: float) -> None:
        """Puts the facet behind a hyperplane in the queue, if there is one."""
        if self._beyond(pattern, unit).tobytes() in self.visited:
            return
        if self.method.mode == "complete":
            # A region that is not empty has a facet there if there is a point beyond it.
            sides, limits = pattern.region()
            sides[unit], limits[unit] = -sides[unit], -limits[unit]
            exact, _ = self._nearest(sides, limits)
            distance = distance if np.isnan(exact) else max(exact, distance)
        self._push(distance, "facet", pattern, unit)

    def _nearest(self, rows: np.ndarray, limits: np.ndarray) -> Any:
        return nearest(self.x, rows, limits, norm=self.goal.norm, box=self.goal.box)

    def _projected(self, pattern: Pattern, rival: int) -> np.ndarray | None:
        """The nearest point at which a rival is level, if the network is the pattern's there."""
        rows, constants = pattern.leads(self.goal.label)
        step = _step(rows[rival], float(rows[rival] @ self.x + constants[rival]), self.goal.norm)
        return first_witness(self.network, self.goal, [self.x + step * (1 + 1e-9)])

    def _cross(self, pattern: Pattern, unit: int) -> None:
        is_on = self._beyond(pattern, unit)
        if is_on.tobytes() not in self.visited:
            self._visit(Pattern(self.plan, is_on))

    def _beyond(self, pattern: Pattern, unit: int) -> np.ndarray:
        is_on = pattern.is_on.copy()
        is_on[unit] = not is_on[unit]
        return is_on

    def _visit(self, pattern: Pattern) -> None:
        self.visited.add(pattern.is_on.tobytes())
        for unit, distance in enumerate(_distances(*pattern.units, self.x, self.goal.norm)):
            self._push(distance, "unit", pattern, unit)
        rows, constants = pattern.leads(self.goal.label)
        distances = _distances(rows, constants, self.x, self.goal.norm, is_signed=True)
        for rival, distance in enumerate(distances):
            if rival != self.goal.label:
                self._push(distance, "boundary", pattern, rival)

    def _push(self, distance: float, kind: str, pattern: Pattern, index: Any) -> None:
        if np.isfinite(distance):
            heapq.heappush(self.queue, (distance, next(self.number), kind, pattern, index))

    def _pattern_at(self, x: np.ndarray) -> np.ndarray:
        matrix, constant = self.plan.units
        d, is_on, outputs = self.plan.pixels, np.zeros(len(constant), bool), np.zeros(len(constant))
        for unit in range(len(constant)):
            value = matrix[unit, :d] @ x + matrix[unit, d:] @ outputs + constant[unit]
            is_on[unit], outputs[unit] = value > 0, max(value, 0)
        return is_on


def _distances(
    rows: np.ndarray, constants: np.ndarray, x: np.ndarray, norm: Norm, *, is_signed: bool = False
) -> np.ndarray:
    """From x to the hyperplanes rows x + constants = 0; infinity where there is none.

    Signed, 0 where x is on the negative side: a region's affine function may say at the image,
    outside the region, that another class is ahead.
    """
    values = rows @ x + constants
    away = np.maximum(values, 0) if is_signed else np.abs(values)
    scale = np.abs(rows).max(axis=1, initial=0.0)
    unit = rows / np.where(scale > 0, scale, 1.0)[:, None]
    sizes = scale * (np.sqrt(np.square(unit).sum(1)) if norm == "l2" else np.abs(unit).sum(1))
    flat = np.where(is_signed & (values <= 0), 0.0, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sizes > 0, away / sizes, flat)


def _step(row: np.ndarray, value: float, norm: Norm) -> np.ndarray:
    """The shortest move from where a function has a value to where it is 0."""
    scale = np.abs(row).max(initial=0.0) or 1.0
    unit = row / scale
    if norm == "l2":
        return -value / scale * unit / max(np.square(unit).sum(), 1e-300)
    return -value / scale * np.sign(unit) / max(np.abs(unit).sum(), 1e-300)
