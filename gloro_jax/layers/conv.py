"""Convolutions, at their true image size, stride and padding."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gloro_jax.layers.base import Linear, LipschitzLayer, image_shape
from gloro_jax.layers.dense import orthogonal
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.geometry import Padding, Pair, as_pair, resolve_padding
from gloro_jax.lipschitz.operators import Convolution


class Conv(LipschitzLayer):
    """A convolution of NHWC images; its constant is the norm of the whole linear operator.

    That is not the norm of the reshaped kernel, which is up to 2 times smaller.

    Attributes:
        features: number of output channels.
        kernel_size: window, one integer or (vertical, horizontal).
        strides: likewise.
        padding: 'SAME', 'VALID', an integer or ((top, bottom), (left, right)) of zeros.
        groups: number of independent channel groups.
        use_bias: whether to add a bias, which does not change the constant.
        kernel_init: initialiser of the (kh, kw, in / groups, features) kernel.
    """

    features: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: Padding = "SAME"
    groups: int = 1
    use_bias: bool = True
    kernel_init: Any = orthogonal

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer.

        Raises:
            ValueError: if `x` is not (batch, H, W, C), or the geometry does not fit it.
        """

        def make() -> Linear:
            height, width, channels = image_shape(x, self)
            if channels % self.groups or self.features % self.groups:
                raise ValueError(
                    f"groups={self.groups} must divide the {channels} input channels and the "
                    f"{self.features} features."
                )
            window = as_pair(self.kernel_size, name="kernel_size")
            strides = as_pair(self.strides, name="strides")
            pads = resolve_padding(
                self.padding, image_size=(height, width), window=window, strides=strides
            )
            shape = (*window, channels // self.groups, self.features)
            kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
            bias = None
            if self.use_bias:
                bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            return Linear(Convolution(kernel, (height, width), strides, pads, self.groups), bias)

        return self.apply_linear(x, make)
