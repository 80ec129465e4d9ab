"""What images must be that a FrozenNet is given: float32 arrays of its shape, in [0, 1]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import Array

from gloro_jax.platforms import is_on_host, is_tracing


def checked_images(x: Any, input_shape: tuple[int, ...]) -> Array:
    """`x` as an array, or a TypeError or ValueError if its type or shape does not fit.

    Args:
        x: images (..., *input_shape), float32.
        input_shape: one image.
    """
    if getattr(x, "dtype", None) != jnp.float32:
        raise TypeError(
            "A FrozenNet takes float32 images in [0, 1], got "
            f"{getattr(x, 'dtype', type(x).__name__)}. Images of type uint8: "
            "x.astype('float32') / 255."
        )
    if not isinstance(x, np.ndarray | np.generic | jax.Array) or np.ma.isMaskedArray(x):
        raise TypeError(
            f"A FrozenNet takes an array of NumPy or JAX without a mask, got {type(x).__name__}: "
            "numpy.asarray(x, 'float32')."
        )
    if tuple(x.shape[-len(input_shape) :]) != input_shape:
        raise ValueError(
            f"The bounds of this network were made for images of shape {input_shape}, got x of "
            f"shape {tuple(x.shape)}. Another size needs its own: "
            "gj.freeze(net, variables, input_shape=...)."
        )
    return _without_explicit_axes(jnp.asarray(x))


def _without_explicit_axes(x: Array) -> Array:
    """An array whose sharding is no part of its type, as `jax.make_mesh` makes it one.

    What runs was traced for one image, which lies on no mesh.
    """
    mesh = jax.typeof(x).sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return x
    if isinstance(x, Tracer) or AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        raise TypeError(
            f"x lies on a mesh with explicit axes, {mesh}, and inside jit or jax.set_mesh a "
            "FrozenNet takes images on automatic ones: make the mesh with axis_types of "
            "jax.sharding.AxisType.Auto, or put jax.sharding.auto_axes around what certifies."
        )
    sharding: Any = x.sharding
    names = sharding.mesh.axis_names
    automatic = Mesh(sharding.mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
    return jax.device_put(x, NamedSharding(automatic, sharding.spec))


def refuse_bytes(x: Any, input_shape: tuple[int, ...]) -> None:
    """Raises a ValueError for pixels of 0 to 255, where the host has the values at hand.

    Their radii would be in those units. Other ranges are the caller's affair: the theorem holds
    for every input of the network, and images may have been standardised.
    """
    if len(input_shape) != 3 or is_tracing(x) or not np.size(x) or not is_on_host(x):
        return
    values = np.asarray(x)
    if 16 < values.max() <= 255 and values.min() >= 0:
        raise ValueError(
            f"x has values up to {values.max():g}, which looks like pixels of 0 to 255, and "
            "epsilon and the radius are in the units of x. Certify images in [0, 1]: x / 255."
        )
