"""MixedInteger: the network as a mixed-integer program (Tjeng, Xiao, Tedrake, ICLR 2019)."""

import dataclasses
import time
from typing import Any, ClassVar

import numpy as np
import scipy.optimize
import scipy.sparse

from gloro_jax.network import Network
from gloro_jax.verifiers.complete.method import Complete, Goal, relu_bounds
from gloro_jax.verifiers.complete.unrolled import Unrolled, unrolled
from gloro_jax.verifiers.verdicts import Status

_DOUBLINGS = 80


@dataclasses.dataclass(frozen=True)
class MixedInteger(Complete):
    """HiGHS solves the network exactly, up to its tolerances: a referee for small networks.

    Each unstable ReLU gets a binary variable. Bounds of the ReLUs' inputs come from Crown. linf
    balls only, which keep the program linear.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def decide(self, network: Network, goal: Goal) -> Status | np.ndarray:
        """One program for each other class: its least lead behind the label."""
        program = _Program(unrolled(network), goal, relu_bounds(network, goal))
        for rival in range(network.num_classes):
            if rival == goal.label:
                continue
            if goal.is_late:
                return Status.UNKNOWN
            found = program.least_lead(rival)
            if found.status == 2:  # infeasible: bounds that contradict each other prove nothing
                return Status.UNKNOWN
            if found.x is not None and found.fun <= 0:
                return goal.inside(found.x[: goal.x.size])
            if not _dual(found) > 0:
                return Status.UNKNOWN
        return Status.VERIFIED

    def radius_of(self, network: Network, goal: Goal) -> float:
        """The least radius at which another class is level, found as a minimum."""
        at, plan = 0.01, unrolled(network)
        for _ in range(_DOUBLINGS):
            here = goal._replace(radius=at)
            program = _Program(plan, here, relu_bounds(network, here))
            nearest = [
                program.least_radius(j) for j in range(network.num_classes) if j != goal.label
            ]
            if any(found is None for found in nearest) or goal.is_late:
                return 0.0
            least = min((r for r in nearest if r is not None), default=np.inf)
            if least <= at:
                return float(max(least * (1 - 1e-9), 0.0))
            if _holds_box(here):
                return np.inf
            at *= 4
        return np.inf


def _holds_box(goal: Goal) -> bool:
    if goal.box is None:
        return False
    low, high = goal.box
    return bool((goal.x - goal.radius <= low).all() and (goal.x + goal.radius >= high).all())


def _dual(found: Any) -> float:
    """A lower bound of the minimum; a program without integers has no other than its minimum."""
    bound = found.get("mip_dual_bound")
    if found.status == 0:
        return float(found.fun if bound is None else bound)
    return float(bound) if found.status == 1 and bound is not None else -np.inf


class _Program:
    """Variables: pixels, outputs of ReLUs, a binary for each ReLU, and the radius."""

    def __init__(self, plan: Unrolled, goal: Goal, bounds: tuple[np.ndarray, np.ndarray]) -> None:
        self.plan, self.goal = plan, goal
        low, high = bounds
        build: Any = scipy.optimize.LinearConstraint
        rows = [*self._units(low, high), *self._pixels(len(low))]
        self.rows = [build(*row) for row in rows if row[0].shape[0]]
        first, last = (end.ravel() for end in goal.bounds())
        on, off = np.where(low >= 0, 1.0, 0.0), np.where(high <= 0, 0.0, 1.0)
        limits: Any = scipy.optimize.Bounds
        self.bounds = limits(
            np.concatenate([first, np.zeros(len(low)), on, [0.0]]),
            np.concatenate([last, np.maximum(high, 0), np.maximum(on, off), [goal.radius]]),
        )
        count = plan.units[0].shape[1]
        self.integral = np.concatenate([np.zeros(count), np.ones(len(low)), [0.0]])

    def _units(self, low: np.ndarray, high: np.ndarray) -> list[Any]:
        """Of z = a v + c: z <= out, out <= z - least (1 - on), and out <= most on."""
        matrix, constant = self.plan.units
        h, d = len(constant), self.plan.pixels
        least, most = np.minimum(low, 0), np.maximum(high, 0)
        stack, zero = scipy.sparse.hstack, scipy.sparse.csr_matrix((h, 1))
        own = stack([scipy.sparse.csr_matrix((h, d)), scipy.sparse.identity(h)])
        ahead, nothing = own - scipy.sparse.csr_matrix(matrix), scipy.sparse.csr_matrix((h, h))
        none = np.full(h, -np.inf)
        return [
            (stack([ahead, nothing, zero]), constant, np.full(h, np.inf)),
            (stack([ahead, scipy.sparse.diags(-least), zero]), none, constant - least),
            (stack([own, scipy.sparse.diags(-most), zero]), none, np.zeros(h)),
        ]

    def _pixels(self, h: int) -> list[Any]:
        """Each pixel within the radius of its centre."""
        d, centre = self.plan.pixels, self.goal.x.ravel()
        pixels, rest = scipy.sparse.identity(d), scipy.sparse.csr_matrix((d, 2 * h))
        ones = scipy.sparse.csr_matrix(np.ones((d, 1)))
        return [
            (scipy.sparse.hstack([pixels, rest, -ones]), np.full(d, -np.inf), centre),
            (scipy.sparse.hstack([pixels, rest, ones]), centre, np.full(d, np.inf)),
        ]

    def least_lead(self, rival: int) -> Any:
        """The least of the label's score minus a rival's."""
        lead, constant = self._lead(rival)
        found = self._solve(lead, [])
        for name in ("fun", "mip_dual_bound"):
            if found.get(name) is not None:
                found[name] += constant
        return found

    def least_radius(self, rival: int) -> float | None:
        """The least radius at which a rival is level; infinity if it is not; None if unknown."""
        lead, constant = self._lead(rival)
        level = scipy.optimize.LinearConstraint(lead[None], -np.inf, -constant)
        radius = np.zeros_like(lead)
        radius[-1] = 1.0
        found = self._solve(radius, [level])
        if found.status == 2:
            return np.inf
        return _dual(found) if found.status == 0 else None

    def _lead(self, rival: int) -> tuple[np.ndarray, float]:
        matrix, constant = self.plan.scores
        row = matrix[self.goal.label] - matrix[rival]
        lead = np.concatenate([row, np.zeros(len(self.integral) - len(row))])
        return lead, float(constant[self.goal.label] - constant[rival])

    def _solve(self, cost: np.ndarray, more: list[Any]) -> Any:
        found: Any = None
        # HiGHS' own reductions now and then end in an error, which it does not make without them.
        for presolve in (True, False):
            seconds = max(0.01, self.goal.deadline - time.perf_counter())
            found = scipy.optimize.milp(
                cost,
                integrality=self.integral,
                bounds=self.bounds,
                constraints=[*self.rows, *more],
                options={"time_limit": seconds, "mip_rel_gap": 1e-9, "presolve": presolve},
            )
            if found.status != 4:
                break
        return found
