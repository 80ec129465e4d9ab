"""Almost-orthogonal layers (Prach, Lampert, ECCV 2022): a kernel rescaled to norm at most 1."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gloro_jax.layers.base import Linear, LipschitzLayer, feature_count, image_shape, new_bias
from gloro_jax.layers.dense import orthogonal
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.geometry import Padding, Pair, as_pair, resolve_padding
from gloro_jax.lipschitz.operators import Convolution, Matrix
from gloro_jax.orthogonal import power_of_two_near

_EXACT = jax.lax.Precision.HIGHEST


class AolDense(LipschitzLayer):
    """A dense layer whose rows are divided by the root of their row sum of |W W^T|.

    With D that diagonal, the eigenvalues of D W W^T D are at most 1 (theorem 1 of the paper), so
    training counts the norm as 1. A certificate bounds the rescaled kernel, like any other.

    Attributes:
        features: number of outputs.
        use_bias: whether to add a bias.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, in)."""

        def make() -> Linear:
            shape = (feature_count(x, self), self.features)
            kernel = jnp.asarray(self.param("kernel", orthogonal, shape, jnp.float32))
            return Linear(
                Matrix(rescaled(kernel[None, None])[0, 0]),
                new_bias(self, self.features, is_wanted=self.use_bias),
            )

        return self.apply_linear(x, make, trained_norm=1.0)


class AolConv(LipschitzLayer):
    """A convolution rescaled likewise, by the kernel's correlations with itself at all shifts.

    Attributes:
        features: number of output channels.
        kernel_size: window, one integer or (vertical, horizontal).
        strides: likewise.
        padding: as for `Conv`; the constant is at most 1 with any.
        use_bias: whether to add a bias.
    """

    features: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: Padding = "SAME"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, H, W, C)."""

        def make() -> Linear:
            height, width, channels = image_shape(x, self)
            window = as_pair(self.kernel_size, name="kernel_size")
            strides = as_pair(self.strides, name="strides")
            size = (height, width)
            pads = resolve_padding(self.padding, image_size=size, window=window, strides=strides)
            shape = (*window, channels, self.features)
            kernel = rescaled(jnp.asarray(self.param("kernel", orthogonal, shape, jnp.float32)))
            return Linear(
                Convolution(kernel, size, strides, pads),
                new_bias(self, self.features, is_wanted=self.use_bias),
            )

        return self.apply_linear(x, make, trained_norm=1.0)


def rescaled(kernel: Any) -> Any:
    """An HWIO kernel with each input channel divided by the root of its sum of |correlations|.

    Channel i is correlated with every channel j at every shift; the sum of the absolute values is
    the row sum of |A^T A| in the middle of a large image, and no row sum is larger elsewhere.
    """
    unit = kernel / power_of_two_near(kernel)  # squares of small weights vanish
    kh, kw = kernel.shape[:2]
    correlations = jax.lax.conv_general_dilated(
        jnp.moveaxis(unit, 2, 0),
        jnp.swapaxes(unit, 2, 3),
        (1, 1),
        ((kh - 1, kh - 1), (kw - 1, kw - 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=_EXACT,
    )
    sums = jnp.sum(jnp.abs(correlations), axis=(1, 2, 3))
    is_zero = sums == 0
    factor = jnp.where(is_zero, 0.0, jax.lax.rsqrt(jnp.where(is_zero, 1.0, sums)))
    return unit * factor[None, None, :, None]
