"""Large convolutions: from any stride to stride 1, and then as tight as asked for.

A stride-s convolution is one of stride 1 over cells of s x s pixels. Of those, a torus gives a
bound (`lipschitz.torus`), and constraints on the sites that only the torus has tighten it
(`lipschitz.constraints`). How low to aim is taken from Lanczos iteration; if that errs, the bound
is looser, never lower.
"""

import dataclasses

import numpy as np

from gloro_jax.lipschitz.convolutions.blocks import Blocks
from gloro_jax.lipschitz.convolutions.constraints import prove
from gloro_jax.lipschitz.convolutions.lanczos import StrideOne, largest_singular_vectors
from gloro_jax.lipschitz.convolutions.torus import Torus
from gloro_jax.lipschitz.geometry import Pads, Pair, output_size
from gloro_jax.lipschitz.gram import cholesky
from gloro_jax.lipschitz.rounding import cholesky_slack, gamma, up
from gloro_jax.platforms import one_blas_thread

_BYTES = 2**30  # of all Fourier blocks together; beyond that the torus's own bound must do
_LANCZOS_TOL = 3e-3
_SLOWER, _ATTEMPTS = 1.7, 12
_SHARP = 5e-7


@dataclasses.dataclass(frozen=True, eq=False)
class StrideOneCase:
    """A zero-padded stride-1 convolution of which some inputs and outputs may not count.

    Attributes:
        kernel: (kh, kw, in, out), float64, entries of size about 1.
        image_size: the input's (H, W).
        pads: zero padding per axis.
        is_input: which inputs there are, (H, W, in) Boolean; None for all.
        is_output: which outputs count, (H', W', out) Boolean; None for all.
    """

    kernel: np.ndarray
    image_size: Pair
    pads: Pads
    is_input: np.ndarray | None = None
    is_output: np.ndarray | None = None

    def on_smaller_side(self) -> "StrideOneCase":
        """This operator or its adjoint, which has the same norm: the one with fewer channels."""
        kh, kw, channels_in, channels_out = self.kernel.shape
        top, left = (
            (k - 1 - low, k - 1 - high) for k, (low, high) in zip((kh, kw), self.pads, strict=True)
        )
        if channels_in <= channels_out or min(*top, *left) < 0:
            return self
        flipped = np.ascontiguousarray(self.kernel[::-1, ::-1].swapaxes(2, 3))
        outputs = output_size(self.image_size, (kh, kw), (1, 1), self.pads)
        return StrideOneCase(flipped, outputs, (top, left), self.is_output, self.is_input)


def in_cells(kernel: np.ndarray, *, image_size: Pair, strides: Pair, pads: Pads) -> StrideOneCase:
    """A convolution of any stride as one of stride 1 over cells of stride x stride pixels.

    The norm is the same: pixels that the last cells have and the image lacks do not count.
    """
    if strides == (1, 1):
        return StrideOneCase(kernel, image_size, pads)
    kh, kw, channels_in, channels_out = kernel.shape
    axes = [
        _cells(s, k, n, low, high)
        for s, k, n, (low, high) in zip(strides, (kh, kw), image_size, pads, strict=True)
    ]
    (offset_y, cells_y, size_y, pad_y), (offset_x, cells_x, size_x, pad_x) = axes
    (sy, sx) = strides
    wide = np.zeros((cells_y * sy, cells_x * sx, channels_in, channels_out))
    wide[offset_y : offset_y + kh, offset_x : offset_x + kw] = kernel
    split = wide.reshape(cells_y, sy, cells_x, sx, channels_in, channels_out)
    coarse = split.transpose(0, 2, 1, 3, 4, 5).reshape(cells_y, cells_x, -1, channels_out)
    inside = np.zeros((size_y * sy, size_x * sx), bool)
    inside[: image_size[0], : image_size[1]] = True
    pixels = (
        inside.reshape(size_y, sy, size_x, sx).transpose(0, 2, 1, 3).reshape(size_y, size_x, -1)
    )
    is_input = np.repeat(pixels, channels_in, axis=2)
    return StrideOneCase(
        coarse, (size_y, size_x), (pad_y, pad_x), None if is_input.all() else is_input
    )


def stride_one_norm_squared(case: StrideOneCase, *, tol: float) -> float:
    """A proved upper bound of the squared norm, about 1 + 2 tol times the true one at most.

    Returns:
        The bound; infinity if none was proved.
    """
    with one_blas_thread():
        masks = {"is_input": case.is_input, "is_output": case.is_output}
        geometry = {"image_size": case.image_size, "pads": case.pads, **masks}
        torus = Torus.around(case.kernel, **geometry).best_twisted()
        if len(torus.frequencies) * torus.channels**2 * 16 > _BYTES:
            return torus_norm_squared(torus)
        linear = StrideOne(case.kernel.astype(np.float32), **geometry)
        try:
            return _tightened(torus, linear, tol)
        except np.linalg.LinAlgError:  # an eigenvalue solver that gave up
            return torus_norm_squared(torus)


def _tightened(torus: Torus, linear: StrideOne, tol: float) -> float:
    blocks, excess = Blocks(torus), tol
    # Coarse singular vectors often suffice; if not, better ones cost less than a looser bound.
    lower, hints = 0.0, None
    for accuracy in (30 * tol, tol, *[None] * _ATTEMPTS):
        if accuracy is not None:
            lower, vectors = largest_singular_vectors(linear, tol=min(accuracy, _LANCZOS_TOL))
            hints = _on_torus(torus, vectors)
            # Near the identity nothing is lost on the torus, and its own bound is the sharper.
            sharp = (lower * (1 + _SHARP)) ** 2
            if torus.sharp_eigenvalue() < sharp and (alone := _on_torus_alone(torus, sharp)):
                return alone
        else:
            excess *= _SLOWER
        bound = prove(blocks, (lower * (1 + excess)) ** 2, margin=0.25 * excess, hints=hints)
        if bound is not None:
            return bound
    return torus_norm_squared(torus)


def torus_norm_squared(torus: Torus) -> float:
    """The bound of the circular convolution alone: t is raised until t I - T(w) factorises."""
    guess, margin = torus.largest_eigenvalue, 1e-5
    while np.isfinite(t := guess * (1.0 + margin)) and margin < 1e3:
        if (bound := _on_torus_alone(torus, t)) is not None:
            return bound
        margin *= 2.0
    return float("inf")


def _on_torus_alone(torus: Torus, t: float) -> float | None:
    """A bound a little above t, if t I - T(w) factorises at every frequency w."""
    n = torus.channels
    identity = t * np.eye(n)
    if any(cholesky(identity - torus.blocks(some)) is None for some in torus.chunks()):
        return None
    forming = gamma(64) * 2.5 * np.sqrt(n) * t
    return up(t + cholesky_slack(n, n * t) + forming + torus.error)


def _on_torus(torus: Torus, vectors: np.ndarray) -> np.ndarray:
    """Fields on the image, (H, W, in, count), extended by zeros."""
    rows, columns = vectors.shape[:2]
    fields = np.zeros((*torus.sites, *vectors.shape[2:]))
    fields[:rows, :columns] = vectors
    return fields


def _cells(stride: int, k: int, size: int, low: int, high: int) -> tuple[int, int, int, Pair]:
    before = -(-low // stride)  # cells of padding before the image
    offset = before * stride - low  # where the kernel starts inside its first cell
    cells = -(-(k + offset) // stride)
    outputs = (size + low + high - k) // stride + 1
    image = -(-size // stride)
    after = outputs + cells - 1 - before - image
    return offset, cells, image + min(0, after), (before, max(0, after))
