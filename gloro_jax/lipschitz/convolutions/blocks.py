"""The Fourier blocks of a torus, kept for every target that is tried on them."""

from typing import Any

import numpy as np
import scipy.linalg

from gloro_jax.lipschitz.convolutions.torus import Torus
from gloro_jax.lipschitz.gram import cholesky

_MODES_PER_FREQUENCY = 64
_BATCHED_SIDE = 32  # blocks up to this size are factorised many at a time


class Blocks:
    """The blocks T(w) of a torus, computed once for every target that is tried."""

    def __init__(self, torus: Torus) -> None:
        self.torus, self.side = torus, torus.channels
        self.values: Any = np.concatenate([torus.blocks(some) for some in torus.chunks()])
        is_real = torus.weights == 1
        self.values[is_real] = self.values[is_real].real
        self.is_batched = self.side <= _BATCHED_SIDE
        self._eigen = np.linalg.eigh(self.values) if self.is_batched else None
        squares = np.square(np.abs(self.values)).sum((1, 2))
        self.frobenius = float(np.sqrt(squares.max()) * (1 + 1e-9))

    def not_below(self, level: float) -> np.ndarray:
        """The frequencies whose block is not proved to be below `level`; a hint if batched."""
        if self._eigen is not None:
            return np.nonzero(self._eigen[0][:, -1] >= level)[0]
        every = range(len(self.values))
        return np.array([i for i in every if cholesky(self.shifted(i, level)) is None], int)

    def modes_above(self, frequency: int, level: float) -> np.ndarray:
        """Eigenvectors above `level`, times the root of what they exceed it by, (n, few)."""
        if self._eigen is not None:
            values, vectors = (part[frequency] for part in self._eigen)
        else:
            largest = [max(0, self.side - _MODES_PER_FREQUENCY), self.side - 1]
            values, vectors = scipy.linalg.eigh(self.plain(frequency), subset_by_index=largest)
        is_above = values > level
        return vectors[:, is_above] * np.sqrt(values[is_above] - level)

    def shifted(self, frequency: int, level: float, modes: np.ndarray | None = None) -> np.ndarray:
        """Level I - T + modes modes^H at one frequency."""
        shifted = -self.plain(frequency)
        shifted[np.diag_indices(self.side)] += level
        return shifted if modes is None else shifted + modes @ modes.conj().T

    def plain(self, frequency: int) -> np.ndarray:
        """One block, real where it is real."""
        block = self.values[frequency]
        return block.real if self.torus.weights[frequency] == 1 else block
