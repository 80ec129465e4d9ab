"""Layers with orthonormalised kernels: dense, patch convolution, and CHORD."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gloro_jax.layers.base import Linear, LipschitzLayer, feature_count, image_shape, new_bias
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.geometry import as_pair, resolve_padding
from gloro_jax.lipschitz.operators import Convolution, Matrix
from gloro_jax.orthogonal import Orthogonalization, orthogonalized

# What orthonormalisation promises; freezing bounds the kernel that came out of it instead.
_NORM = 1.0


class OrthogonalDense(LipschitzLayer):
    """A dense layer whose kernel is orthonormalised, so that its singular values are about 1.

    Attributes:
        features: number of outputs; fewer or more than the inputs.
        use_bias: whether to add a bias.
        method: how the kernel is orthonormalised.
    """

    features: int
    use_bias: bool = True
    method: Orthogonalization = "cholesky"

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, in)."""

        def make() -> Linear:
            inputs = feature_count(x, self)
            init = nn.initializers.normal(inputs**-0.5)
            kernel = self.param("kernel", init, (inputs, self.features), jnp.float32)
            bias = new_bias(self, self.features, is_wanted=self.use_bias)
            return Linear(Matrix(_columns(kernel, self.method)), bias)

        return self.apply_linear(x, make, trained_norm=_NORM)


class ChordDense(LipschitzLayer):
    """A dense layer near the identity, orthonormalised: CHORD (Hu, Leino, Wang, Fredrikson 2024).

    Its kernel is I + scale * gain * W before orthonormalisation, with one gain per output, so a
    deep stack of them is as easy to train as a residual network and has constant 1.

    Attributes:
        scale: of W; 1 / sqrt(number of such layers) in the paper.
        method: how the kernel is orthonormalised.
    """

    scale: float = 1.0
    method: Orthogonalization = "cholesky"

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, in)."""

        def make() -> Linear:
            features = feature_count(x, self)
            init = nn.initializers.normal(1.0 / features)
            kernel = self.param("kernel", init, (features, features), jnp.float32)
            gain = self.param("gain", nn.initializers.ones, (features,), jnp.float32)
            eye = jnp.eye(features, dtype=jnp.float32)
            near = eye + jnp.asarray(kernel) * (self.scale * gain)[None, :]
            return Linear(Matrix(_columns(near, self.method)), new_bias(self, features))

        return self.apply_linear(x, make, trained_norm=_NORM)


class OrthogonalPatches(LipschitzLayer):
    """A convolution of disjoint patches whose kernel, as a matrix, is orthonormalised.

    Window and stride agree, so the layer maps each patch by itself and the norm of the layer is
    the norm of that matrix. An image size that the window does not divide is padded with zeros.

    Attributes:
        features: number of output channels.
        patch: side of the patches.
        use_bias: whether to add a bias.
        method: how the kernel is orthonormalised.
    """

    features: int
    patch: int
    use_bias: bool = False
    method: Orthogonalization = "cholesky"

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, H, W, C)."""

        def make() -> Linear:
            height, width, channels = image_shape(x, self)
            window = as_pair(self.patch, name="patch")
            inputs = math.prod(window) * channels
            init = nn.initializers.normal(inputs**-0.5)
            shape = (*window, channels, self.features)
            kernel = jnp.asarray(self.param("kernel", init, shape, jnp.float32))
            flat = _columns(kernel.reshape((inputs, self.features)), self.method)
            pads = resolve_padding(
                "SAME", image_size=(height, width), window=window, strides=window
            )
            operator = Convolution(flat.reshape(shape), (height, width), window, pads)
            return Linear(operator, new_bias(self, self.features, is_wanted=self.use_bias))

        return self.apply_linear(x, make, trained_norm=_NORM)


def _columns(kernel: Any, method: Orthogonalization) -> Any:
    """An (in, out) kernel with one row of `orthogonalized` per output."""
    return orthogonalized(jnp.asarray(kernel).T, method=method).T
