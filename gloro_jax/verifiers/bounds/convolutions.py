"""Convolutions whose transposes are quick: rows go back through them many thousand at a time."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from gloro_jax.lipschitz.geometry import output_size


def convolve(kernel: Any, z: Any, *, strides: Any, pads: Any, groups: int) -> Any:
    """Cross-correlation of images (n, H, W, C) with a kernel (kh, kw, C / groups, C').

    XLA:CPU has no fast convolution of float64, but fast matrix products; and the transpose of a
    convolution with strides it computes with zeros between the entries, three times slower than
    that of the convolution of blocks that it is.
    """
    is_strided = tuple(strides) != (1, 1)
    if kernel.dtype != jnp.float64 and (groups > 1 or not is_strided):
        return _correlate(kernel, z, strides=strides, pads=pads, groups=groups)
    channels, features = z.shape[-1] // groups, kernel.shape[-1] // groups
    together = _products if kernel.dtype == jnp.float64 else _correlate
    parts = [
        together(
            *_blocks(
                kernel[..., g * features : (g + 1) * features],
                z[..., g * channels : (g + 1) * channels],
                strides,
                pads,
            )
        )
        for g in range(groups)
    ]
    return parts[0] if groups == 1 else jnp.concatenate(parts, axis=-1)


def _correlate(
    kernel: Any, z: Any, *, strides: Any = (1, 1), pads: Any = "VALID", groups: int = 1
) -> Any:
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        z, kernel, strides, pads, dimension_numbers=names, feature_group_count=groups
    )


def _products(kernel: Any, z: Any) -> Any:
    """A convolution without strides and pads as one matrix product."""
    ty, tx, depth, outputs = kernel.shape
    rows, columns = z.shape[1] - ty + 1, z.shape[2] - tx + 1
    taps = itertools.product(range(ty), range(tx))
    seen = jnp.concatenate([z[:, y : y + rows, x : x + columns] for y, x in taps], axis=-1)
    return seen @ kernel.reshape(ty * tx * depth, outputs)


def _blocks(kernel: Any, z: Any, strides: Any, pads: Any) -> tuple[Any, Any]:
    """Kernel and activations of the same convolution of blocks as large as its strides."""
    kh, kw, channels, outputs = kernel.shape
    sizes = output_size(z.shape[1:3], (kh, kw), strides, pads)
    taps = [-(-k // s) for k, s in zip((kh, kw), strides, strict=True)]
    grid = [n + t - 1 for n, t in zip(sizes, taps, strict=True)]
    ends = [
        (low, g * s - size - low, 0)
        for g, s, size, (low, _) in zip(grid, strides, z.shape[1:3], pads, strict=True)
    ]
    padded = jax.lax.pad(z, jnp.zeros((), z.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
    split = padded.reshape(len(z), grid[0], strides[0], grid[1], strides[1], channels)
    depth = strides[0] * strides[1] * channels
    blocks = split.transpose(0, 1, 3, 2, 4, 5).reshape(len(z), *grid, depth)
    rest = [(0, t * s - k) for t, s, k in zip(taps, strides, (kh, kw), strict=True)]
    whole = jnp.pad(kernel, [*rest, (0, 0), (0, 0)])
    parted = whole.reshape(taps[0], strides[0], taps[1], strides[1], channels, outputs)
    return parted.transpose(0, 2, 1, 3, 4, 5).reshape(*taps, depth, outputs), blocks
