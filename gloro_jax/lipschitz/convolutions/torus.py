"""The smallest twisted torus around a zero-padded stride-1 convolution.

Let A map H x W x in to H' x W' x out with zero padding (p0, p1) per axis. On a torus of
N = max(H + max(p0, p1), H') sites per axis, wrapped taps meet only zeros, so A = P C Q with C the
circular convolution, Q an extension by zeros and P a restriction: ||A|| <= ||C||. Multiplying the
wrap-around by exp(2 pi i theta) changes nothing of that and moves the frequencies at which C is
sampled, so the least of four twists, theta in {0, 1/2} per axis, is also a bound. C is block
diagonal in the Fourier basis, with blocks W(w) = sum_d K_d exp(i w (d - p)).

N = H alone is not sound (circular 0.866 against a true 0.901 for [-1/2, 0, 1/2] at H = 6).

Fields are real arrays (N_y, N_x, channels, count); their spectra, (frequencies, channels, count)
complex, hold one frequency of each conjugate pair and are unitary in the inner product weighted by
`weights`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gloro_jax.lipschitz.geometry import Pads, Pair, output_size
from gloro_jax.lipschitz.rounding import gamma, up

_BYTES_PER_CHUNK = 2**27
_POWER_STEPS, _LOOKED_AT = 4, 4
TWISTS: tuple[Pair, ...] = ((0, 0), (1, 1), (0, 1), (1, 0))  # in half turns, per axis


@dataclasses.dataclass(frozen=True, eq=False)
class Torus:
    """A twisted circular convolution C of which a zero-padded one, A, is a part.

    Attributes:
        kernel: (kh, kw, in, out), float64, entries of size about 1.
        gram_kernel: sums of K_e K_e'^T over tap pairs with e' - e fixed,
            (2 kh - 1, 2 kw - 1, in, in).
        pads: A's zero padding.
        sites: the torus's size (N_y, N_x).
        kept_inputs: which inputs of C are inputs of A, (N_y, N_x, in) Boolean.
        kept_outputs: likewise, (N_y, N_x, out).
        twist: half turns per axis.
    """

    kernel: np.ndarray
    gram_kernel: np.ndarray
    pads: Pads
    sites: Pair
    kept_inputs: np.ndarray
    kept_outputs: np.ndarray
    twist: Pair = (0, 0)

    @staticmethod
    def around(
        kernel: np.ndarray,
        *,
        image_size: Pair,
        pads: Pads,
        is_input: np.ndarray | None = None,
        is_output: np.ndarray | None = None,
    ) -> "Torus":
        """The smallest torus around a convolution.

        Args:
            kernel: (kh, kw, in, out).
            image_size: the input's (H, W).
            pads: zero padding per axis.
            is_input: where the image is, (H, W, in); everywhere unless given.
            is_output: which outputs count, (H', W', out); all unless given.
        """
        window = (kernel.shape[0], kernel.shape[1])
        outputs = output_size(image_size, window, (1, 1), pads)
        rows, columns = (
            max(size + max(low_high), out)
            for size, low_high, out in zip(image_size, pads, outputs, strict=True)
        )
        kept = []
        for size, channels, mask in (
            (image_size, kernel.shape[2], is_input),
            (outputs, kernel.shape[3], is_output),
        ):
            keep = np.zeros((rows, columns, channels), bool)
            keep[: size[0], : size[1]] = True if mask is None else mask
            kept.append(keep)
        return Torus(kernel, _gram_kernel(kernel), pads, (rows, columns), *kept)

    @property
    def channels(self) -> int:
        """The side of each block T(w) = W(w)^H W(w)."""
        return self.kernel.shape[2]

    @functools.cached_property
    def frequencies(self) -> np.ndarray:
        """One index pair of each conjugate pair of frequencies, (count, 2)."""
        keep = self._mirror >= np.arange(self.sites[0] * self.sites[1])
        return np.argwhere(keep.reshape(self.sites))

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """1 for a frequency that is its own conjugate, where blocks are real, and else 2."""
        index: Any = self.frequencies @ [self.sites[1], 1]
        return np.where(self._mirror[index] == index, 1.0, 2.0)

    @functools.cached_property
    def _mirror(self) -> np.ndarray:
        (rows, columns), (ty, tx) = self.sites, self.twist
        y, x = (grid.ravel() for grid in np.mgrid[:rows, :columns])
        return ((-y - ty) % rows) * columns + (-x - tx) % columns

    @functools.cached_property
    def tap_norms(self) -> float:
        """The sum over taps of ||K_d||_F: it bounds every ||W(w)||."""
        return float(np.sqrt(np.square(self.kernel).sum((2, 3))).sum()) * (1 + 1e-12)

    @functools.cached_property
    def error(self) -> float:
        """A bound of the 2-norm of a computed block minus the exact one.

        Sums of `out` products, then of kh kw, then of all shifts with phases good to 64 units,
        each entry bounded by |K_e| |K_e'|^T; twice that, since one triangle is used.
        """
        kh, kw, _, outputs = self.kernel.shape
        depth = 2 * outputs + kh * kw + 2 * (2 * kh - 1) * (2 * kw - 1) + 64
        return up(2 * gamma(depth) * self.tap_norms**2)

    def blocks(self, some: Any = slice(None)) -> np.ndarray:
        """T(w) for some of the frequencies, (some, in, in) complex128."""
        return self._blocks(some, self.gram_kernel.reshape(-1, self.channels**2))

    def _blocks(self, some: Any, flat: np.ndarray) -> np.ndarray:
        span = self.gram_kernel.shape[:2]
        phases = self._tap_phases(some, tuple(np.arange(n) - n // 2 for n in span))
        kind = np.result_type(flat.dtype, np.complex64)
        blocks: Any = np.empty((len(phases), flat.shape[1]), kind)
        blocks.real = phases.real.astype(flat.dtype) @ flat
        blocks.imag = phases.imag.astype(flat.dtype) @ flat
        return blocks.reshape(-1, self.channels, self.channels)

    def chunks(self) -> Iterator[slice]:
        """Slices of the frequencies whose blocks are of bearable size together."""
        size = max(1, _BYTES_PER_CHUNK // (16 * self.channels**2))
        for start in range(0, len(self.frequencies), size):
            yield slice(start, start + size)

    def symbols(self, some: Any = slice(None)) -> np.ndarray:
        """W(w) for some of the frequencies, (some, out, in) complex128."""
        shifts = tuple(
            np.arange(k) - low for k, (low, _) in zip(self.kernel.shape, self.pads, strict=False)
        )
        phases = self._tap_phases(some, shifts)
        flat = self.kernel.transpose(0, 1, 3, 2).reshape(phases.shape[1], -1)
        symbols = phases.real @ flat + 1j * (phases.imag @ flat)
        return symbols.reshape(-1, self.kernel.shape[3], self.channels)

    def apply(self, spectra: np.ndarray, *, is_adjoint: bool = False) -> np.ndarray:
        """C, or its adjoint, applied to fields, from spectra to spectra."""
        parts = []
        for some in self.chunks():
            symbols = self.symbols(some) if self._symbols is None else self._symbols[some]
            symbols = symbols.conj().swapaxes(1, 2) if is_adjoint else symbols
            parts.append(symbols @ spectra[some])
        return np.concatenate(parts)

    @functools.cached_property
    def _symbols(self) -> np.ndarray | None:
        """All symbols, if they are small enough to keep."""
        size = 16 * len(self.frequencies) * self.channels * self.kernel.shape[3]
        return self.symbols() if size <= _BYTES_PER_CHUNK else None

    def spectrum(self, fields: np.ndarray) -> np.ndarray:
        """The spectra of real fields."""
        rows, columns = (self._fourier(axis) for axis in (0, 1))
        halfway = np.tensordot(rows, fields, axes=(1, 0))
        full = np.tensordot(columns, halfway, axes=(1, 1))  # (k_x, k_y, channels, count)
        return full[self.frequencies[:, 1], self.frequencies[:, 0]]

    def fields(self, spectra: np.ndarray) -> np.ndarray:
        """The real fields of spectra: the adjoint, and inverse, of `spectrum`."""
        full = np.zeros((*self.sites, *spectra.shape[1:]), complex)
        full[self.frequencies[:, 0], self.frequencies[:, 1]] = spectra * self.weights[:, None, None]
        rows, columns = (self._fourier(axis).conj() for axis in (0, 1))
        halfway = np.tensordot(rows, full, axes=(0, 0))
        whole: Any = np.tensordot(columns, halfway, axes=(0, 1))
        return whole.real.swapaxes(0, 1)

    def inner(self, a: Any, b: Any) -> np.ndarray:
        """The inner products of real fields, from their spectra: (count of a, count of b)."""
        left = (a * self.weights[:, None, None]).reshape(-1, a.shape[2])
        right = b.reshape(-1, b.shape[2])
        return left.real.T @ right.real + left.imag.T @ right.imag

    def norm(self, spectra: Any) -> float:
        """The Frobenius norm of real fields, from their spectra."""
        squares = np.square(spectra.real) + np.square(spectra.imag)
        return float(np.sqrt((self.weights[:, None, None] * squares).sum()) * (1 + 1e-9))

    def best_twisted(self) -> "Torus":
        """With the twist whose bound is about the least."""
        twisted = [dataclasses.replace(self, twist=twist) for twist in TWISTS]
        return min(twisted, key=lambda torus: torus.largest_eigenvalue)

    @functools.cached_property
    def largest_eigenvalue(self) -> float:
        """Roughly the largest eigenvalue over all blocks, from below."""
        return float(self._rough_eigenvalues.max(initial=0.0))

    def sharp_eigenvalue(self) -> float:
        """The largest eigenvalue of the few blocks that look largest: nearer, still from below."""
        some = np.argsort(self._rough_eigenvalues)[-_LOOKED_AT:]
        return float(np.linalg.eigvalsh(self.blocks(some)).max())

    @functools.cached_property
    def _rough_eigenvalues(self) -> np.ndarray:
        """One number per frequency, by a few rounds of power iteration."""
        rng, largest = np.random.default_rng(0), np.zeros(len(self.frequencies))
        flat = self.gram_kernel.reshape(-1, self.channels**2).astype(np.float32)
        for some in self.chunks():
            blocks = self._blocks(some, flat)
            v = rng.standard_normal((len(blocks), self.channels, 2)).astype(np.complex64)
            for _ in range(_POWER_STEPS):
                v = blocks @ v
                v /= np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-30)
            largest[some] = np.linalg.norm(blocks @ v, axis=1).max(axis=-1)
        return largest

    def _tap_phases(self, some: Any, shifts: tuple[np.ndarray, ...]) -> Any:
        rows, columns = (
            _phases(self.frequencies[some, axis], shifts[axis], self.sites[axis], self.twist[axis])
            for axis in (0, 1)
        )
        return (rows[:, :, None] * columns[:, None, :]).reshape(len(rows), -1)

    def _fourier(self, axis: int) -> np.ndarray:
        """The unitary twisted Fourier matrix of one axis, (frequencies, sites)."""
        sites = np.arange(self.sites[axis])
        phases = _phases(sites, sites, self.sites[axis], self.twist[axis])
        return phases.conj() / np.sqrt(len(sites))


def _phases(index: np.ndarray, shifts: np.ndarray, sites: int, twist: int) -> np.ndarray:
    # exp(i w d), w = 2 pi (index + twist/2) / sites: reduced modulo a whole turn in integers, so
    # that the angle's error does not grow with d.
    half_steps = ((2 * index[:, None] + twist) * shifts) % (2 * sites)
    return np.exp(1j * np.pi * half_steps / sites)


def _gram_kernel(kernel: np.ndarray) -> np.ndarray:
    kh, kw, channels, outputs = kernel.shape
    flat = kernel.reshape(-1, outputs)
    products = (flat @ flat.T).reshape(kh, kw, channels, kh, kw, channels)
    gram = np.zeros((2 * kh - 1, 2 * kw - 1, channels, channels))
    for y, x, y2, x2 in itertools.product(range(kh), range(kw), range(kh), range(kw)):
        gram[y2 - y + kh - 1, x2 - x + kw - 1] += products[y, x, :, y2, x2, :]
    return gram
