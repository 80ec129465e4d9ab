"""From any matrix to one with orthonormal rows, differentiably: Cholesky, Cayley, Newton-Schulz.

All return a matrix of the shape they were given whose singular values are at most 1 in exact
arithmetic; where there are more rows than columns, its columns are orthonormal. Rounding can lift
singular values a little, so training counts them as 1 and a certificate bounds the matrix that came
out, like any other.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gloro_jax.solving import (
    lower_factor,
    one_key_at_a_time,
    solve,
    solve_lower,
    solve_lower_transposed,
)

Orthogonalization = Literal["cholesky", "cayley", "newton_schulz"]

# Relative to the mean squared norm of a row. It keeps the factorisation away from singular
# matrices, and the singular values of the result below 1: 0.9995 where the rows are orthonormal.
_RIDGE = 1e-3

# The quintic step lifts a small singular value by 15/8; ten of them lift one of 1/500 to 1.
_NEWTON_SCHULZ_STEPS = 10
_EXACT = jax.lax.Precision.HIGHEST


def orthogonalized(
    matrix: Float[Array, "rows columns"], *, method: Orthogonalization
) -> Float[Array, "rows columns"]:
    """`matrix` with its rows orthonormalised, or its columns where there are fewer of those.

    Raises:
        ValueError: if the method is unknown.
    """
    methods = {"cholesky": cholesky, "cayley": cayley, "newton_schulz": newton_schulz}
    if method not in methods:
        raise ValueError(f"orthogonalization is one of {sorted(methods)}, got {method!r}.")
    return methods[method](matrix)


def cholesky(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Q = L^-1 X, where L L^T = X X^T + ridge I (Hu, Leino, Wang, Fredrikson 2024, CHORD).

    Q Q^T = I - ridge L^-1 L^-T, so every singular value is below 1, and rows that are zero,
    repeated or linearly dependent do no harm. The ridge, 1e-3 times the mean diagonal of X X^T,
    counts as constant in the gradient, as in the reference.
    """
    # Q does not depend on the scale of X, whose squares might underflow.
    return _cholesky(matrix / power_of_two_near(matrix))


@jax.custom_vjp
def _cholesky(matrix: Any) -> Any:
    return _cholesky_forward(matrix)[0]


def _cholesky_forward(matrix: Any) -> tuple[Any, tuple[Any, Any]]:
    gram = jnp.matmul(matrix, matrix.T, precision=_EXACT)
    ridge = _RIDGE * jnp.mean(jnp.diagonal(gram))
    ridge = jnp.where(ridge > 0, ridge, 1.0)
    lower = lower_factor(gram + ridge * jnp.eye(len(gram), dtype=gram.dtype))
    q = solve_lower(lower, matrix)
    return q, (q, lower)


def _cholesky_backward(saved: tuple[Any, Any], gradient: Any) -> tuple[Any]:
    """L^-T (G - sym(tril(G Q^T)) Q), where sym mirrors the strictly lower triangle.

    The reference writes it as P Q + B with B = L^-T G, A = tril(-B Q^T) and
    P = L^-T sym(tril(L^T A)). Entry (i, j) of L^T A, i >= j, sums over k >= i only, where A has
    all of -B Q^T; so tril(L^T A) is tril(-G Q^T), and two products and a solve drop out.
    """
    q, lower = saved
    half = jnp.tril(jnp.matmul(gradient, q.T, precision=_EXACT))
    symmetric = half + jnp.tril(half, -1).T
    rest = gradient - jnp.matmul(symmetric, q, precision=_EXACT)
    return (solve_lower_transposed(lower, rest),)


_cholesky.defvjp(_cholesky_forward, _cholesky_backward)


def cayley(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """The Cayley transform of a matrix, cut to shape (Trockman and Kolter 2021).

    With X = [U V], U square, and A = U^T - U + V V^T, the rows of
    [(I + A)^-1 (I - A), 2 (I + A)^-1 V] are exactly orthonormal: A plus its transpose is positive
    semi-definite, so I + A is never singular.
    """
    rows, columns = matrix.shape
    if rows > columns:
        return cayley(matrix.T).T
    square, rest = matrix[:, :rows], matrix[:, rows:]
    skew = square.T - square + jnp.matmul(rest, rest.T, precision=_EXACT)
    identity = jnp.eye(rows, dtype=matrix.dtype)
    right = jnp.concatenate([identity - skew, 2.0 * rest], axis=1)
    return solve(identity + skew, right)


def newton_schulz(
    matrix: Float[Array, "rows columns"], *, steps: int = _NEWTON_SCHULZ_STEPS
) -> Float[Array, "rows columns"]:
    """The polar factor of a matrix by matrix products only, for accelerators.

    Each step applies p(s) = (15 s - 10 s^3 + 3 s^5) / 8 to the singular values s. It maps [0, 1]
    into itself and increases there, towards its fixed point 1, so no number of steps makes the
    result exceed norm 1; small singular values stay below, and those of 0 stay 0.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return newton_schulz(matrix.T, steps=steps).T
    scaled = matrix / power_of_two_near(matrix)
    # The spectral norm is at most the root of the largest row sum times the largest column sum.
    sums = jnp.abs(scaled).sum(axis=0).max() * jnp.abs(scaled).sum(axis=1).max()
    x = scaled / jax.lax.stop_gradient(jnp.sqrt(jnp.where(sums > 0, sums, 1.0)))
    for _ in range(steps):
        gram = jnp.matmul(x, x.T, precision=_EXACT)
        weights = 3.0 * jnp.matmul(gram, gram, precision=_EXACT) - 10.0 * gram
        x = (15.0 * x + jnp.matmul(weights, x, precision=_EXACT)) / 8.0
    return x


def special_orthogonal(key: Any, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """A random rotation, uniform: an initialiser of square orthogonal matrices of determinant 1.

    Raises:
        ValueError: if the shape is not square.
    """
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"A rotation is a square matrix, got shape {shape}.")
    return one_key_at_a_time(_rotation)(key, shape, dtype)


def _rotation(key: Any, shape: tuple[int, int], dtype: Any) -> Array:
    q, r = jnp.linalg.qr(jax.random.normal(key, shape, jnp.float32))  # noqa: TID251
    q = q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None, :]
    # Its columns are uniform now; the last one decides between a rotation and a reflection.
    sign = jnp.sign(jnp.linalg.det(q))  # noqa: TID251
    return q.at[:, -1].multiply(sign).astype(dtype)


def retracted(matrix: Float[Array, "*stack n n"], *, steps: int = 4) -> Float[Array, "*stack n n"]:
    """The orthogonal matrix nearest to one that is almost orthogonal, by Newton and Schulz.

    Each step squares the distance, as long as all singular values are between 0 and sqrt(3).
    """
    for _ in range(steps):
        gram = jnp.matmul(jnp.swapaxes(matrix, -1, -2), matrix, precision=_EXACT)
        matrix = 1.5 * matrix - 0.5 * jnp.matmul(matrix, gram, precision=_EXACT)
    return matrix


def distance_from_orthogonal(matrix: Float[Array, "*stack n n"]) -> Float[Array, ""]:
    """The Frobenius norm of X^T X - I; the largest of a stack."""
    gram = jnp.matmul(jnp.swapaxes(matrix, -1, -2), matrix, precision=_EXACT)
    apart = gram - jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    return jnp.sqrt(jnp.max(jnp.sum(jnp.square(apart), axis=(-2, -1))))


def power_of_two_near(matrix: Any) -> Any:
    """A power of two near the largest entry, such that dividing by it is exact."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix), initial=0.0))
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1.0))
    return jnp.ldexp(jnp.ones((), matrix.dtype), jnp.clip(exponent, -120, 120))
