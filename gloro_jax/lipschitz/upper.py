"""Guaranteed spectral norms, computed on the host in float64 with every rounding counted.

Power iteration errs low and cannot certify. These functions err high, by at most a few parts in
a million where the operator is written out, and by a fraction of a percent for large
convolutions. They hold for the real-arithmetic operator whose weights are exactly the stored
floating-point numbers.

Trusted: IEEE double arithmetic rounding to nearest, and BLAS and LAPACK routines that use
conventional inner products (no Strassen-like products).
"""

import jax.numpy as jnp
import numpy as np

from gloro_jax.lipschitz.convolutions.stride_one import in_cells, stride_one_norm_squared
from gloro_jax.lipschitz.geometry import Padding, Pads, Pair, as_pair, resolve_padding, tap_table
from gloro_jax.lipschitz.gram import (
    eigenvalue_bound,
    input_gram,
    output_gram,
    power_of_two_below,
    product_gram,
)
from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.lipschitz.rounding import up
from gloro_jax.plain import as_array

_LARGEST_INTEGER = 2**24
# Operators whose smaller side is at most this are written out and bounded to about 1e-6.
EXPLICIT_SIDE = 2048


def matrix_norm(matrix: np.ndarray) -> UpperBound:
    """An upper bound of the largest singular value of `matrix`, about 5e-7 above it.

    Args:
        matrix: two-dimensional; any floating or integer type that float64 holds exactly.

    Returns:
        The bound, with a Python float as value; exactly 0 only for a zero or empty matrix.

    Raises:
        TypeError: if its entries are not real numbers.
        ValueError: if the array is not two-dimensional, holds a NaN or an infinity, or an integer
            beyond 2^24, which float32 does not hold.
    """
    exact = _as_float64(matrix, name="matrix", ndim=2)
    scaled, scale = _power_of_two_scaled(exact)
    if scale == 0.0:
        return UpperBound(0.0)
    gram, error = product_gram(scaled)
    return _unscaled(eigenvalue_bound(gram, forming_error=error), scale, scaled[None])


def conv_norm(
    kernel: np.ndarray,
    *,
    image_size: Pair,
    strides: int | Pair,
    padding: Padding,
    groups: int = 1,
    tol: float | None = None,
) -> UpperBound:
    """An upper bound of the norm of a convolution at its true image size, stride and padding.

    The route depends on the operator: a kernel no larger than its stride is one matrix; a small
    operator is written out; a large one goes to the twisted torus, tightened by constraints
    (`lipschitz.torus`, `lipschitz.constraints`), strides through space-to-depth. Groups are
    independent operators: the largest norm counts.

    Args:
        kernel: (height, width, in / groups, out), as Flax and XLA store it.
        image_size: the input's (H, W). The bound holds for this size only.
        strides: one integer or (vertical, horizontal).
        padding: 'SAME', 'VALID', an integer, or ((top, bottom), (left, right)).
        groups: number of channel groups; out must be a multiple.
        tol: how far above the true norm the bound of a large operator may lie, relative; 1e-4, and
            1e-3 from 512 channels, unless given. A bound that cannot be proved is raised further.

    Returns:
        The bound, with a Python float as value; exactly 0 only for a zero kernel.

    Raises:
        TypeError: if the kernel's entries are not real numbers.
        ValueError: if a shape or option does not fit, or the kernel is not finite or holds an
            integer beyond 2^24, which float32 does not hold.
    """
    exact = _as_float64(kernel, name="kernel", ndim=4)
    steps = as_pair(strides, name="strides")
    groups = as_pair(groups, name="groups")[0]
    if exact.shape[3] % groups:
        raise ValueError(
            f"groups must divide the kernel's {exact.shape[3]} output channels, got {groups}."
        )
    size = as_pair(image_size, name="image_size")
    window = (exact.shape[0], exact.shape[1])
    pads = resolve_padding(padding, image_size=size, window=window, strides=steps)
    scaled, scale = _power_of_two_scaled(exact)
    if scale == 0.0:
        return UpperBound(0.0)
    if tol is None:
        tol = 1e-3 if max(exact.shape[2:]) >= 512 else 1e-4
    if not 1e-7 <= tol < 1:
        raise ValueError(f"tol is a relative excess between 1e-7 and 1, got {tol}.")
    parts = np.split(scaled, groups, axis=3)
    squared = max(_conv_norm_squared(part, size, steps, pads, tol) for part in parts)
    return _unscaled(squared, scale, scaled.reshape(-1, *scaled.shape[2:]))


def average_pool_norm(*, image_size: Pair, window: Pair, strides: Pair, pads: Pads) -> float:
    """An upper bound of the norm of average pooling, padding counted as zeros.

    Pooling is the tensor product of one map per axis, so its norm is the product of two matrix
    norms; disjoint windows of k pixels give k^(-1/2).
    """
    bound = 1.0
    for size, k, s, low_high in zip(image_size, window, strides, pads, strict=True):
        table = tap_table((size, 1), (k, 1), (s, 1), (low_high, (0, 0)))
        counts = np.zeros((len(table), size))
        for output, row in enumerate(table):
            counts[output, row[row >= 0]] = 1.0
        bound = up(bound * up(float(matrix_norm(counts)) / k))
    return bound


def _conv_norm_squared(
    kernel: np.ndarray, size: Pair, strides: Pair, pads: Pads, tol: float
) -> float:
    kh, kw, channels_in, channels_out = kernel.shape
    table = tap_table(size, (kh, kw), strides, pads)
    if not kernel.any() or not (table >= 0).any():  # a zero group, or windows on padding only
        return 0.0
    if kh <= strides[0] and kw <= strides[1]:
        # Disjoint windows: block diagonal, and each block is this matrix or some of its columns.
        gram, error = product_gram(kernel.reshape(-1, channels_out))
        return eigenvalue_bound(gram, forming_error=error)
    pixels = size[0] * size[1]
    sides = (pixels * channels_in, len(table) * channels_out)
    if min(sides) <= EXPLICIT_SIDE:
        flat = kernel.reshape(kh * kw, channels_in, channels_out)
        write_out = input_gram if sides[0] <= sides[1] else output_gram
        gram, error = write_out(flat, table, pixels)
        return eigenvalue_bound(gram, forming_error=error)
    case = in_cells(kernel, image_size=size, strides=strides, pads=pads)
    return stride_one_norm_squared(case.on_smaller_side(), tol=tol)


def _as_float64(array: np.ndarray, *, name: str, ndim: int) -> np.ndarray:
    given = as_array(array, name=name)
    is_integer = jnp.issubdtype(given.dtype, np.integer)
    if not (is_integer or jnp.issubdtype(given.dtype, np.floating)):
        raise TypeError(
            f"{name} holds real numbers, got type {given.dtype}. A norm is that of a real matrix: "
            "convert it, and write a complex one as real and imaginary parts."
        )
    exact = given.astype(np.float64)
    if is_integer and np.abs(exact).max(initial=0.0) > _LARGEST_INTEGER:
        raise ValueError(
            f"{name} holds integers beyond 2^24, which float32 rounds: what would run is another "
            "operator. Give the floating-point numbers that run."
        )
    if given.dtype.itemsize > 8 and (exact != given).any():
        raise ValueError(
            f"{name} of type {given.dtype} holds numbers that float64 rounds. Give it as float64."
        )
    if exact.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {exact.shape}.")
    if not np.isfinite(exact).all():
        count = int((~np.isfinite(exact)).sum())
        raise ValueError(f"{name} holds {count} NaN or infinite entries: it has no finite norm.")
    return exact


def _power_of_two_scaled(exact: np.ndarray) -> tuple[np.ndarray, float]:
    """Entries divided, exactly, by a power of two that makes the largest about 1."""
    largest = float(np.abs(exact).max(initial=0.0))
    if largest == 0.0:
        return exact, 0.0
    scale = power_of_two_below(largest)
    return np.ldexp(exact, -round(np.log2(scale))), scale


def _unscaled(norm_squared: float, scale: float, taps: np.ndarray) -> UpperBound:
    """The norm; where LAPACK failed to prove any, the sum of the Frobenius norms of `taps`.

    Each tap is a matrix from channels to channels, applied to a part of the pixels and moved.
    """
    norm = up(float(np.sqrt(norm_squared)))
    if not np.isfinite(norm):
        norm = float(np.sqrt(np.square(taps).sum(axis=(1, 2))).sum()) * (1 + 1e-9)
    return UpperBound(up(scale * norm))
