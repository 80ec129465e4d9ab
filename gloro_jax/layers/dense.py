"""Fully connected layers, and multiplication by one learned number."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gloro_jax.layers.base import Linear, LipschitzLayer, feature_count
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.operators import Matrix, Scaling
from gloro_jax.solving import one_key_at_a_time

# Orthogonal weights start every layer with norm about 1, so the product over layers starts small.
orthogonal = one_key_at_a_time(nn.initializers.orthogonal())


class Dense(LipschitzLayer):
    """A dense layer, (batch, in) to (batch, features); its constant is the kernel's spectral norm.

    Attributes:
        features: number of outputs.
        use_bias: whether to add a bias, which does not change the constant.
        kernel_init: initialiser of the (in, features) kernel.
    """

    features: int
    use_bias: bool = True
    kernel_init: Any = orthogonal

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer.

        Raises:
            ValueError: if `x` is not (batch, in).
        """

        def make() -> Linear:
            shape = (feature_count(x, self), self.features)
            kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            return Linear(Matrix(kernel), bias if self.use_bias else None)

        return self.apply_linear(x, make)


class Scale(LipschitzLayer):
    """Multiplication by one learned number; its constant is the absolute value of that number.

    Attributes:
        initial: the number to start from.
    """

    initial: float = 1.0

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer."""

        def make() -> Linear:
            factor = self.param("factor", nn.initializers.constant(self.initial), (), jnp.float32)
            return Linear(Scaling(factor, x.shape[1:]))

        return self.apply_linear(x, make)
