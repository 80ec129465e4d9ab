"""What a verifier says, and what it says it about."""

import abc
import dataclasses
import enum
import time
from typing import Any, ClassVar

import numpy as np

from gloro_jax.frozen_net import FrozenNet
from gloro_jax.images import refuse_bytes
from gloro_jax.network import Network, network_of
from gloro_jax.plain import as_array, number, settle
from gloro_jax.platforms import check_outside_jit
from gloro_jax.verifiers.bounds.regions import Box, Norm, check_norm, checked_box
from gloro_jax.verifiers.bounds.rules import check_executed, check_rules


class Status(enum.IntEnum):
    """Whether an image keeps its class in the whole region around it."""

    UNKNOWN = 0
    VERIFIED = 1
    FALSIFIED = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Verdicts:
    """What a verifier says of n images.

    Attributes:
        status: (n,) of `Status`: VERIFIED where every point of the region has the label,
            FALSIFIED where one is known that has not, UNKNOWN otherwise.
        witness: (n, *shape) float64: of FALSIFIED images, a point of the region, exactly inside,
            whose class is not the label in float64 arithmetic, rounding counted; NaN otherwise.
        seconds: (n,) spent on each image; what images share is divided among them.
        semantics: (n,) of text: "rounded" where VERIFIED is proved with every rounding error
            counted, "numerical" where it rests on arithmetic or a solver whose errors are not
            counted; "" where nothing is verified. They are never added up.
    """

    status: np.ndarray
    witness: np.ndarray
    seconds: np.ndarray
    semantics: np.ndarray

    @property
    def is_verified(self) -> np.ndarray:
        """(n,), of either semantics."""
        return self.status == Status.VERIFIED


def verdicts(
    images: np.ndarray,
    *,
    is_verified: np.ndarray,
    is_wrong: np.ndarray,
    semantics: str,
    began: float,
) -> Verdicts:
    """The verdicts of a method that finds no witnesses but misclassified images themselves."""
    status = np.where(is_wrong, Status.FALSIFIED, np.where(is_verified, Status.VERIFIED, 0))
    witness = np.where(is_wrong.reshape(-1, *(1,) * (images.ndim - 1)), images, np.nan)
    seconds = np.full(len(images), (time.perf_counter() - began) / max(1, len(images)))
    words = np.where(status == Status.VERIFIED, semantics, "")
    return Verdicts(status, witness.astype(np.float64), seconds, words)


class Verifier(abc.ABC):
    """A method that proves, for images and a network, that a ball around each keeps its class.

    Attributes:
        norms: of the balls that the method knows.
        is_of_network: whether a verdict speaks of the network that it was given.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    is_of_network: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises a ValueError for a field that is not of the kind that it must be."""
        settle(self)

    @property
    def name(self) -> str:
        """The method's name."""
        return type(self).__name__

    def verify(
        self,
        frozen: FrozenNet,
        x: Any,
        labels: Any,
        *,
        norm: Norm = "linf",
        radius: float | str,
        box: Box = None,
    ) -> Verdicts:
        """Whether all points of balls around images have the label.

        Args:
            frozen: from `gj.freeze` or `gj.load`.
            x: images (n, *shape), float32.
            labels: (n,) integers; a label that the network does not predict is FALSIFIED.
            norm: "linf" or "l2".
            radius: of the balls, in the units of x, 0.1 or "2/255"; the ball is closed.
            box: None for all of R^n, or (lower, upper), where the region is the ball's part in it.

        Returns:
            The verdicts.

        Raises:
            TypeError: if x is not float32.
            ValueError: if the norm is unknown to the method, the radius is not positive and finite,
                a label is no class, a shape does not fit, the box does not contain x, or the
                network has a step without a rule.
        """
        network, images, box = self._opened(frozen, x, norm=norm, box=box)
        goals = _labels(labels, images, network.num_classes)
        return self._verdicts(network, images, goals, norm=norm, radius=_radius(radius), box=box)

    def certified_radius(
        self, frozen: FrozenNet, x: Any, *, norm: Norm = "l2", box: Box = None
    ) -> np.ndarray:
        """The largest radius found at which `verify` holds for the network's own prediction.

        Args:
            frozen: from `gj.freeze` or `gj.load`.
            x: images (n, *shape), float32.
            norm: "linf" or "l2".
            box: as for `verify`; infinity where the whole box is of one class.

        Returns:
            (n,) float64, rounded down; 0 on a tie. There is no upper limit. Where the time of a
            complete method is up, it is the largest radius that was verified until then.

        Raises:
            TypeError: if x is not float32.
            ValueError: as for `verify`.
        """
        network, images, box = self._opened(frozen, x, norm=norm, box=box)
        return self._radii(network, images, norm=norm, box=box)

    def _opened(
        self, frozen: FrozenNet, x: Any, *, norm: Norm, box: Box
    ) -> tuple[Any, np.ndarray, Box]:
        check_norm(norm, self.norms, method=self.name)
        if not isinstance(frozen, FrozenNet):
            raise TypeError(
                f"{self.name} takes a FrozenNet, got {type(frozen).__name__}: "
                "gj.freeze(net, variables, input_shape=...), or gj.load(run)."
            )
        check_outside_jit(frozen, x, what=self.name)
        images = np.asarray(frozen.check_images(x))
        if images.ndim != len(frozen.input_shape) + 1:
            raise ValueError(
                f"x is a batch of images (n, {', '.join(map(str, frozen.input_shape))}), got shape "
                f"{images.shape}."
            )
        refuse_bytes(images, frozen.input_shape)
        if not np.isfinite(images).all():
            raise ValueError("x holds NaN or infinity, around which nothing can be verified.")
        if not len(images):
            raise ValueError("x holds no image.")
        return self._read(frozen), images, checked_box(box, images)

    def _read(self, frozen: FrozenNet) -> Any:
        """What the method reads; raises a ValueError for a step without a rule."""
        network = network_of(frozen)
        check_rules(network, method=self.name)
        check_executed(network, frozen)
        return network

    @abc.abstractmethod
    def _verdicts(
        self,
        network: Network,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        norm: Norm,
        radius: float,
        box: Box,
    ) -> Verdicts: ...

    @abc.abstractmethod
    def _radii(
        self, network: Network, images: np.ndarray, *, norm: Norm, box: Box
    ) -> np.ndarray: ...


def _labels(labels: Any, images: np.ndarray, m: int) -> np.ndarray:
    given = as_array(labels, name="labels")
    if given.shape != (len(images),) or given.dtype.kind not in "iu":
        raise ValueError(
            f"labels are one integer for each of {len(images)} images, got {given.dtype} of shape "
            f"{given.shape}."
        )
    wrong = (given < 0) | (given >= m)
    if wrong.any():
        raise ValueError(
            f"labels of {m} classes are 0 to {m - 1}, got {given[wrong][0]} for image "
            f"{int(wrong.argmax())}."
        )
    return given.astype(np.int64)


def _radius(radius: Any) -> float:
    try:
        found = number(radius)
    except ValueError:
        raise ValueError(f"radius is a number such as 0.3 or '2/255', got {radius!r}.") from None
    if not 0 < found < np.inf:
        raise ValueError(
            f"radius is positive and finite, in the units of x, 0.1 or '2/255'; got {radius!r}."
        )
    return found
