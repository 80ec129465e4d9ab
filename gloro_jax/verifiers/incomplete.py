"""Methods that bound margins from below: a float32 hint first, then a float64 proof.

A float32 bound of a ReLU's input that is slightly wrong makes an unstable ReLU look stable, and
nothing later repairs that. What float32 verifies is therefore proved again in float64, every bound
of every ReLU anew, with rounding counted; of the float32 pass it uses at most slopes, any of which
are admissible.
"""

import abc
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits, jit
from gloro_jax.verifiers.bounds.boxes import Walk, entries
from gloro_jax.verifiers.bounds.operations import Chain, relus
from gloro_jax.verifiers.bounds.regions import Box, Norm, region
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.scores import (
    batches,
    charge_of,
    in_float64,
    is_misclassified,
    predictions,
)
from gloro_jax.verifiers.verdicts import Verdicts, Verifier, verdicts

_NUMBERS = 2**26  # in the rows of one batch of images
_CLOSE = 1e-6  # the relative gap at which the search for a radius ends
_LARGEST, _SMALLEST = 2.0**1000, 2.0**-160
_ROUNDS = 600


@dataclasses.dataclass(frozen=True)
class Incomplete(Verifier):
    """A method whose lower bound of a margin may be below its least value.

    Attributes:
        is_rounding_counted: whether what float32 verifies is proved again in float64; without it,
            verdicts are "numerical", and radii those of float32.
    """

    is_rounding_counted: bool = True
    has_aid: ClassVar[bool] = False  # whether the float64 pass uses something of the float32 pass

    @abc.abstractmethod
    def margins(
        self, network: Network, chain: Chain, walk: Walk, labels: Any, aid: Any
    ) -> tuple[Any, Any]:
        """Lower bounds of the label's lead over each class, inside a program.

        Args:
            network: with arrays of the precision to compute with.
            chain: its operations.
            walk: knows the region, and what rounding is charged.
            labels: (n,).
            aid: from a float32 pass before, or ().

        Returns:
            (n, m), where the label's own entry means nothing, and an aid for the float64 pass.
        """

    def hint(
        self, network: Network, images: Any, radius: Any, labels: Any, *, norm: Norm, box: Box
    ) -> tuple[Any, Any]:
        """The margins in float32, and an aid."""
        return _bounds(network, images, radius, labels, (), method=self, norm=norm, box=box)

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
        began, radii = time.perf_counter(), np.full(len(images), radius)
        is_wrong = is_misclassified(network, images, labels)
        search = _Bounds(self, network, images, labels, norm=norm, box=box)
        is_verified = search.hints(radii)
        if self.is_rounding_counted:
            is_verified[is_verified] = search.of(is_verified).holds(radii[is_verified])
        semantics = "rounded" if self.is_rounding_counted else "numerical"
        return verdicts(
            images, is_verified=is_verified, is_wrong=is_wrong, semantics=semantics, began=began
        )

    def _radii(self, network: Network, images: np.ndarray, *, norm: Norm, box: Box) -> np.ndarray:
        likely = predictions(network, images)
        radii, is_clear = np.zeros(len(images)), likely >= 0
        if is_clear.any():
            some = _Bounds(self, network, images[is_clear], likely[is_clear], norm=norm, box=box)
            radii[is_clear] = self._radii_of(some, box)
        return radii

    def _radii_of(self, search: "_Bounds", box: Box) -> np.ndarray:
        count = len(search.images)
        found = bracket(search.hints, np.full(count, 0.01), factor=4.0, close=1e-5)
        holds = search.hints
        if self.is_rounding_counted:
            holds, begin = search.holds, np.where(found > 0, found, 0.01)
            found = bracket(holds, begin, factor=1 + 1e-5, close=_CLOSE)
        if box is not None:
            found = np.where(holds(np.full(count, np.inf)), np.inf, found)
        return found


@dataclasses.dataclass(eq=False)
class _Bounds:
    method: Incomplete
    network: Network
    images: np.ndarray
    labels: np.ndarray
    norm: Norm
    box: Box

    def __post_init__(self) -> None:
        self.wide = in_float64(self.network)

    def of(self, chosen: np.ndarray) -> "_Bounds":
        """The same for some of the images."""
        return dataclasses.replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def holds(self, radii: np.ndarray) -> np.ndarray:
        """Whether each image is proved at its radius, (n,), in float64."""
        return self._margins(radii, True)

    def hints(self, radii: np.ndarray) -> np.ndarray:
        """Whether float32 verifies it."""
        return self._margins(radii, False)

    def _margins(self, radii: np.ndarray, is_proof: bool) -> np.ndarray:
        low, found = None, []
        arrays = (self.images, radii, self.labels)
        for images, radius, labels in batches(_at_once(self.network), *arrays):
            about = {"norm": self.norm, "box": self.box}
            with np.errstate(over="ignore"):
                narrow = radius.astype(np.float32)
            aid: Any = ()
            if not is_proof or self.method.has_aid:
                low, aid = self.method.hint(self.network, images, narrow, labels, **about)
            if is_proof:
                with in_64_bits():
                    wide = images.astype(np.float64)
                    method = self.method
                    low, _ = _bounds(self.wide, wide, radius, labels, aid, method=method, **about)
            low = np.array(low)
            low[np.arange(len(low)), labels] = np.inf
            found.append((low > 0).all(axis=1))
        return np.concatenate(found)[: len(self.images)] if found else np.zeros(0, bool)


def _program(
    network: Network,
    images: Any,
    radius: Any,
    labels: Any,
    aid: Any,
    *,
    method: Incomplete,
    norm: Norm,
    box: Box,
) -> Any:
    chain = chain_of(network)
    area = region(images, radius, norm=norm, box=box)
    walk = Walk(area, None, charge_of(chain, images.dtype))
    return method.margins(network, chain, walk, labels, aid)


_bounds = jit(_program, static_argnames=("method", "norm", "box"))


def _at_once(network: Network) -> int:
    """How many images' rows fit into memory together."""
    chain = chain_of(network)
    after_first = [math.prod(op.after) for op in relus(chain)][1:]
    return int(np.clip(_NUMBERS // (2 * max(after_first, default=1) * entries(chain)), 1, 128))


def bracket(
    holds: Callable[[np.ndarray], np.ndarray], start: np.ndarray, *, factor: float, close: float
) -> np.ndarray:
    """The largest radii found at which something holds, each within `close` of one that fails.

    Args:
        holds: radii (n,) to whether it holds.
        start: (n,) where to look first.
        factor: by how much to step until one holds and one fails; it is squared each time.
        close: the relative gap to leave.

    Returns:
        (n,) radii at which it was seen to hold; 0 where none was.
    """
    low, high, at, step = np.zeros_like(start), np.full_like(start, np.inf), start, factor
    for _ in range(_ROUNDS):
        is_open = (high > low * (1 + close)) & (low < _LARGEST) & (high > _SMALLEST)
        if not is_open.any():
            break
        at = np.where(is_open, at, np.where(low > 0, low, start))
        is_held = holds(at) & is_open
        low = np.where(is_held, at, low)
        high = np.where(is_open & ~is_held, at, high)
        has_both = (low > 0) & np.isfinite(high)
        with np.errstate(over="ignore"):
            outside = np.where(low > 0, at * step, at / step)
        between = np.sqrt(low) * np.sqrt(np.where(has_both, high, 1.0))
        at = np.where(has_both, between, outside)
        step = min(step * step, 64.0) if factor < 2 else factor
    return low
