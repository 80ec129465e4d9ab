"""LAPACK's factorisations and solutions, of one matrix or a stack of them, that always end.

jaxlib's LAPACK calls split a stack among the threads of XLA:CPU and wait for them, on one of these
very threads. Two such calls that run beside each other, as those of two layers do, can take all
threads and wait forever: on two cores a program of eight stacked Cholesky factorisations mostly
hangs (JAX 0.10.2). On the CPU these functions therefore take a stack matrix by matrix, in a loop,
also one that `jax.vmap` made: a call for one matrix does not wait. Elsewhere stacks stay stacks.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve
from jax.scipy.linalg import solve_triangular as _solve_triangular


def _matrix_by_matrix(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of matrices, on stacks of them (the same leading axes in every argument)."""

    @jax.custom_batching.custom_vmap
    def call(*arrays: Any) -> Any:
        stack = arrays[0].shape[:-2]
        if not stack:
            return function(*arrays)
        flat = [array.reshape(-1, *array.shape[len(stack) :]) for array in arrays]
        out = jax.lax.platform_dependent(
            *flat,
            cpu=lambda *rows: jax.lax.map(lambda row: function(*row), rows),
            default=jax.vmap(function),
        )
        return jax.tree.map(lambda array: array.reshape(*stack, *array.shape[1:]), out)

    @call.def_vmap
    def mapped(size: int, is_batched: list[bool], *arrays: Any) -> Any:
        full = [
            array if has_axis else jnp.broadcast_to(array, (size, *array.shape))
            for array, has_axis in zip(arrays, is_batched, strict=True)
        ]
        out = call(*full)
        return out, jax.tree.map(lambda _: True, out)

    return call


def one_key_at_a_time(init: Callable[..., Any]) -> Callable[..., Any]:
    """An initialiser (key, shape, dtype) that `jax.vmap` over keys calls in a loop."""

    @functools.wraps(init)
    def call(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
        return jax.custom_batching.sequential_vmap(lambda one: init(one, shape, dtype))(key)

    return call


@_matrix_by_matrix
def lower_factor(matrix: Any) -> Any:
    """L with L L^T = `matrix` (n, n), symmetric, of which the lower half is read. No gradient."""
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)


@_matrix_by_matrix
def solve_lower(lower: Any, right: Any) -> Any:
    """L^-1 `right`, of L (n, n) and right-hand sides (n, m). No gradient."""
    return _solve_triangular(lower, right, lower=True)


@_matrix_by_matrix
def solve_lower_transposed(lower: Any, right: Any) -> Any:
    """L^-T `right`, of L (n, n) and right-hand sides (n, m). No gradient."""
    return _solve_triangular(lower, right, lower=True, trans="T")


matrix_exponential = _matrix_by_matrix(jax.scipy.linalg.expm)
_factor = _matrix_by_matrix(lu_factor)
_solve = _matrix_by_matrix(lambda lu, pivots, right: lu_solve((lu, pivots), right))
_solve_transposed = _matrix_by_matrix(
    lambda lu, pivots, right: lu_solve((lu, pivots), right, trans=1)
)


@jax.custom_vjp
def solve(matrix: Any, right: Any) -> Any:
    """A^-1 `right`, of A (..., n, n), real or complex, and right-hand sides (..., n, m)."""
    return _solve(*_factor(matrix), right)


def _solve_forward(matrix: Any, right: Any) -> tuple[Any, Any]:
    factors = _factor(matrix)
    solution = _solve(*factors, right)
    return solution, (factors, solution)


def _solve_backward(saved: Any, gradient: Any) -> tuple[Any, Any]:
    """A^-T g for the right-hand side, and minus its products with the solution for A."""
    factors, solution = saved
    right = _solve_transposed(*factors, gradient)
    product = jnp.matmul(right, jnp.swapaxes(solution, -1, -2), precision=jax.lax.Precision.HIGHEST)
    return -product, right


solve.defvjp(_solve_forward, _solve_backward)
