"""What a complete method is to show of one image, and what counts as a witness."""

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from gloro_jax.network import Network
from gloro_jax.verifiers.bounds.regions import Box, Norm
from gloro_jax.verifiers.scores import is_inside, is_misclassified


class Goal(NamedTuple):
    """One image, and what is to be shown of it.

    Attributes:
        x: (*shape), float64.
        label: its class.
        norm: of the ball.
        radius: of the ball.
        box: as for `Verifier.verify`.
        deadline: in seconds of `time.perf_counter`.
    """

    x: np.ndarray
    label: int
    norm: Norm
    radius: float
    box: Box
    deadline: float

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self.deadline

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest value of each pixel."""
        low, high = self.x - self.radius, self.x + self.radius
        if self.box is None:
            return low, high
        return np.maximum(low, self.box[0]), np.minimum(high, self.box[1])

    @property
    def is_whole_box(self) -> bool:
        """Whether the box lies in the ball, with its furthest corner."""
        if self.box is None:
            return False
        corner = np.maximum(np.abs(self.x - self.box[0]), np.abs(self.x - self.box[1]))
        with np.errstate(over="ignore"):
            return self.distance(self.x + corner) * (1 + 1e-9) <= self.radius

    def distance(self, point: np.ndarray) -> float:
        """From the image to a point."""
        moved = point.reshape(self.x.shape) - self.x
        return length_of(moved) if self.norm == "l2" else float(np.abs(moved).max())

    def inside(self, point: np.ndarray) -> np.ndarray:
        """A point of the region near a point that a solver found."""
        limits = (-np.inf, np.inf) if self.box is None else self.box
        point = np.clip(point.reshape(self.x.shape), *limits)
        # Less what the rounding of each entry, and of all together in l2, may add.
        last = np.spacing(np.abs(self.x).max() + self.radius)
        last = last if self.norm == "linf" else last * np.sqrt(self.x.size)
        radius = max(self.radius * (1 - 1e-12) - last, 0.0)
        if self.norm == "linf":
            return np.clip(point, self.x - radius, self.x + radius)
        moved = point - self.x
        length = length_of(moved)
        return point if length <= radius else self.x + moved * (radius / length)


def length_of(moved: np.ndarray) -> float:
    """The l2 length of a vector, whose squares may overflow or vanish."""
    largest = float(np.abs(moved).max(initial=0.0))
    if not 0 < largest < np.inf:
        return largest
    return largest * float(np.sqrt(np.square(moved / largest).sum()))


def first_witness(network: Network, goal: Goal, points: Iterable[np.ndarray]) -> np.ndarray | None:
    """The first point that, moved into the region, is there exactly, and has another class."""
    tries = [goal.inside(point) for point in points]
    if not tries:
        return None
    found = is_misclassified(network, np.stack(tries), np.full(len(tries), goal.label))
    about: Any = {"norm": goal.norm, "radius": goal.radius, "box": goal.box}
    witnesses = (tries[i] for i in np.flatnonzero(found))
    return next((p for p in witnesses if is_inside(p[None], goal.x[None], **about)[0]), None)
