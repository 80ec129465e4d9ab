"""Activation layers: the functions of `gloro_jax.activations`, all 1-Lipschitz."""

from typing import Any

import jax
import jax.numpy as jnp

from gloro_jax.activations import Order, Pairing, minmax, smooth_abs, smooth_minmax
from gloro_jax.layers.base import LipschitzLayer, check_bounded
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.steps import Step


class MinMax(LipschitzLayer):
    """Sorts pairs of channels; preserves the norm of gradients, which ReLU does not.

    Attributes:
        pairing: "halves" pairs channel i with i + C/2; "adjacent" pairs 2i with 2i + 1.
        order: which of the pair comes first.
    """

    pairing: Pairing = "halves"
    order: Order = "max_min"

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError for an odd number of channels."""
        check_bounded(x, self)
        options: Any = {"pairing": self.pairing, "order": self.order}
        step = Step.of("minmax", **options)
        return x.apply(lambda v: minmax(v, **options), lipschitz=1.0, step=step)


class ReLU(LipschitzLayer):
    """max(x, 0): slope 0 or 1."""

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer."""
        check_bounded(x, self)
        return x.apply(jax.nn.relu, lipschitz=1.0, step=Step.of("relu"))


class Abs(LipschitzLayer):
    """|x|: slope -1 or 1."""

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer."""
        check_bounded(x, self)
        return x.apply(jnp.abs, lipschitz=1.0, step=Step.of("abs"))


class SmoothMinMax(LipschitzLayer):
    """MinMax with its kink rounded off, see `activations.smooth_minmax`.

    Attributes:
        softness: c > 0, the width of the rounding.
    """

    softness: float = 0.1

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError for an odd number of channels."""
        check_bounded(x, self)
        step = Step.of("smooth_minmax", softness=self.softness, pairing="halves")
        return x.apply(lambda v: smooth_minmax(v, softness=self.softness), lipschitz=1.0, step=step)


class SmoothAbs(LipschitzLayer):
    """The absolute value with its kink rounded off, see `activations.smooth_abs`.

    Attributes:
        softness: c > 0, the width of the rounding.
    """

    softness: float = 0.1

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer."""
        check_bounded(x, self)
        step = Step.of("smooth_abs", softness=self.softness)
        return x.apply(lambda v: smooth_abs(v, softness=self.softness), lipschitz=1.0, step=step)
