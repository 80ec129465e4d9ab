"""Rounding, always against us: a-priori bounds in float64 and outward arithmetic in JAX.

Nothing here switches the processor's rounding mode. Every bound is the classical a-priori one,
`gamma(n)`, for sums of n products in any order, with or without fused multiply-add
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_UNIT_ROUNDOFF = 2.0**-53
_SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)


def gamma(n: int) -> float:
    """The bound n u / (1 - n u) on the relative error of a float64 sum of n products."""
    return n * _UNIT_ROUNDOFF / (1.0 - n * _UNIT_ROUNDOFF)


def up(x: float, *, ulps: int = 4) -> float:
    """`x` moved up by `ulps` float64 neighbours; 0 stays 0, infinity stays infinity.

    Four neighbours cover a short scalar formula of at most four correctly rounded operations.
    """
    if x == 0.0:
        return 0.0
    for _ in range(ulps):
        x = math.nextafter(x, math.inf)
    return x


def cholesky_slack(n: int, trace: float) -> float:
    """How negative an eigenvalue may be although floating-point Cholesky completed.

    If float64 Cholesky of a Hermitian n x n matrix S runs to its end, then
    lambda_min(S) >= -g/(1-g) trace(S) with g = gamma(n+1) (Rump 2006; Higham, theorem 10.3). The
    g used here is about eight times that, which also covers complex arithmetic, blocked
    factorisations and any order of summation. It assumes conventional inner products.
    """
    g = 4.0 * gamma(2 * (n + 8))
    return up(g / (1.0 - g) * trace * (1.0 + 1e-10))


def float32_up(x: float) -> np.float32:
    """The least float32 that is at least `x` and, unless `x` is 0, a normal number.

    Subnormal results are avoided because accelerators may flush them to zero, and a Lipschitz
    bound of zero certifies everything.
    """
    if x == 0.0:
        return np.float32(0.0)
    with np.errstate(over="ignore"):
        rounded = np.float32(x)
    if float(rounded) < x:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return np.maximum(rounded, np.finfo(np.float32).tiny)


def times_up(a: float, b: float) -> float:
    """The product of two non-negative Python floats, rounded up; 0 only where a factor is 0."""
    if a == 1 or b == 1:
        return b if a == 1 else a
    product = a * b
    is_zero = (a == 0 or b == 0) and product == 0
    return 0.0 if is_zero else max(math.nextafter(product, math.inf), _SMALLEST_NORMAL)


def plus_up(a: float, b: float) -> float:
    """The sum of two non-negative Python floats, rounded up; exact where a term is 0."""
    return a + b if a == 0 or b == 0 else math.nextafter(a + b, math.inf)


def nearest_float32(array: np.ndarray) -> np.ndarray:
    """`array` in float32; what exceeds it becomes infinite, for a check of finite entries."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def is_finite(x: Float[Array, "*s"]) -> Bool[Array, "*s"]:
    """Whether numbers are neither NaN nor infinite, read from their bits.

    A compiler that was told that there are no such numbers takes `isfinite` for true.
    """
    if x.dtype != jnp.float32:
        return jnp.isfinite(x)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return (bits & jnp.uint32(0x7F800000)) != jnp.uint32(0x7F800000)


@jax.custom_jvp
def next_up(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The next floating-point number above, with the derivative of the identity."""
    return jnp.nextafter(x, jnp.inf)


@jax.custom_jvp
def next_down(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The next floating-point number below, with the derivative of the identity."""
    return jnp.nextafter(x, -jnp.inf)


next_up.defjvp(lambda primals, tangents: (next_up(*primals), *tangents))
next_down.defjvp(lambda primals, tangents: (next_down(*primals), *tangents))


def multiply_up(a: Float[Array, "*#s"], b: Float[Array, "*#s"]) -> Float[Array, "*#s"]:
    """The product of two non-negative arrays, rounded up; 0 only where a factor is exactly 0.

    Exact where a factor is 1, as it is for activations. Elsewhere the next neighbour up
    absorbs the product's rounding error, and nothing non-zero falls below the smallest normal
    number, where a device may flush it to 0.
    """
    product = next_up(a * b)
    product = jnp.maximum(product, jnp.finfo(product.dtype).tiny)
    is_zero = ((a == 0) & jnp.isfinite(b)) | ((b == 0) & jnp.isfinite(a))
    product = jnp.where(is_zero, 0, product)
    return jnp.where(a == 1, b, jnp.where(b == 1, a, product))


def add_up(a: Float[Array, "*#s"], b: Float[Array, "*#s"]) -> Float[Array, "*#s"]:
    """The sum of two non-negative arrays, rounded up; exact where a term is 0."""
    total = a + b
    is_exact = (a == 0) | (b == 0)
    return jnp.where(is_exact, total, next_up(total))


def subtract_down(a: Float[Array, "*#s"], b: Float[Array, "*#s"]) -> Float[Array, "*#s"]:
    """The difference a - b, rounded down, also where a device flushes subnormal numbers to 0."""
    difference = a - b
    return next_down(difference - 4 * jnp.finfo(difference.dtype).tiny)


def divide_down(a: Float[Array, "*#s"], b: Float[Array, "*#s"]) -> Float[Array, "*#s"]:
    """The quotient of a >= 0 by b > 0, rounded down and never below 0.

    Four units in the last place, because accelerators may divide less exactly than to nearest.
    """
    quotient = a / b
    return jnp.maximum(next_down(quotient * (1 - 4 * jnp.finfo(quotient.dtype).eps)), 0)
