"""Singular values of a convolution from below, and their vectors: hints that nothing rests on."""

import itertools
from typing import Any

import numpy as np
import scipy.sparse.linalg

from gloro_jax.lipschitz.geometry import Pads, Pair, output_size

_VECTORS = 4
_BASIS = 24
_RESTARTS = 200
_POWER_STEPS = 200


class StrideOne:
    """A zero-padded stride-1 convolution and its adjoint, on one image, in NumPy."""

    def __init__(
        self,
        kernel: np.ndarray,
        *,
        image_size: Pair,
        pads: Pads,
        is_input: np.ndarray | None = None,
        is_output: np.ndarray | None = None,
    ) -> None:
        self._kernel, self._pads, self._size = kernel, pads, image_size
        window = (kernel.shape[0], kernel.shape[1])
        self._outputs = output_size(image_size, window, (1, 1), pads)
        self._masks = (is_input, is_output)
        self.input_shape = (*image_size, kernel.shape[2])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(H, W, in) to (H', W', out)."""
        (height, width), out = self._outputs, 0.0
        padded = np.pad(_masked(x, self._masks[0]), (*self._pads, (0, 0)))
        for dy, dx in self._taps():
            window = padded[dy : dy + height, dx : dx + width]
            out = out + window.reshape(height * width, -1) @ self._kernel[dy, dx]
        return _masked(np.asarray(out).reshape(height, width, -1), self._masks[1])

    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """(H', W', out) to (H, W, in)."""
        (height, width), ((top, bottom), (left, right)) = self._outputs, self._pads
        rows, columns = self._size
        shape = (rows + top + bottom, columns + left + right, self._kernel.shape[2])
        padded = np.zeros(shape, self._kernel.dtype)
        y = _masked(y, self._masks[1]).reshape(height * width, -1)
        for dy, dx in self._taps():
            window = padded[dy : dy + height, dx : dx + width]
            window += (y @ self._kernel[dy, dx].T).reshape(window.shape)
        return _masked(padded[top : top + rows, left : left + columns], self._masks[0])

    def _taps(self) -> Any:
        return itertools.product(range(self._kernel.shape[0]), range(self._kernel.shape[1]))


def largest_singular_vectors(linear: StrideOne, *, tol: float) -> tuple[float, np.ndarray]:
    """About the largest singular value, from below up to rounding, and a few top vectors.

    Lanczos iteration from a fixed Gaussian start; where it breaks down, power iteration.

    Args:
        linear: the operator, in float32 for speed.
        tol: relative accuracy asked of the eigenvalues.

    Returns:
        The value, and right singular vectors (H, W, in, count), the top one first.
    """
    shape = linear.input_shape
    size = int(np.prod(shape))

    def gram(v: np.ndarray) -> np.ndarray:
        return linear.adjoint(linear(v.astype(np.float32).reshape(shape))).ravel()

    start = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    operator: Any = scipy.sparse.linalg.LinearOperator
    square = operator((size, size), matvec=gram, dtype=np.float32)
    try:
        eigsh: Any = scipy.sparse.linalg.eigsh
        values, vectors = eigsh(
            square,
            k=min(_VECTORS, size - 1),
            which="LA",
            v0=start,
            ncv=min(size, _BASIS),
            tol=tol,
            maxiter=_RESTARTS,
        )
    except (scipy.sparse.linalg.ArpackError, ValueError, TypeError):
        v = start
        for _ in range(_POWER_STEPS):
            image = gram(v)
            length = np.linalg.norm(image)
            if length == 0:
                break
            v = image / length
        values, vectors = np.array([np.linalg.norm(gram(v))]), v[:, None]
    top = vectors[:, ::-1].astype(np.float64).reshape(*shape, -1)
    return float(np.sqrt(max(values[-1], 0.0))), top


def _masked(x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return x if mask is None else np.where(mask, x, np.float32(0))
