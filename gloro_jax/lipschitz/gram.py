"""Proved upper bounds of eigenvalues, and Gram matrices of operators small enough to write out."""

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from gloro_jax.lipschitz.rounding import cholesky_slack, gamma, up

_EXPLICIT_EIGENVALUE_SIZE = 64
_POWER_STEPS = 300


def power_of_two_below(x: float) -> float:
    """The largest power of two not above x > 0: dividing by it is exact."""
    return float(np.ldexp(0.5, np.frexp(x)[1]))


def cholesky(matrices: np.ndarray) -> np.ndarray | None:
    """The float64 Cholesky factors of the lower triangles of (..., n, n); None if one fails."""
    try:
        factors = np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return None
    return factors if np.isfinite(np.diagonal(factors, axis1=-2, axis2=-1)).all() else None


def eigenvalue_bound(gram: np.ndarray, *, forming_error: float) -> float:
    """An upper bound of the largest eigenvalue of an exact matrix that `gram` approximates.

    Guess t from above, factor t I - gram by Cholesky; its success proves t up to known rounding
    (soundness notes, primitive P1). A failed guess moves up, so a poor guess costs time only.

    Args:
        gram: Hermitian and positive semidefinite up to rounding, (n, n), in 64-bit floats.
        forming_error: bound of the 2-norm of `gram` minus the exact matrix.

    Returns:
        The bound; infinity if `gram` is not finite.
    """
    n = len(gram)
    if not np.isfinite(gram).all():
        return float("inf")
    # The mean eigenvalue keeps the guess positive whatever the eigenvalue routine answers.
    guess, margin = max(_largest_eigenvalue(gram), float(np.real(np.trace(gram))) / n, 1e-290), 1e-6
    while np.isfinite(t := guess * (1.0 + margin)):
        shifted = -gram
        shifted[np.diag_indices(n)] += t
        if cholesky(shifted) is not None:
            return up(t + cholesky_slack(n, n * t) + gamma(4) * n * t + forming_error)
        margin *= 4.0
    return float("inf")


def product_gram(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """The Gram matrix of the shorter side of `matrix`, and a bound of its rounding error.

    Each entry is a sum of k products, so its error is at most gamma(k) |A||A|^T; the Frobenius
    norm of that is at most gamma(k) ||A||_F^2.
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    error = gamma(short.shape[1] + 4) * float(np.square(short).sum()) * (1 + 1e-9) + 1e-300
    return short @ short.T, error


def input_gram(kernel: np.ndarray, table: np.ndarray, pixels: int) -> tuple[np.ndarray, float]:
    """A^T A of a convolution A, written out, and a bound of its rounding error.

    Every output pixel contributes the kernel's own Gram matrix, restricted to the taps that fall
    inside the image. That is A^T A summed in another order, for any stride and padding.

    Args:
        kernel: (taps, in, out), float64.
        table: `tap_table`, (output pixels, taps).
        pixels: number of input pixels.
    """
    channels, terms = kernel.shape[1], kernel.shape[2] + table.shape[1]
    flat = kernel.reshape(-1, kernel.shape[2])
    return _scatter_gram(flat @ flat.T, channels, table, pixels, terms)


def output_gram(kernel: np.ndarray, table: np.ndarray, pixels: int) -> tuple[np.ndarray, float]:
    """A A^T of a convolution A, as `input_gram`: every input pixel contributes its readers."""
    taps, channels = table.shape[1], kernel.shape[2]
    flat = kernel.transpose(0, 2, 1).reshape(taps * channels, -1)
    readers = np.full((pixels, taps), -1)
    outputs, tap = np.nonzero(table >= 0)
    readers[table[outputs, tap], tap] = outputs
    return _scatter_gram(flat @ flat.T, channels, readers, len(table), kernel.shape[1] + taps)


def _scatter_gram(
    block: np.ndarray, channels: int, table: np.ndarray, pixels: int, terms: int
) -> tuple[np.ndarray, float]:
    gram = np.zeros((pixels * channels, pixels * channels))
    offsets = np.arange(channels)
    for row in table:
        taps = np.nonzero(row >= 0)[0]
        source = (taps[:, None] * channels + offsets).ravel()
        target = (row[taps][:, None] * channels + offsets).ravel()
        gram[np.ix_(target, target)] += block[np.ix_(source, source)]
    # trace(A^T A) = ||A||_F^2, and the rounding bound of product_gram holds in any order.
    return gram, gamma(terms + 8) * float(np.trace(gram)) * (1 + 1e-6) + 1e-300


def _largest_eigenvalue(gram: np.ndarray) -> float:
    n = len(gram)
    if n > _EXPLICIT_EIGENVALUE_SIZE:
        start = np.random.default_rng(0).standard_normal(n)
        try:
            eigsh: Any = scipy.sparse.linalg.eigsh
            return float(
                eigsh(gram, k=1, which="LA", v0=start, tol=1e-9, return_eigenvectors=False)[0]
            )
        except scipy.sparse.linalg.ArpackError:
            pass  # breakdown or no convergence: the dense routine always answers
    try:
        return float(scipy.linalg.eigvalsh(gram, subset_by_index=[n - 1, n - 1])[0])
    except np.linalg.LinAlgError:  # LAPACK gives up on some matrices of wildly mixed scales
        v = np.random.default_rng(0).standard_normal(n)
        for _ in range(_POWER_STEPS):
            v = gram @ (v / np.linalg.norm(v))
        return float(np.linalg.norm(v))
