"""Weights as they run: float32, and no number too small for a normal one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.pytrees import is_deleted


def narrow(leaf: Any) -> Any:
    """A leaf of 64 bits, or a number of Python, in 32 bits, which is what runs.

    Raises:
        ValueError: if it holds what is no number of float32: complex ones, integers beyond 2^24.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct) or is_deleted(leaf):
        what = "only a shape" if isinstance(leaf, jax.ShapeDtypeStruct) else "deleted, or donated"
        raise ValueError(f"A weight of shape {leaf.shape} is {what}. Give the weights themselves.")
    dtype = getattr(leaf, "dtype", None)
    is_long = dtype in (np.int64, np.uint64) and np.abs(np.float64(leaf)).max(initial=0) > 2**24
    is_number = dtype is None or any(jnp.issubdtype(dtype, t) for t in (np.number, np.bool_))
    if is_long or not is_number or dtype in (np.complex64, np.complex128):
        raise ValueError(
            f"A weight of type {leaf.dtype} and shape {np.shape(leaf)} holds what float32, which "
            "runs, cannot: complex numbers, integers beyond 2^24, or no numbers at all. Give real "
            "float32 weights."
        )
    return np.asarray(leaf).astype(np.float32) if dtype in (None, np.float64) else leaf


def flushed(operators: Any) -> tuple[Any, int]:
    """Operators with subnormal weights set to 0, and how many those were.

    A device may or may not take such numbers for 0; bounded is what runs on all of them.
    """
    tiny, count = np.finfo(np.float32).tiny, 0

    def flush(leaf: Any) -> np.ndarray:
        nonlocal count
        array = np.asarray(leaf)
        is_small = (array != 0) & (np.abs(array) < tiny)
        count += int(is_small.sum())
        return np.where(is_small, np.float32(0), array)

    return jax.tree.map(flush, operators), count
