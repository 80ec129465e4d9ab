"""Activation functions with their Lipschitz constants, in the l2 norm over one example.

Every function here has constant 1. The reason stands in its docstring; the comparisons, selections
and absolute values among them are also exact in floating point.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Pairing = Literal["halves", "adjacent"]
Order = Literal["max_min", "min_max"]


def minmax(
    x: Float[Array, "*shape"], *, pairing: Pairing = "halves", order: Order = "max_min"
) -> Float[Array, "*shape"]:
    """Sorts pairs of channels (Anil et al. 2019).

    Sorting permutes the entries, by one permutation per region of inputs, so the map is
    1-Lipschitz and preserves the norm of gradients.

    Args:
        x: activations, channels last; an even number of them.
        pairing: "halves" pairs channel i with i + C/2, as the LiResNet code does; "adjacent"
            pairs 2i with 2i + 1, as the TensorFlow GloRo library does.
        order: which of the pair comes first.

    Raises:
        ValueError: if the number of channels is odd.
    """
    a, b = pairs(x, pairing)
    # maximum and minimum share the gradient of a tie out, which costs a training step 3 %.
    is_sorted = a > b
    high, low = jnp.where(is_sorted, a, b), jnp.where(is_sorted, b, a)
    return unpair(high, low, pairing) if order == "max_min" else unpair(low, high, pairing)


def smooth_minmax(
    x: Float[Array, "*shape"], *, softness: float = 0.1, pairing: Pairing = "halves"
) -> Float[Array, "*shape"]:
    """MinMax with its kink rounded off: (a + b +- sqrt((a - b)^2 + c^2)) / 2.

    With r = (a - b) / sqrt((a - b)^2 + c^2), the Jacobian of a pair is symmetric with eigenvalues
    1 and r, and |r| < 1, so the map is 1-Lipschitz. A smooth activation can give a tight
    certificate near a corner, which no piecewise-linear network can (Leino 2023).

    Args:
        x: activations, channels last; an even number of them.
        softness: c > 0, in the units of x.
        pairing: as for `minmax`.

    Raises:
        ValueError: if the number of channels is odd, or `softness` is not in [1e-15, 1e15].
    """
    _check_softness(softness)
    a, b = pairs(x, pairing)
    mean, half = (a + b) / 2, jnp.sqrt(jnp.square(a - b) + softness**2) / 2
    return unpair(mean + half, mean - half, pairing)


def smooth_abs(x: Float[Array, "*shape"], *, softness: float = 0.1) -> Float[Array, "*shape"]:
    """The absolute value with its kink rounded off: sqrt(x^2 + c^2) - c.

    Its slope x / sqrt(x^2 + c^2) lies strictly between -1 and 1.

    Args:
        x: activations of any shape.
        softness: c > 0, in the units of x.

    Raises:
        ValueError: if `softness` is not in [1e-15, 1e15].
    """
    _check_softness(softness)
    return jnp.sqrt(jnp.square(x) + softness**2) - softness


def pairs(x: Array, pairing: Pairing) -> tuple[Array, Array]:
    """What MinMax compares, (..., C/2) each; raises a ValueError for an odd number of channels."""
    if x.shape[-1] % 2:
        raise ValueError(
            f"MinMax pairs channels, so their number must be even; got {x.shape[-1]} channels. "
            "Give the layer before it an even number of features."
        )
    if pairing == "adjacent":
        return x[..., 0::2], x[..., 1::2]
    a, b = jnp.split(x, 2, axis=-1)
    return a, b


def unpair(first: Array, second: Array, pairing: Pairing) -> Array:
    """The inverse of `pairs`."""
    if pairing == "adjacent":
        shape = (*first.shape[:-1], 2 * first.shape[-1])
        return jnp.stack([first, second], axis=-1).reshape(shape)
    return jnp.concatenate([first, second], axis=-1)


def _check_softness(softness: float) -> None:
    if not softness > 0:
        raise ValueError(f"softness must be positive, got {softness}; 0 is minmax or abs.")
    if not 1e-15 <= softness <= 1e15:
        raise ValueError(
            f"softness is between 1e-15 and 1e15, so that its square is a float32; got {softness}."
        )
