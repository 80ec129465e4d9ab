"""Spectral norms of linear maps: the two kinds of number, and the estimate from below.

A linear map is given by its forward function alone; `jax.linear_transpose` derives the adjoint,
so one routine serves dense, convolution (any stride, padding, groups), pooling and fused
residual maps.

Two kinds of number describe a norm, and they are different types on purpose:

* `Estimate`: power iteration. Never above the true norm, so it trains and must not certify.
* `UpperBound`: never below the true norm, rounding included. Made by `gloro_jax.lipschitz.upper`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from gloro_jax.lipschitz.rounding import next_up
from gloro_jax.pytrees import pytree_dataclass

LinearFn = Callable[[Any], Any]

# Rounds compiled as straight-line code: XLA:CPU runs a convolution's transpose inside a loop
# about 75 times slower than outside.
_MAX_UNROLLED_STEPS = 10
# Its reciprocal is a normal float32 number.
_LARGEST_SCALE = 2.0**125


@pytree_dataclass()
class Estimate:
    """A norm estimate from below, with the unit vector that attains it."""

    value: Any
    vector: Any = None

    def __float__(self) -> float:
        return float(self.value)


@pytree_dataclass()
class UpperBound:
    """A number that the spectral norm cannot exceed.

    Raises:
        TypeError: if the number is not real, or not one number.
        ValueError: if it is negative, NaN or infinite. A traced number cannot be looked at; where
            it is used, such a one becomes NaN, which certifies nothing.
    """

    value: Any

    def __post_init__(self) -> None:
        check_bound(self.value, name="An UpperBound")

    def __float__(self) -> float:
        return float(self.value)


def is_bound(number: Any) -> bool:
    """Whether a concrete real number is finite and at least 0."""
    try:
        return 0 <= float(number) < math.inf
    except OverflowError:  # an integer beyond float64
        return False


def check_bound(value: Any, *, name: str) -> None:
    """Raises unless `value` is one real number, and finite and at least 0 if it is concrete."""
    dtype = getattr(value, "dtype", np.dtype(object))
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    is_real = jnp.issubdtype(dtype, np.floating) or jnp.issubdtype(dtype, np.integer)
    if not (is_plain or (is_real and np.shape(value) == ())):
        raise TypeError(f"{name} is one real number, got {type(value).__name__}: {value!r}.")
    if not isinstance(value, Tracer) and not is_bound(value):
        raise ValueError(
            f"{name} is a finite number of at least 0, got {str(value)[:24]}. Nothing moves by "
            "less than 0, and NaN or infinity bounds nothing: compute it again."
        )


def bound_number(value: Any, *, name: str) -> Any:
    """A bound from above as a Python float, or as a float32 array where it is traced; rounded up.

    A traced number that is no bound, negative or not finite, is NaN.

    Raises:
        TypeError: if it is not one real number.
        ValueError: if it is concrete, and negative, NaN or infinite.
    """
    check_bound(value, name=name)
    if not isinstance(value, Tracer):
        value = np.asarray(value).item()  # compared as it is: an integer may lie beyond 2^53
        exact = float(value)
        return math.nextafter(exact, math.inf) if exact < value else exact
    is_exact = value.dtype in (jnp.float32, jnp.float16, jnp.bfloat16)
    array = value.astype(jnp.float32)
    array = array if is_exact else next_up(array)
    return jnp.where((array >= 0) & jnp.isfinite(array), array, jnp.nan)


def two_norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The Euclidean norm over all axes, exact in scale and with gradient 0 at 0.

    Entries are divided by the largest before squaring, so that a vector of 1e-30 has norm 1e-30
    and not 0. No epsilon is added anywhere: an epsilon lowers the norm of small vectors
    (klasleino/gloro issue 8).
    """
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0.0))
    is_zero = scale == 0
    # XLA may multiply by the reciprocal, and flushes that to 0 where it is no normal number.
    scale = jnp.minimum(scale, _LARGEST_SCALE)
    squares = jnp.sum(jnp.square(x / jnp.where(is_zero, 1, scale)))
    return jnp.where(is_zero, 0, scale * jnp.sqrt(jnp.where(is_zero, 1, squares)))


def power_iteration(linear: LinearFn, vector: Float[Array, "..."], *, steps: int) -> Estimate:
    """Estimates the spectral norm of `linear` from below, starting at `vector`.

    The singular vector counts as constant, so the gradient flows through the last application
    only: exact at convergence (Leino et al. 2021). A round that reaches the zero vector (a zero
    map, or a start in the kernel) leaves the vector as it was, so that it can recover when the
    weights do.

    Args:
        linear: the map without bias, from arrays shaped like `vector`.
        vector: the start, of any scale; neither zero nor constant. A constant vector is
            exactly orthogonal to the top singular vector of many filters.
        steps: rounds of apply-and-transpose, at least 1.

    Returns:
        The estimate, with the unit vector to start from next time.

    Raises:
        ValueError: if `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"power_iteration needs steps >= 1, got steps={steps}.")
    constant = jax.lax.stop_gradient
    transpose = jax.linear_transpose(linear, vector)

    def one_round(v: Any, _: None) -> tuple[Any, None]:
        image = constant(linear(v))
        (back,) = transpose(_unit(image, otherwise=image))
        return constant(_unit(back, otherwise=v)), None

    start = constant(_unit(vector, otherwise=vector))
    unroll = min(steps, _MAX_UNROLLED_STEPS)
    v, _ = jax.lax.scan(one_round, start, length=steps, unroll=unroll)
    return Estimate(two_norm(linear(v)), v)


def exact_norm(linear: LinearFn, shape: tuple[int, ...]) -> float:
    """The spectral norm of `linear` by dense SVD in float64: the ground truth for tests.

    Each basis vector goes through `linear` in the caller's precision, so the matrix is that of
    the executed map. Costs inputs x outputs numbers: fine to a few thousand.

    Args:
        linear: the map without bias.
        shape: the shape it takes, without a batch axis.
    """
    size = int(np.prod(shape))
    columns = jax.vmap(linear)(jnp.eye(size).reshape((size, *shape)))
    matrix = np.asarray(columns, np.float64).reshape(size, -1)
    return float(np.linalg.norm(matrix, ord=2)) if matrix.size else 0.0


def random_direction(key: Any, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """A random unit vector of `shape`: the start of power iteration."""
    gaussian = jax.random.normal(key, shape, jnp.float32)
    return _unit(gaussian, otherwise=gaussian)


def _unit(x: Array, *, otherwise: Array) -> Array:
    norm = two_norm(x)
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), otherwise)
