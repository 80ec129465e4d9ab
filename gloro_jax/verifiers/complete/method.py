"""What complete methods share: they look at one image at a time, within a time limit."""

import abc
import dataclasses
import math
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits, jit
from gloro_jax.verifiers.boxes import Walk
from gloro_jax.verifiers.crown import Crown
from gloro_jax.verifiers.incomplete import bracket
from gloro_jax.verifiers.operations import Chain, Relu, relus
from gloro_jax.verifiers.regions import Box, Norm, region
from gloro_jax.verifiers.rules import chain_of
from gloro_jax.verifiers.scores import (
    charge_of,
    in_float64,
    is_inside,
    is_misclassified,
    predictions,
)
from gloro_jax.verifiers.verdicts import Status, Verdicts, Verifier

_FURTHER = (0.0, *np.geomspace(1e-12, 1e-3, 10))


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

    def inside(self, point: np.ndarray) -> np.ndarray:
        """A point of the region near a point that a solver found."""
        limits = (-np.inf, np.inf) if self.box is None else self.box
        point = np.clip(point.reshape(self.x.shape), *limits)
        radius = self.radius * (1 - 1e-12)
        if self.norm == "linf":
            return np.clip(point, self.x - radius, self.x + radius)
        moved = point - self.x
        length = float(np.sqrt(np.square(moved).sum()))
        return point if length <= radius else self.x + moved * (radius / length)


@dataclasses.dataclass(frozen=True)
class Complete(Verifier):
    """A method that decides every image, given time.

    VERIFIED is "numerical": it rests on a solver, or on arithmetic whose errors are not counted. A
    witness is checked in float64, rounding counted, and its distance exactly.

    Attributes:
        time_limit: seconds for an image; UNKNOWN after that.
    """

    time_limit: float = 60.0

    def __post_init__(self) -> None:
        """Raises a ValueError for a time limit that is not positive."""
        super().__post_init__()
        if not self.time_limit > 0:
            raise ValueError(f"time_limit is a positive number of seconds, got {self.time_limit}.")

    @abc.abstractmethod
    def decide(self, network: Network, goal: Goal) -> Status | np.ndarray:
        """VERIFIED, UNKNOWN, or a point that may be a witness."""

    def _verdicts(
        self,
        network: Network,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        norm: Norm,
        radius: float,
        box: Box,
    ) -> Verdicts:
        wide = images.astype(np.float64)
        is_wrong = is_misclassified(network, images, labels)
        status, witness = np.zeros(len(wide), int), np.full(wide.shape, np.nan)
        seconds = np.zeros(len(wide))
        for i, x in enumerate(wide):
            began = time.perf_counter()
            goal = Goal(x, int(labels[i]), norm, radius, box, began + self.time_limit)
            found = x if is_wrong[i] else self.decide(network, goal)
            if isinstance(found, np.ndarray):
                point = witness_near(network, goal, found)
                status[i] = Status.UNKNOWN if point is None else Status.FALSIFIED
                witness[i] = np.nan if point is None else point
            else:
                status[i] = found
            seconds[i] = time.perf_counter() - began
        words = np.where(status == Status.VERIFIED, "numerical", "")
        return Verdicts(status, witness, seconds, words)

    def _radii(self, network: Network, images: np.ndarray, *, norm: Norm, box: Box) -> np.ndarray:
        likely, wide = predictions(network, images), images.astype(np.float64)
        found = np.zeros(len(images))
        for i in np.flatnonzero(likely >= 0):
            deadline = time.perf_counter() + self.time_limit
            goal = Goal(wide[i], int(likely[i]), norm, 0.0, box, deadline)
            found[i] = self.radius_of(network, goal)
        return found

    def radius_of(self, network: Network, goal: Goal) -> float:
        """The radius of one image, by bisection unless a method knows a shorter way."""

        def holds(radii: np.ndarray) -> np.ndarray:
            if goal.is_late:
                return np.zeros(1, bool)
            found = self.decide(network, goal._replace(radius=float(radii[0])))
            return np.array([not isinstance(found, np.ndarray) and found == Status.VERIFIED])

        return float(bracket(holds, np.array([0.01]), factor=4.0, close=3e-6)[0])


def witness_near(network: Network, goal: Goal, point: np.ndarray) -> np.ndarray | None:
    """A witness at a point or a little further out, for solvers stop at the boundary itself."""
    away = point.reshape(goal.x.shape) - goal.x
    return first_witness(network, goal, [goal.x + (1 + share) * away for share in _FURTHER])


def first_witness(network: Network, goal: Goal, points: Iterable[np.ndarray]) -> np.ndarray | None:
    """The first point that, moved into the region, is there exactly, and has another class."""
    tries = [goal.inside(point) for point in points]
    if not tries:
        return None
    found = is_misclassified(network, np.stack(tries), np.full(len(tries), goal.label))
    about: Any = {"norm": goal.norm, "radius": goal.radius, "box": goal.box}
    witnesses = (tries[i] for i in np.flatnonzero(found))
    return next((p for p in witnesses if is_inside(p[None], goal.x[None], **about)[0]), None)


def places(chain: Chain) -> list[tuple[Relu, slice]]:
    """Each ReLU, and where its units are among all."""
    found, first = [], 0
    for op in relus(chain):
        size = math.prod(op.after)
        found.append((op, slice(first, first + size)))
        first += size
    return found


@jit
def _relu_bounds(network: Network, area: Any, low: Any, high: Any) -> Any:
    chain, count = chain_of(network), len(area.centre)
    walk = Walk(area, None, charge_of(chain, area.centre.dtype))
    walk.limits = {
        op.unit: (low[:, at].reshape(-1, *op.after), high[:, at].reshape(-1, *op.after))
        for op, at in places(chain)
    }
    Crown().margins(network, chain, walk, np.zeros(count, np.int64), ())
    ends = [[walk.units[u][side].reshape(count, -1) for u in sorted(walk.units)] for side in (0, 1)]
    nothing = jnp.zeros((count, 0))
    return [jnp.concatenate([nothing, *parts], axis=1) for parts in ends]


def relu_bounds(
    network: Network, goal: Goal, limits: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the inputs of all ReLUs over the region, by Crown in float64.

    Args:
        network: the network.
        goal: the image and its region.
        limits: bounds (n, h) that hold by assumption, in each of n cases; None for none.

    Returns:
        Two arrays (n, h), or (h,) without limits.
    """
    h = sum(math.prod(op.after) for op in relus(chain_of(network)))
    low, high = limits or (np.full((1, h), -np.inf), np.full((1, h), np.inf))
    with in_64_bits():
        x = np.broadcast_to(goal.x, (len(low), *goal.x.shape))
        area = region(x, np.full(len(low), goal.radius), norm=goal.norm, box=goal.box)
        found = _relu_bounds(in_float64(network), area, low, high)
    low, high = (np.asarray(end) for end in found)
    return (low, high) if limits else (low[0], high[0])
