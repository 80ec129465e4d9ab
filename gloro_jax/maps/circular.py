"""Circular convolution on a padded grid: what a BRO convolution is once it is frozen."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from gloro_jax.lipschitz.geometry import Pair
from gloro_jax.lipschitz.gram import eigenvalue_bound, power_of_two_below
from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.lipschitz.operators import Operator
from gloro_jax.lipschitz.rounding import gamma, up
from gloro_jax.lipschitz.steps import Step
from gloro_jax.pytrees import pytree_dataclass

# A kernel as large as the grid is c * c numbers a pixel.
LARGEST_BYTES = 64 * 2**20


@pytree_dataclass(static=("image_size", "margin"))
class CircularConvolution(Operator):
    """Zeros around the image, a circular convolution with a kernel as large as that grid, a crop.

    out[p] = sum over q of x[q] kernel[(p - q) mod grid]. The map is defined by the stored float32
    kernel; the FFT is how it is evaluated. Padding and cropping have norm 1, so its norm is at most
    that of the circular convolution: the largest norm of the kernel's Fourier blocks.

    `kernel` is (H + 2 margin, W + 2 margin, in, out), for images of `image_size` (H, W).
    """

    kernel: Any
    image_size: Pair
    margin: int
    kernel_ndim: ClassVar[int] = 4

    @property
    def grid(self) -> Pair:
        """(H, W) with the margin on all four sides."""
        return self.image_size[0] + 2 * self.margin, self.image_size[1] + 2 * self.margin

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, in)."""
        return (*self.image_size, self.kernel.shape[-2])

    def __call__(self, values: Any, *, precision: Any = None) -> Any:
        """(batch, H, W, in) to (batch, H, W, out), by the FFT."""
        if tuple(values.shape[1:]) != self.input_shape or self.kernel.shape[:2] != self.grid:
            raise ValueError(
                f"This circular convolution is of images {self.input_shape} with a margin of "
                f"{self.margin}; got {tuple(values.shape[1:])} and a kernel {self.kernel.shape}."
            )
        m, (height, width) = self.margin, self.image_size
        wide = jnp.promote_types(values.dtype, jnp.float32)  # there is no FFT in 16 bits
        padded = jnp.pad(values.astype(wide), ((0, 0), (m, m), (m, m), (0, 0)))
        spectrum = jnp.fft.rfft2(padded, axes=(1, 2))
        blocks = jnp.fft.rfft2(self.kernel.astype(wide), axes=(0, 1))
        product = jnp.einsum("nhwi,hwio->nhwo", spectrum, blocks, precision=precision)
        whole = jnp.fft.irfft2(product, s=self.grid, axes=(1, 2))
        return whole[:, m : m + height, m : m + width].astype(values.dtype)

    def norm(self) -> UpperBound:
        """The largest norm of a Fourier block, each proved by a Cholesky factorisation."""
        exact = np.asarray(self.kernel, np.float64)
        largest = float(np.abs(exact).max(initial=0.0))
        if largest == 0.0:
            return UpperBound(0.0)
        scale = power_of_two_below(largest)
        squared = max(_squared_norms(exact / scale))
        return UpperBound(up(scale * up(math.sqrt(squared))))

    def step(self, layer: str, *, bias: str | None, kernel: str, **_: str) -> Step:
        """A "circular_conv"."""
        geometry = {"image_size": self.image_size, "margin": self.margin}
        return Step.of("circular_conv", layer=layer, kernel=kernel, bias=bias, **geometry)


def check_size(grid: Pair, channels: int) -> None:
    """Raises a ValueError where the kernel would be too large to be stored."""
    size = 4 * grid[0] * grid[1] * channels**2
    if size > LARGEST_BYTES:
        raise ValueError(
            f"A BRO convolution of {channels} channels on a grid of {grid[0]} x {grid[1]} pixels "
            f"has a kernel of {size / 2**20:.0f} MiB when it is frozen, above the "
            f"{LARGEST_BYTES // 2**20} MiB allowed. Shrink the image first (SpaceToDepth, strides) "
            "or take fewer channels."
        )


def _squared_norms(kernel: np.ndarray) -> Iterator[float]:
    """Bounds of the squared norm of each Fourier block, one of each conjugate pair.

    A block is a sum over the grid of taps times phases. Each phase is good to 64 units, and a sum
    of n products to gamma(n): an error of at most gamma(n + 64) times the sum of the taps' absolute
    values, entry by entry, and so in the Frobenius norm.
    """
    height, width, _, outputs = kernel.shape
    terms = height + width + 128
    entries = float(np.linalg.norm(np.abs(kernel).sum(axis=(0, 1)))) * (1 + 1e-9)
    error = gamma(4 * terms) * entries
    rows = np.tensordot(_phases(height), kernel, axes=(1, 0))
    for y in range(height):
        blocks = np.tensordot(_phases(width), rows[y], axes=(1, 0))
        for x, block in enumerate(blocks):
            if (-y % height, -x % width) < (y, x):
                continue  # the conjugate of a block that was looked at
            is_real = (-y % height, -x % width) == (y, x)
            part = block.real if is_real else block
            gram = part.conj().T @ part
            # |B'|^2 is within 2 |B| e + e^2 of |B|^2, and forming it adds its own rounding.
            frobenius = float(np.linalg.norm(part)) * (1 + 1e-9)
            forming = gamma(4 * (len(part) + outputs + 16)) * frobenius**2
            forming += 2 * frobenius * error + error**2
            yield eigenvalue_bound(gram, forming_error=up(forming) + 1e-300)


def _phases(n: int) -> np.ndarray:
    """exp(-2 pi i j k / n); whole turns are taken off beforehand, so that none is inaccurate."""
    turns = np.outer(np.arange(n), np.arange(n)) % n
    return np.exp(-2j * np.pi * turns / n)
