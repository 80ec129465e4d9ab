"""Layers that pool, reshape or standardise; none has weights."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.layers.base import LipschitzLayer, check_bounded, image_shape
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.geometry import Padding, Pads, Pair, as_pair, resolve_padding
from gloro_jax.lipschitz.rounding import up
from gloro_jax.lipschitz.steps import Step
from gloro_jax.lipschitz.upper import average_pool_norm


class AveragePool(LipschitzLayer):
    """The mean over windows, padding counted as zeros; its constant is exact.

    Disjoint k x k windows have constant 1/k: the mean of k^2 entries.

    Attributes:
        window: one integer or (vertical, horizontal).
        strides: likewise; None is the window itself.
        padding: as for `Conv`.
    """

    window: int | Pair
    strides: int | Pair | None = None
    padding: Padding = "VALID"

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer.

        Raises:
            ValueError: if `x` is not (batch, H, W, C), or the window does not fit it.
        """
        check_bounded(x, self)
        window, strides, pads = _windows(x, self.window, self.strides, self.padding, self)
        size = (x.shape[1], x.shape[2])
        bound = average_pool_norm(image_size=size, window=window, strides=strides, pads=pads)

        def pool(values: jax.Array) -> jax.Array:
            total = jax.lax.reduce_window(
                values, 0.0, jax.lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
            )
            return total / math.prod(window)

        step = _step("average_pool", size, window, strides, pads)
        return x.apply(pool, lipschitz=bound, step=step)


class MaxPool(LipschitzLayer):
    """The maximum over disjoint windows, with constant 1.

    Disjoint windows read each pixel once, and the maximum of a window moves by no more than the
    window does. Where windows overlap, one pixel moves several outputs: a 3x3 window with stride
    1 has constant 3. Such windows are refused.

    Attributes:
        window: one integer or (vertical, horizontal).
        strides: likewise; None is the window itself.
        padding: as for `Conv`; padding never wins the maximum.
    """

    window: int | Pair
    strides: int | Pair | None = None
    padding: Padding = "VALID"

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer.

        Raises:
            ValueError: if windows overlap, or do not fit `x`, (batch, H, W, C).
        """
        check_bounded(x, self)
        window, strides, pads = _windows(x, self.window, self.strides, self.padding, self)
        if strides[0] < window[0] or strides[1] < window[1]:
            raise ValueError(
                "MaxPool needs strides >= window, else windows overlap and one pixel moves "
                f"several outputs, so the layer is not 1-Lipschitz; got window={window}, "
                f"strides={strides}. Use AveragePool, or strides={window}."
            )
        if any(p >= k for k, pair in zip(window, pads, strict=True) for p in pair):
            raise ValueError(
                f"MaxPool padding {pads} would leave windows of {window} with nothing but padding."
            )

        def pool(values: jax.Array) -> jax.Array:
            low = -jnp.inf
            full_pads = ((0, 0), *pads, (0, 0))
            return jax.lax.reduce_window(
                values, low, jax.lax.max, (1, *window, 1), (1, *strides, 1), full_pads
            )

        step = _step("max_pool", (x.shape[1], x.shape[2]), window, strides, pads)
        return x.apply(pool, lipschitz=1.0, step=step)


class Flatten(LipschitzLayer):
    """(batch, ...) to (batch, features), row-major; a permutation of entries, constant 1."""

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer."""
        check_bounded(x, self)
        features = math.prod(x.shape[1:])
        step = Step.of("flatten")
        return x.apply(lambda v: v.reshape(v.shape[0], features), lipschitz=1.0, step=step)


class SpaceToDepth(LipschitzLayer):
    """Blocks of pixels become channels; a permutation of entries, constant 1.

    Attributes:
        block: side of the blocks; it must divide height and width.
    """

    block: int

    def __call__(self, x: Bounded) -> Bounded:
        """(batch, H, W, C) to (batch, H/b, W/b, b b C).

        Raises:
            ValueError: if the block does not divide the image.
        """
        check_bounded(x, self)
        b = as_pair(self.block, name="block")[0]
        if len(x.shape) != 4 or x.shape[1] % b or x.shape[2] % b:
            raise ValueError(
                f"SpaceToDepth(block={b}) needs images (batch, H, W, C) with H and W divisible "
                f"by {b}, got {x.shape}."
            )
        height, width, channels = x.shape[1] // b, x.shape[2] // b, x.shape[3]

        def rearrange(v: jax.Array) -> jax.Array:
            split = v.reshape(-1, height, b, width, b, channels)
            return split.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, b * b * channels)

        return x.apply(rearrange, lipschitz=1.0, step=Step.of("space_to_depth", block=b))


class Normalize(LipschitzLayer):
    """(x - mean) / std per channel, inside the network, so that epsilon stays in pixel units.

    The constant is the largest factor 1/std, as executed in float32.

    Attributes:
        mean: one number per channel.
        std: one positive number per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        # Copies, which nobody can change after the network was frozen.
        try:
            if isinstance(self.mean, str) or isinstance(self.std, str):
                raise TypeError
            self.mean, self.std = tuple(map(float, self.mean)), tuple(map(float, self.std))
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                "Normalize takes tuples of one mean and one std per channel, (0.5,) for one "
                f"channel; got mean={self.mean!r}, std={self.std!r}."
            ) from error
        super().__post_init__()

    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer.

        Raises:
            ValueError: if the numbers do not match the channels, or a std is not positive, or
                1 / std is no normal float32.
        """
        check_bounded(x, self)
        with np.errstate(over="ignore"):
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        if mean.shape != std.shape or mean.shape != x.shape[-1:]:
            raise ValueError(
                f"Normalize needs one mean and one std per channel: {x.shape[-1]} channels, "
                f"{mean.size} means, {std.size} stds."
            )
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError(
                "Normalize needs means and stds that are finite in float32, and positive stds; got "
                f"mean={self.mean}, std={self.std}."
            )
        with np.errstate(over="ignore"):
            factor = 1 / std
        if not (np.isfinite(factor) & (factor >= np.finfo(np.float32).tiny)).all():
            raise ValueError(
                "Normalize multiplies by 1 / std, which float32 programs take for 0 below 1.2e-38, "
                f"and which must be finite; got std={self.std}. Scale such images beforehand."
            )
        lead = (1,) * (len(x.shape) - 1)

        def standardise(v: jax.Array) -> jax.Array:
            shift, slope = (a.reshape(*lead, -1).astype(v.dtype) for a in (mean, factor))
            return (v - shift) * slope

        # The executed numbers are float32; as float64 they are the same.
        step = Step.of("normalize", mean=mean.tolist(), factor=factor.tolist())
        return x.apply(standardise, lipschitz=up(float(factor.max())), step=step)


def _step(op: str, image_size: Pair, window: Pair, strides: Pair, pads: Pads) -> Step:
    return Step.of(op, image_size=image_size, window=window, strides=strides, pads=pads)


def _windows(
    x: Bounded, window: int | Pair, strides: int | Pair | None, padding: Padding, layer: nn.Module
) -> tuple[Pair, Pair, Pads]:
    height, width, _ = image_shape(x, layer)
    sides = as_pair(window, name="window")
    steps = sides if strides is None else as_pair(strides, name="strides")
    size = (height, width)
    return sides, steps, resolve_padding(padding, image_size=size, window=sides, strides=steps)
