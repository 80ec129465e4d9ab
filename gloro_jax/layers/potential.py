"""Convex potential layers, dense and of images: residual, and of constant 1."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gloro_jax.layers.base import Linear, LipschitzLayer, feature_count, image_shape
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.geometry import Pair, as_pair
from gloro_jax.lipschitz.norms import random_direction
from gloro_jax.maps.potential import ConvexPotential, inner, safe_step

_ROUNDS = 50
# One direction for all, so that a network is the same function each time it is built.
_DIRECTION = 0


class CplDense(LipschitzLayer):
    """x - tau W^T relu(W x + offset) of features, tau = 2 / |W|^2 (Meunier et al., ICML 2022).

    tau comes from power iteration, anew in each pass and from one fixed direction. Freezing keeps
    it as one of the layer's arrays and proves max(1, tau |W|^2 - 1) from it (`ConvexPotential`).

    Attributes:
        hidden: outputs of W; as many as features unless given.
        rounds: of power iteration.
    """

    hidden: int | None = None
    rounds: int = _ROUNDS

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, features)."""

        def make() -> Linear:
            features = feature_count(x, self)
            hidden = features if self.hidden is None else self.hidden
            return _potential(self, (features, hidden), None)

        return self.apply_linear(x, make, trained_norm=1.0)


class CplConv(LipschitzLayer):
    """As `CplDense`, with a convolution of stride 1 and SAME padding for W.

    Attributes:
        kernel_size: window, one integer or (vertical, horizontal).
        hidden: output channels of W; as many as channels unless given.
        rounds: of power iteration.
    """

    kernel_size: int | Pair = 3
    hidden: int | None = None
    rounds: int = _ROUNDS

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, H, W, C)."""

        def make() -> Linear:
            height, width, channels = image_shape(x, self)
            window = as_pair(self.kernel_size, name="kernel_size")
            shape = (*window, channels, channels if self.hidden is None else self.hidden)
            return _potential(self, shape, (height, width))

        return self.apply_linear(x, make, trained_norm=1.0)


def _potential(layer: Any, shape: tuple[int, ...], image_size: Pair | None) -> Linear:
    for name in ("rounds", "hidden"):
        value = getattr(layer, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} of {type(layer).__name__} is at least 1, got {value!r}.")
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    kernel = jnp.asarray(layer.param("kernel", init, shape, jnp.float32))
    offset = layer.param("offset", nn.initializers.zeros, shape[-1:], jnp.float32)
    operator = inner(kernel, image_size)
    start = random_direction(jax.random.key(_DIRECTION, impl="threefry2x32"), operator.input_shape)
    tau = safe_step(operator, start, rounds=layer.rounds)
    return Linear(ConvexPotential(kernel, offset, tau, image_size))
