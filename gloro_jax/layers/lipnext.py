"""The parts of LipNeXt (ICLR 2026): orthogonal mixing of channels, shifts, a position, beta-abs.

A block is act(shift((x + p) R) N + b): square orthogonal matrices R and N mix the channels of each
pixel, shifts of some channels by one pixel mix pixels, and no window is larger than a pixel. The
paper writes N as R^T M; any orthogonal N is of that form.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gloro_jax.layers.base import Linear, LipschitzLayer, check_bounded, image_shape, new_bias
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.norms import two_norm
from gloro_jax.lipschitz.operators import Convolution
from gloro_jax.lipschitz.steps import Step
from gloro_jax.maps.translation import Translation
from gloro_jax.orthogonal import special_orthogonal

_NO_PADS = ((0, 0), (0, 0))


class Position(LipschitzLayer):
    """x + p, with a learned number for each pixel; constant 1."""

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, H, W, C)."""

        def make() -> Linear:
            height, width, channels = image_shape(x, self)
            zeros = nn.initializers.zeros
            offset = self.param("offset", zeros, (height, width, 1), jnp.float32)
            return Linear(Translation(offset, (height, width, channels)))

        return self.apply_linear(x, make, trained_norm=1.0)


class ChannelShift(LipschitzLayer):
    """Four groups of channels move by one pixel, up, down, left and right; the rest stays.

    Circular, it permutes the entries of an activation, and has constant 1; with zeros coming in,
    it drops some of them, and has constant 1 as well.

    Attributes:
        share: of the channels in each of the four groups.
        is_circular: whether pixels come in on the other side; zeros otherwise.
    """

    share: float = 1 / 8
    is_circular: bool = True

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer.

        Raises:
            ValueError: if `x` is not (batch, H, W, C), or the four groups are no channels, or more
                than there are.
        """
        check_bounded(x, self)
        channels = image_shape(x, self)[2]
        count = round(self.share * channels) if 0 < self.share <= 1 else 0
        if not 1 <= 4 * count <= channels:
            raise ValueError(
                f"ChannelShift moves four groups of share={self.share} of the {channels} channels, "
                f"{count} each: at least 1 and together at most all of them. A share of 1/8 takes "
                "half of 8 or more channels."
            )
        options = {"count": count, "is_circular": self.is_circular}
        step = Step.of("channel_shift", **options)
        return x.apply(lambda v: shift_channels(v, **options), lipschitz=1.0, step=step)


class ChannelMix(LipschitzLayer):
    """A square matrix, orthogonal by training, applied to the channels of each pixel.

    Its parameter is named "orthogonal": `fit` keeps such parameters on the manifold of orthogonal
    matrices (`gloro_jax.training.manifold`). Training counts the norm as 1; a certificate bounds
    the matrix that runs, and so what it has strayed.

    Attributes:
        use_bias: whether to add a bias.
    """

    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, H, W, C)."""

        def make() -> Linear:
            height, width, channels = image_shape(x, self)
            shape, init = (channels, channels), special_orthogonal
            kernel = jnp.asarray(self.param("orthogonal", init, shape, jnp.float32))
            bias = new_bias(self, channels, is_wanted=self.use_bias)
            operator = Convolution(kernel[None, None], (height, width), (1, 1), _NO_PADS)
            return Linear(operator, bias)

        return self.apply_linear(x, make, trained_norm=1.0)


class BetaAbs(LipschitzLayer):
    """The absolute value of a share of the channels, the others as they are; constant 1.

    With beta = 1/2 and orthogonal matrices around it, it can be MinMax.

    Attributes:
        beta: the share.
    """

    beta: float = 0.5

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError unless beta is between 0 and 1."""
        check_bounded(x, self)
        if not 0 <= self.beta <= 1:
            raise ValueError(f"BetaAbs takes a share between 0 and 1 as beta, got {self.beta}.")
        count = round(self.beta * x.shape[-1])

        def apply(v: Any) -> Any:
            return jnp.concatenate([jnp.abs(v[..., :count]), v[..., count:]], axis=-1)

        return x.apply(apply, lipschitz=1.0, step=Step.of("beta_abs", count=count))


class L2Pool(LipschitzLayer):
    """The length of each channel over all pixels, (batch, H, W, C) to (batch, C); constant 1.

    Lengths differ by at most the length of the difference, channel by channel. The gradient is 0
    where a channel is 0.
    """

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, H, W, C)."""
        check_bounded(x, self)
        image_shape(x, self)

        def pool(v: Any) -> Any:
            return jax.vmap(jax.vmap(two_norm, in_axes=-1))(v)

        return x.apply(pool, lipschitz=1.0, step=Step.of("l2_pool"))


class FirstFeatures(LipschitzLayer):
    """The first features of each example, a projection of norm 1: the read-out of AOL's networks.

    Attributes:
        count: how many.
    """

    count: int

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if there are not so many features."""
        check_bounded(x, self)
        if not 1 <= self.count <= x.shape[-1]:
            raise ValueError(
                f"FirstFeatures takes count={self.count} of {x.shape[-1]} features: at least 1 and "
                "no more than there are."
            )
        step = Step.of("first", count=int(self.count))
        return x.apply(lambda v: v[..., : self.count], lipschitz=1.0, step=step)


def shift_channels(values: Any, *, count: int, is_circular: bool) -> Any:
    """The first 4 count channels of NHWC images moved by a pixel: up, down, left, right."""
    parts = []
    for number, (by, axis) in enumerate(((-1, 1), (1, 1), (-1, 2), (1, 2))):
        part = values[..., number * count : (number + 1) * count]
        moved = jnp.roll(part, by, axis)
        if not is_circular:
            edge = jnp.arange(part.shape[axis]) == (0 if by > 0 else part.shape[axis] - 1)
            shape = [1] * part.ndim
            shape[axis] = part.shape[axis]
            moved = jnp.where(edge.reshape(shape), jnp.zeros((), part.dtype), moved)
        parts.append(moved)
    return jnp.concatenate([*parts, values[..., 4 * count :]], axis=-1)
