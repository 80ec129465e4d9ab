"""Branches that join: a sum of bounds in general, one operator where the branch is linear."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gloro_jax.layers.base import (
    Linear,
    LipschitzLayer,
    add_bias,
    check_bounded,
    image_shape,
    runner,
)
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.geometry import Pair, as_pair, resolve_padding
from gloro_jax.lipschitz.operators import Convolution

# How far a running mean moves towards the mean of each batch.
_MOMENTUM = 0.1


class Residual(LipschitzLayer):
    """x + branch(x), with constant 1 + Lip(branch).

    The sum of constants is the best that can be said of a branch with a non-linearity in it. For
    a linear branch it is loose: see `LinearResidual`.

    Attributes:
        branch: a module from `Bounded` to `Bounded` that keeps the shape.
    """

    branch: nn.Module

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a TypeError if the branch is no module."""
        check_bounded(x, self)
        if not isinstance(self.branch, nn.Module):
            raise TypeError(
                "The branch of a Residual is a layer, or another flax module from Bounded to "
                f"Bounded, got {type(self.branch).__name__}. Put a function of your own into a "
                "layer (docs/adding-a-layer.md), or join branches with gj.Bounded.add."
            )
        return Bounded.add(x, self.branch(x))


class LinearResidual(LipschitzLayer):
    """x + scale * gain * conv(x) + bias, as one convolution with kernel I + scale * gain * W.

    There is no activation inside the residual branch, so the block is linear and its constant is
    the norm of the sum, well below 1 + the norm of the branch; the activation follows the block
    (Hu, Zou, Wang, Leino, Fredrikson 2023, LiResNet). Padding is SAME, the stride is 1.

    With `is_centered`, training subtracts from each channel of the branch its mean over batch and
    pixels, and keeps a running mean in the collection "centering"; elsewhere the bias less that
    mean is added. Either is a translation and moves no bound (Hu, Leino, Wang, Fredrikson 2024).
    Centring mixes the examples of a training batch, and only of a training batch.

    Attributes:
        kernel_size: window of the branch, odd or even; one integer or (vertical, horizontal).
        scale: of the branch; 1 / sqrt(number of blocks) in the papers.
        is_centered: whether the branch's channel means are subtracted.
    """

    kernel_size: int | Pair = 3
    scale: float = 1.0
    is_centered: bool = False

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, H, W, C)."""
        if self.is_centered and check_bounded(x, self).is_training:
            return self._centered(x)
        return self.apply_linear(x, lambda: self._make(x, is_mean_folded=self.is_centered))

    def _make(self, x: Bounded, *, is_mean_folded: bool) -> Linear:
        height, width, channels = image_shape(x, self)
        window = as_pair(self.kernel_size, name="kernel_size")
        shape = (*window, channels, channels)
        init = nn.initializers.normal(1.0 / (window[0] * window[1] * channels))
        kernel = self.param("kernel", init, shape, jnp.float32)
        gain = self.param("gain", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        middle = [(k - 1) // 2 for k in window]  # where SAME padding puts the pixel itself
        branch = jnp.asarray(kernel) * (self.scale * gain)[None, None, None, :]
        whole = branch.at[middle[0], middle[1]].add(jnp.eye(channels, dtype=branch.dtype))
        pads = resolve_padding("SAME", image_size=(height, width), window=window, strides=(1, 1))
        if is_mean_folded:
            bias = bias - self._mean(channels).value
        return Linear(Convolution(whole, (height, width), (1, 1), pads), bias)

    def _centered(self, x: Bounded) -> Bounded:
        linear = self._make(x, is_mean_folded=False)
        mean = self._mean(x.shape[-1])
        apply = runner(Linear(linear.operator), precision=None)

        def run(values: Any) -> Any:
            image = apply(values)
            # The branch is what the block adds to its input. In two steps, XLA:CPU is faster.
            pixels = jnp.mean(image - values, axis=0, dtype=jnp.float32)
            found = jnp.mean(pixels, axis=(0, 1))
            found = found if x.batch_axis is None else jax.lax.pmean(found, x.batch_axis)
            if self.is_mutable_collection("centering"):
                step = jax.lax.stop_gradient(found) - mean.value
                mean.value = mean.value + _MOMENTUM * step
            return add_bias(image, linear.bias - found)

        return x.apply(run, lipschitz=self.estimate(linear, x))

    def _mean(self, channels: int) -> Any:
        if not (self.has_variable("centering", "mean") or self.is_mutable_collection("centering")):
            raise ValueError(
                f"{self.name or type(self).__name__} has no running mean, and without it the "
                "network is another one. Pass variables['centering'] beside variables['params']."
            )
        zeros = lambda: jnp.zeros((channels,), jnp.float32)  # noqa: E731
        mean = self.variable("centering", "mean", zeros)
        # Flax checks the shapes of parameters only, and a longer mean would multiply channels.
        if jnp.shape(mean.value) != (channels,) or jnp.result_type(mean.value) != jnp.float32:
            raise ValueError(
                f"The running mean of {self.name or type(self).__name__} has one float32 number "
                f"per channel, ({channels},); got {jnp.result_type(mean.value)} of shape "
                f"{jnp.shape(mean.value)}."
            )
        return mean
