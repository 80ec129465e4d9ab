"""Guaranteed norm of a zero-padded stride-1 convolution, through the smallest twisted torus.

Let A map H x W x in to H' x W' x out with zero padding (p0, p1) per axis. On a torus of
N = max(H + max(p0, p1), H') sites per axis, wrapped taps meet only zeros, so A = P C Q with C the
circular convolution, Q an extension by zeros and P a restriction: ||A|| <= ||C||. Multiplying the
wrap-around by exp(2 pi i theta) changes nothing of that and moves the frequencies at which C is
sampled, so the least of four twists, theta in {0, 1/2} per axis, is also a bound. C is block
diagonal in the Fourier basis, and each block is proved by one Cholesky factorisation.

N = H alone is not sound (circular 0.866 against a true 0.901 for [-1/2, 0, 1/2] at H = 6).
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gloro_jax.lipschitz.geometry import Pads, Pair, output_size
from gloro_jax.lipschitz.gram import is_positive_definite
from gloro_jax.lipschitz.rounding import cholesky_slack, gamma, up

_BYTES_PER_CHUNK = 2**27
_POWER_STEPS = 12
_TWISTS: tuple[Pair, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))  # in half turns, per axis


@dataclasses.dataclass(frozen=True)
class Symbol:
    """The Fourier blocks T(w) = W(w)^H W(w) of a twisted circular convolution.

    Attributes:
        gram_kernel: sums of K_e^T K_e' over tap pairs with e' - e fixed,
            (2 kh - 1, 2 kw - 1, in, in).
        sites: the torus's size (N_y, N_x).
        twist: half turns per axis.
        error: bound of the 2-norm of a computed block minus the exact one.
    """

    gram_kernel: np.ndarray
    sites: Pair
    twist: Pair
    error: float

    @property
    def channels(self) -> int:
        """The side of each block."""
        return self.gram_kernel.shape[-1]

    def frequencies(self) -> np.ndarray:
        """One index pair of each conjugate pair of frequencies, (count, 2)."""
        (ny, nx), (ty, tx) = self.sites, self.twist
        y, x = (grid.ravel() for grid in np.mgrid[:ny, :nx])
        mirror = ((-y - ty) % ny) * nx + (-x - tx) % nx
        keep = y * nx + x <= mirror
        return np.stack([y[keep], x[keep]], axis=1)

    def chunks(self) -> Iterator[np.ndarray]:
        """All blocks, (some, in, in) complex128 at a time."""
        frequencies = self.frequencies()
        size = max(1, _BYTES_PER_CHUNK // (16 * self.channels**2))
        for start in range(0, len(frequencies), size):
            yield self._blocks(frequencies[start : start + size])

    def _blocks(self, frequencies: np.ndarray) -> np.ndarray:
        phase_y, phase_x = (
            _phases(frequencies[:, axis], self.sites[axis], self.twist[axis], span)
            for axis, span in enumerate(self.gram_kernel.shape[:2])
        )
        phases: Any = (phase_y[:, :, None] * phase_x[:, None, :]).reshape(len(frequencies), -1)
        flat = self.gram_kernel.reshape(phases.shape[1], -1)
        blocks = phases.real @ flat + 1j * (phases.imag @ flat)
        return blocks.reshape(-1, self.channels, self.channels)


def torus_norm_squared(kernel: np.ndarray, *, image_size: Pair, pads: Pads) -> float:
    """An upper bound of the squared norm of a zero-padded stride-1 convolution.

    Args:
        kernel: (kh, kw, in, out), float64, entries of size about 1.
        image_size: the input's (H, W).
        pads: zero padding per axis.

    Returns:
        The bound; infinity if none was proved.
    """
    window = (kernel.shape[0], kernel.shape[1])
    outputs = output_size(image_size, window, (1, 1), pads)
    sites = tuple(
        max(size + max(low_high), out)
        for size, low_high, out in zip(image_size, pads, outputs, strict=True)
    )
    gram_kernel, error = _gram_kernel(kernel)
    symbols = [Symbol(gram_kernel, (sites[0], sites[1]), twist, error) for twist in _TWISTS]
    guesses = [_guess(symbol) for symbol in symbols]
    best = int(np.argmin(guesses))
    return _prove(symbols[best], guesses[best])


def _gram_kernel(kernel: np.ndarray) -> tuple[np.ndarray, float]:
    kh, kw, channels_in, channels_out = kernel.shape
    flat = kernel.reshape(-1, channels_out)
    products = (flat @ flat.T).reshape(kh, kw, channels_in, kh, kw, channels_in)
    gram = np.zeros((2 * kh - 1, 2 * kw - 1, channels_in, channels_in))
    for y, x, y2, x2 in itertools.product(range(kh), range(kw), range(kh), range(kw)):
        gram[y2 - y + kh - 1, x2 - x + kw - 1] += products[y, x, :, y2, x2, :]
    # Sums of products of depth out, then kh kw, then (2kh-1)(2kw-1) with phases good to 64 u,
    # each entry bounded by |K_e|^T |K_e'|; the factor 2 pays for using one triangle.
    depth = 2 * channels_out + kh * kw + 2 * gram.shape[0] * gram.shape[1] + 64
    tap_norms = float(np.sqrt(np.square(kernel).sum((2, 3))).sum()) * (1 + 1e-12)
    return gram, up(2 * gamma(depth) * tap_norms**2)


def _phases(index: np.ndarray, sites: int, twist: int, span: int) -> np.ndarray:
    # exp(i w d), w = 2 pi (index + twist/2) / sites, for d in (-k, k): reduced modulo a whole
    # turn in integers, so that the angle's error does not grow with d.
    shifts = np.arange(span) - span // 2
    half_steps = ((2 * index[:, None] + twist) * shifts) % (2 * sites)
    return np.exp(1j * np.pi * half_steps / sites)


def _guess(symbol: Symbol) -> float:
    """Roughly the largest eigenvalue over all blocks, from below."""
    rng, largest = np.random.default_rng(0), 0.0
    for chunk in symbol.chunks():
        blocks = chunk.astype(np.complex64)
        v = rng.standard_normal((len(blocks), symbol.channels, 4)).astype(np.complex64)
        for _ in range(_POWER_STEPS):
            v = blocks @ v
            v /= np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-30)
        candidates = np.linalg.norm(blocks @ v, axis=1).max(axis=1)
        close = candidates >= 0.8 * max(largest, float(candidates.max()))
        largest = max(largest, float(np.linalg.eigvalsh(chunk[close])[:, -1].max(initial=0.0)))
    return largest


def _prove(symbol: Symbol, guess: float) -> float:
    """Raises t from `guess` until Cholesky of t I - T(w) succeeds for every w."""
    n, margin = symbol.channels, 1e-7
    while np.isfinite(t := guess * (1.0 + margin)) and margin < 1e3:
        if all(_is_below(t, block) for chunk in symbol.chunks() for block in chunk):
            forming = gamma(64) * 2.5 * np.sqrt(n) * t
            return up(t + cholesky_slack(n, n * t) + forming + symbol.error)
        margin *= 4.0
    return float("inf")


def _is_below(t: float, block: np.ndarray) -> bool:
    shifted = -block
    shifted[np.diag_indices(len(block))] += t
    return is_positive_definite(shifted)
