"""Branches that join."""

import flax.linen as nn

from gloro_jax.layers.base import LipschitzLayer, check_bounded
from gloro_jax.lipschitz.bounded import Bounded


class Residual(LipschitzLayer):
    """x + branch(x), with constant 1 + Lip(branch).

    The sum of constants is the best that can be said of a branch with a non-linearity in it. For
    a linear branch it is loose: put the identity into the kernel and bound the sum as one
    operator.

    Attributes:
        branch: a module from `Bounded` to `Bounded` that keeps the shape.
    """

    branch: nn.Module

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer."""
        check_bounded(x, self)
        return Bounded.add(x, self.branch(x))
