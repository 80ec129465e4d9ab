"""What complete methods share: they look at one image at a time, within a time limit."""

import abc
import dataclasses
import math
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits, jit, one_blas_thread
from gloro_jax.verifiers.bounds.boxes import Boxed, Walk
from gloro_jax.verifiers.bounds.operations import Chain, Relu, relus
from gloro_jax.verifiers.bounds.regions import Box, Norm, region
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.complete.descent import witness_near
from gloro_jax.verifiers.complete.goals import Goal
from gloro_jax.verifiers.crown import Crown
from gloro_jax.verifiers.incomplete import bracket
from gloro_jax.verifiers.scores import (
    charge_of,
    in_float64,
    judged,
    predictions,
)
from gloro_jax.verifiers.verdicts import Status, Verdicts, Verifier


@dataclasses.dataclass(frozen=True)
class Complete(Verifier):
    """A method that decides every image, given time.

    VERIFIED is "numerical": it rests on a solver, or on arithmetic whose errors are not counted. A
    witness is checked in float64, rounding counted, and its distance exactly.

    Attributes:
        time_limit: seconds for an image, compilation apart; UNKNOWN after that.
    """

    time_limit: float = 60.0

    def __post_init__(self) -> None:
        """Raises a ValueError for a time limit that is not positive."""
        super().__post_init__()
        if not self.time_limit > 0:
            raise ValueError(f"time_limit is a positive number of seconds, got {self.time_limit}.")

    def prepare(self, network: Network, goal: Goal) -> None:
        """Compiles what `decide` runs, so that no image's time goes into that."""

    @abc.abstractmethod
    def decide(self, network: Network, goal: Goal) -> Status | np.ndarray:
        """VERIFIED, UNKNOWN, or a point that may be a witness."""

    @one_blas_thread()  # thousands of small systems, and jax's own threads beside them
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
        is_wrong, is_known = judged(network, images, labels)
        status, witness = np.zeros(len(wide), int), np.full(wide.shape, np.nan)
        seconds = np.zeros(len(wide))
        if not is_wrong.all():
            self.prepare(network, Goal(wide[0], int(labels[0]), norm, radius, box, np.inf))
        for i, x in enumerate(wide):
            began = time.perf_counter()
            goal = Goal(x, int(labels[i]), norm, radius, box, began + self.time_limit)
            found = x if is_wrong[i] else self.decide(network, goal)
            if isinstance(found, np.ndarray):
                point = witness_near(network, goal, found)
                status[i] = Status.UNKNOWN if point is None else Status.FALSIFIED
                witness[i] = np.nan if point is None else point
            elif is_known[i]:  # what is level at the image itself is verified nowhere
                status[i] = found
            seconds[i] = time.perf_counter() - began
        words = np.where(status == Status.VERIFIED, "numerical", "")
        return Verdicts(status, witness, seconds, words)

    @one_blas_thread()
    def _radii(self, network: Network, images: np.ndarray, *, norm: Norm, box: Box) -> np.ndarray:
        likely, wide = predictions(network, images), images.astype(np.float64)
        found, known = np.zeros(len(images)), np.flatnonzero(likely >= 0)
        if len(known):
            self.prepare(network, Goal(wide[0], int(likely[known[0]]), norm, 0.01, box, np.inf))
        for i in known:
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


def places(chain: Chain) -> list[tuple[Relu, slice]]:
    """Each ReLU, and where its units are among all."""
    found, first = [], 0
    for op in relus(chain):
        size = math.prod(op.after)
        found.append((op, slice(first, first + size)))
        first += size
    return found


def by_unit(chain: Chain, low: Any, high: Any) -> dict[int, Boxed]:
    """Bounds (n, h) of all ReLUs' inputs, for each ReLU in its shape."""
    return {
        op.unit: (low[:, at].reshape(-1, *op.after), high[:, at].reshape(-1, *op.after))
        for op, at in places(chain)
    }


@jit
def _relu_bounds(network: Network, area: Any, low: Any, high: Any) -> Any:
    chain, count = chain_of(network), len(area.centre)
    walk = Walk(area, None, charge_of(chain, area.centre.dtype), limits=by_unit(chain, low, high))
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
