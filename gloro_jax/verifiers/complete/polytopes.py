"""The nearest point of a polytope, by scipy's solvers."""

from typing import Any

import numpy as np
import scipy.optimize

from gloro_jax.verifiers.bounds.regions import Box, Norm
from gloro_jax.verifiers.complete.goals import length_of
from gloro_jax.verifiers.complete.unrolled import Unrolled

_INFEASIBLE = 2  # of scipy's linprog
_ROOMS = 4.0 ** -np.arange(16)
_NOISE = 1e-13  # what a lead is wrong by, of the size of what it is made of


class Pattern:
    """The affine functions that a network is where each ReLU is on or off as a pattern says.

    Attributes:
        is_on: (h,).
        units: the inputs of all ReLUs are units[0] x + units[1], (h, d) and (h,).
        scores: the scores likewise, (m, d) and (m,).
    """

    def __init__(self, plan: Unrolled, is_on: np.ndarray) -> None:
        self.is_on, d = is_on, plan.pixels
        matrix, constant = plan.units
        # An input depends on outputs of ReLUs before it: a triangular system.
        inner = np.eye(len(constant)) - matrix[:, d:] * is_on
        solved = scipy.linalg.solve_triangular(
            inner, np.column_stack([matrix[:, :d], constant]), lower=True, unit_diagonal=True
        )
        self.units = (solved[:, :-1], solved[:, -1])
        scores, offset = plan.scores
        hidden = scores[:, d:] * is_on
        self.scores = (scores[:, :d] + hidden @ self.units[0], offset + hidden @ self.units[1])
        parts, hidden = np.abs(scores[:, :d]), np.abs(hidden)
        self._sizes = (
            parts + hidden @ np.abs(self.units[0]),
            np.abs(offset) + hidden @ np.abs(self.units[1]),
        )

    def region(self) -> tuple[np.ndarray, np.ndarray]:
        """G and g, with G x <= g where the network has this pattern."""
        signs = np.where(self.is_on, -1.0, 1.0)
        return signs[:, None] * self.units[0], -signs * self.units[1]

    def leads(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """The label's score minus each score, (m, d) and (m,), and no lead made by rounding."""
        (matrix, constant), (sizes, most) = self.scores, self._sizes
        rows, noise = matrix[label] - matrix, _NOISE * (sizes[label] + sizes)
        lead = constant[label] - constant - _NOISE * (most[label] + most)
        return np.where(np.abs(rows) > noise, rows, 0.0), lead

    def lost(self, label: int, rival: int) -> tuple[np.ndarray, np.ndarray]:
        """G and g, with G x <= g where the network has this pattern and the rival is not behind."""
        (rows, constants), (sides, limits) = self.leads(label), self.region()
        return np.vstack([sides, rows[rival]]), np.append(limits, -constants[rival])


def is_empty(
    plan: Unrolled, is_on: np.ndarray, is_open: np.ndarray, label: int, rival: int
) -> bool:
    """Whether no point of R^n has this pattern, open ReLUs aside, and the rival not behind.

    Outputs y of open ReLUs are variables of their own, with y >= 0 and y >= z: a relaxation, which
    may have points where the network has none.
    """
    d, own = plan.pixels, np.flatnonzero(is_open)
    count = d + len(own)

    def freed(matrix: np.ndarray, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.hstack([matrix[:, :d], matrix[:, d + own], matrix[:, d:]]), constant

    free = Unrolled(freed(*plan.units), freed(*plan.scores), count)
    rows, limits = Pattern(free, is_on & ~is_open).lost(label, rival)
    outputs = np.eye(count)[d:]
    rows[own] -= outputs
    rows, limits = np.vstack([rows, -outputs]), np.append(limits, np.zeros(len(own)))
    distance, _ = nearest(np.zeros(count), rows, limits, norm="linf", box=None)
    return distance == np.inf


def nearest(
    x: np.ndarray, rows: np.ndarray, limits: np.ndarray, *, norm: Norm, box: Box
) -> tuple[float, np.ndarray | None]:
    """The point nearest to x (d,) with rows point <= limits, and its distance.

    Returns:
        Infinity and None where there is none; NaN and None where the solver does not know.
    """
    if box is not None:
        eye = np.eye(len(x))
        rows = np.concatenate([rows, eye, -eye])
        limits = np.concatenate([limits, np.full(len(x), box[1]), np.full(len(x), -box[0])])
    room = limits - rows @ x
    sizes = np.sqrt(np.square(rows / _scale(rows)).sum(axis=1)) * _scale(rows)[:, 0]
    # A row of zeros says nothing of x, but may say that there is no point.
    is_empty = sizes == 0
    if (room[is_empty] < 0).any():
        return np.inf, None
    # Without rows that infinite limits make void.
    kept = ~is_empty & (room < np.inf)
    rows, room = rows[kept] / sizes[kept, None], room[kept] / sizes[kept]
    if (room >= 0).all():
        return 0.0, x
    # Rows further away than the move found are satisfied by it, and need not be looked at.
    reach, solve = 4 * -room.min(), _shortest if norm == "l2" else _flattest
    while True:
        is_near = room <= reach
        moved: Any = solve(rows[is_near], room[is_near])
        if isinstance(moved, float):
            return moved, None
        if is_near.all() or length_of(moved) <= reach:
            break
        reach *= 8
    return length_of(moved) if norm == "l2" else float(np.abs(moved).max()), x + moved


def deepest(
    x: np.ndarray, rows: np.ndarray, limits: np.ndarray, *, radius: float, norm: Norm, box: Box
) -> np.ndarray | None:
    """A point within the radius, deep behind the last row of a polytope; None if there is none.

    The nearest point is on the edge of that row, and where regions meet in a corner, any step from
    it may leave the polytope. Of a series of rooms, this is the nearest point with the largest that
    is within the radius.
    """
    row = rows[-1]
    size = length_of(row) if norm == "l2" else float(np.abs(row).sum())
    most = size * radius - float(row @ x - limits[-1])  # which the hyperplane alone would leave
    for room in (*(_ROOMS * most if 0 < most < np.inf else ()), 0.0):
        stricter = np.append(limits[:-1], limits[-1] - room)
        distance, point = nearest(x, rows, stricter, norm=norm, box=box)
        if point is not None and distance <= radius * (1 + 1e-9):
            return point
    return None


def _scale(rows: np.ndarray) -> np.ndarray:
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    return np.where(largest > 0, largest, 1.0)


def _shortest(rows: np.ndarray, room: np.ndarray) -> np.ndarray | float:
    """The shortest move with rows move <= room (least distance programming, Lawson and Hanson).

    The residual r of the non-negative least squares problem |(rows^T; room^T) u - (0, -1)| is
    proportional to (move, -1); where it nearly vanishes there may be no move, and a linear program
    says so.
    """
    scale = np.abs(room).max()
    system = np.vstack([rows.T, room[None] / scale])
    goal = np.zeros(len(system))
    goal[-1] = -1.0
    # Within scipy where rows are alike, and here where moves are too long for float64.
    with np.errstate(all="ignore"):
        found = scipy.optimize.lsq_linear(system, goal, (0, np.inf), method="bvls", tol=1e-15)
        residual = system @ found.x - goal
        move = -residual[:-1] / max(residual[-1], 1e-300) * scale
        is_clear = residual[-1] > 1e-12  # of a move up to a million times the scale
        if is_clear and (rows @ move <= room + 1e-6 * (scale + np.abs(move).max())).all():
            return move
    other = _flattest(rows, room)
    return other if isinstance(other, float) else np.nan


def _flattest(rows: np.ndarray, room: np.ndarray) -> np.ndarray | float:
    """The move with the least largest entry."""
    d, scale = rows.shape[1], np.abs(room).max()
    eye, ones = np.eye(d), np.ones((d, 1))
    matrix = np.block([[rows, np.zeros((len(rows), 1))], [eye, -ones], [-eye, -ones]])
    for method in ("highs", "highs-ipm"):  # the second where the first cannot tell
        found = scipy.optimize.linprog(
            np.append(np.zeros(d), 1.0),
            matrix,
            np.concatenate([room / scale, np.zeros(2 * d)]),
            bounds=[(None, None)] * d + [(0, None)],
            method=method,
        )
        if found.status == 0:
            return found.x[:-1] * scale
        if found.status == _INFEASIBLE:
            return np.inf
    return np.nan
