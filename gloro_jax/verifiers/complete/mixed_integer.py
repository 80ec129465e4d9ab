"""MixedInteger: the network as a mixed-integer program (Tjeng, Xiao, Tedrake, ICLR 2019)."""

import dataclasses
import time
from typing import Any, ClassVar

import numpy as np
import scipy.optimize
import scipy.sparse

from gloro_jax.network import Network
from gloro_jax.verifiers.complete.goals import Goal
from gloro_jax.verifiers.complete.method import Complete, relu_bounds
from gloro_jax.verifiers.complete.unrolled import Unrolled, unrolled
from gloro_jax.verifiers.verdicts import Status

_DOUBLINGS = 80
_SHARP = 1e3  # rows are given in so many times their size, and tolerances count for less
_CLOSE = 1e-9  # what a lead must exceed, of the size of what it is made of


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
            if found.x is not None and found.fun <= _CLOSE:
                return goal.inside(program.point(found.x))
            if not _dual(found) > _CLOSE:
                return Status.UNKNOWN
        return Status.VERIFIED

    def radius_of(self, network: Network, goal: Goal) -> float:
        """The least radius at which another class is level, found as a minimum.

        Where balls grow until the solver's tolerances hide what is left of the lead, the radius of
        the last one without such a point.
        """
        at, seen, plan = 0.01, 0.0, unrolled(network)
        for _ in range(_DOUBLINGS):
            here = goal._replace(radius=at)
            program = _Program(plan, here, relu_bounds(network, here))
            nearest = [
                program.least_radius(j) for j in range(network.num_classes) if j != goal.label
            ]
            if any(found is None for found in nearest) or goal.is_late:
                return seen
            least = min((r for r in nearest if r is not None), default=np.inf)
            if least <= 1:
                return float(max(least * at * (1 - 1e-9), seen))
            if here.is_whole_box:
                return np.inf
            at, seen = 4 * at, at
        return seen


def _dual(found: Any) -> float:
    """A lower bound of the minimum; a program without integers has no other than its minimum."""
    bound = found.get("mip_dual_bound")
    if found.status == 0:
        return float(found.fun if bound is None else bound)
    return float(bound) if found.status == 1 and bound is not None else -np.inf


class _Program:
    """Variables: pixels, outputs of ReLUs, a binary for each ReLU, and the radius.

    HiGHS' tolerances are absolute, and it drops what is below 1e-9. Pixels are therefore counted
    from the image's, in units of how far each may move, outputs of ReLUs and their inputs in units
    of how large they can be, leads in units of what they are made of, and the radius in its own.
    """

    def __init__(self, plan: Unrolled, goal: Goal, bounds: tuple[np.ndarray, np.ndarray]) -> None:
        self.goal, centre = goal, goal.x.ravel()
        low, high = bounds
        first, last = (end.ravel() - centre for end in goal.bounds())
        self.reach = np.maximum(np.maximum(last, -first), 1e-300)
        largest = np.maximum(np.maximum(high, -low), 1e-300)
        self.units = np.concatenate([self.reach, largest])
        self.zero = np.concatenate([centre, np.zeros(len(low))])
        matrix, constant = self._scaled(*plan.units)
        matrix, constant = matrix / largest[:, None], constant / largest
        low, high = low / largest, high / largest
        build: Any = scipy.optimize.LinearConstraint
        rows = [*self._units(matrix, constant, low, high), *self._pixels(len(low))]
        self.rows = [build(*(_SHARP * part for part in row)) for row in rows if row[0].shape[0]]
        on, off = np.where(low >= 0, 1.0, 0.0), np.where(high <= 0, 0.0, 1.0)
        limits: Any = scipy.optimize.Bounds
        self.bounds = limits(
            np.concatenate([first / self.reach, np.zeros(len(low)), on, [0.0]]),
            np.concatenate([last / self.reach, np.maximum(high, 0), np.maximum(on, off), [1.0]]),
        )
        self.integral = np.concatenate([np.zeros(len(self.units)), np.ones(len(low)), [0.0]])
        self.scores = self._scaled(*plan.scores)

    def point(self, variables: np.ndarray) -> np.ndarray:
        """The image that variables stand for."""
        d = self.goal.x.size
        return self.zero[:d] + self.reach * variables[:d]

    def _scaled(self, matrix: np.ndarray, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows in terms of the variables."""
        return matrix * self.units, constant + matrix @ self.zero

    def _units(
        self, matrix: np.ndarray, constant: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> list[Any]:
        """Of z = a v + c: z <= out, out <= z - least (1 - on), and out <= most on."""
        h, d = len(constant), matrix.shape[1] - len(constant)
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
        d, share = len(self.reach), self.reach / self.goal.radius
        pixels, rest = scipy.sparse.diags(share), scipy.sparse.csr_matrix((d, 2 * h))
        ones = scipy.sparse.csr_matrix(np.ones((d, 1)))
        return [
            (scipy.sparse.hstack([pixels, rest, -ones]), np.full(d, -np.inf), np.zeros(d)),
            (scipy.sparse.hstack([pixels, rest, ones]), np.zeros(d), np.full(d, np.inf)),
        ]

    def least_lead(self, rival: int) -> Any:
        """The least of the label's score minus a rival's, in units of what that is made of."""
        lead, constant = self._lead(rival)
        found = self._solve(lead, [])
        for name in ("fun", "mip_dual_bound"):
            if found.get(name) is not None:
                found[name] += constant
        return found

    def least_radius(self, rival: int) -> float | None:
        """The least share of the radius at which a rival is level; infinity; None if unknown."""
        lead, constant = self._lead(rival)
        level = scipy.optimize.LinearConstraint(_SHARP * lead[None], -np.inf, -_SHARP * constant)
        radius = np.zeros_like(lead)
        radius[-1] = 1.0
        found = self._solve(radius, [level])
        if found.status == 2:  # which proves nothing alone: tolerances hide thin regions
            return np.inf if _dual(self.least_lead(rival)) > _CLOSE else None
        return _dual(found) if found.status == 0 else None

    def _lead(self, rival: int) -> tuple[np.ndarray, float]:
        matrix, constant = self.scores
        row, label = matrix[self.goal.label] - matrix[rival], self.goal.label
        offset = float(constant[label] - constant[rival])
        size = max(np.abs(row).max(initial=0.0), abs(offset), 1e-300)
        lead = np.concatenate([row / size, np.zeros(len(self.integral) - len(row))])
        return lead, offset / size

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
