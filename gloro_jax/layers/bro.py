"""Block reflector orthogonal layers (BRONet, Lai et al. 2025): I - 2 V (V^H V)^-1 V^H."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.layers.base import Linear, LipschitzLayer, feature_count, image_shape, new_bias
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.operators import Matrix
from gloro_jax.maps.circular import CircularConvolution, check_size
from gloro_jax.orthogonal import power_of_two_near
from gloro_jax.solving import solve

_EXACT = jax.lax.Precision.HIGHEST


class BroDense(LipschitzLayer):
    """A square dense layer that reflects the space that the `rank` columns of V span.

    With e > 0 added to the Gram matrix its eigenvalues are 1 - 2 s^2 / (s^2 + e), inside [-1, 1]
    for every V, so training counts the norm as 1. A certificate bounds the kernel that comes out.

    Attributes:
        rank: columns of V, below the number of features; half of them unless given.
        ridge: e, relative to the mean diagonal of V^T V.
        use_bias: whether to add a bias.
    """

    rank: int | None = None
    ridge: float = 1e-5
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer; raises a ValueError if `x` is not (batch, in) or the rank is none."""

        def make() -> Linear:
            features = feature_count(x, self)
            rank = _checked_rank(self, features)
            init = nn.initializers.normal(features**-0.5)
            columns = jnp.asarray(self.param("columns", init, (features, rank), jnp.float32))
            return Linear(
                Matrix(reflector(columns, ridge=self.ridge).T),
                new_bias(self, features, is_wanted=self.use_bias),
            )

        return self.apply_linear(x, make, trained_norm=1.0)


class BroConv(LipschitzLayer):
    """A convolution that is such a reflection at each frequency of the padded image.

    The image is padded with kernel_size // 2 zeros, convolved around the border of that grid, and
    cropped. Frozen, the layer *is* the circular convolution with the float32 kernel that comes out,
    as large as the grid, and that kernel is what is bounded (`CircularConvolution`).

    Attributes:
        kernel_size: side of V's window.
        rank: columns of V, below the number of channels; half of them unless given.
        ridge: e, relative to the mean diagonal of V^H V at each frequency.
        use_bias: whether to add a bias.
    """

    kernel_size: int = 3
    rank: int | None = None
    ridge: float = 1e-6
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        """Applies the layer.

        Raises:
            ValueError: if `x` is not (batch, H, W, C), the rank does not fit, or the frozen kernel
                would be above 64 MiB.
        """

        def make() -> Linear:
            height, width, channels = image_shape(x, self)
            if type(self.kernel_size) is not int:
                raise ValueError(f"kernel_size of BroConv is one integer: {self.kernel_size!r}.")
            rank, margin = _checked_rank(self, channels), self.kernel_size // 2
            grid = (height + 2 * margin, width + 2 * margin)
            check_size(grid, channels)
            if not 1 <= self.kernel_size <= min(grid):
                raise ValueError(
                    f"kernel_size={self.kernel_size} does not fit a grid of {grid[0]} x {grid[1]}."
                )
            shape = (self.kernel_size, self.kernel_size, channels, rank)
            init = nn.initializers.normal((self.kernel_size**2 * channels) ** -0.5)
            columns = jnp.asarray(self.param("columns", init, shape, jnp.float32))
            unit = columns / power_of_two_near(columns)
            blocks = reflector(jnp.fft.rfft2(unit, s=grid, axes=(0, 1)), ridge=self.ridge)
            kernel = jnp.fft.irfft2(jnp.swapaxes(blocks, -1, -2), s=grid, axes=(0, 1))
            operator = CircularConvolution(kernel, (height, width), margin)
            return Linear(operator, new_bias(self, channels, is_wanted=self.use_bias))

        return self.apply_linear(x, make, trained_norm=1.0)


def reflector(columns: Any, *, ridge: float) -> Any:
    """I - 2 V (V^H V + e I)^-1 V^H of V (..., n, r); the identity where V is 0."""
    columns = columns / _largest(columns).astype(columns.dtype)
    adjoint = jnp.conj(jnp.swapaxes(columns, -1, -2))
    gram = jnp.matmul(adjoint, columns, precision=_EXACT)
    mean = jnp.mean(jnp.real(jnp.diagonal(gram, axis1=-2, axis2=-1)), axis=-1)[..., None, None]
    e = jax.lax.stop_gradient(jnp.where(mean > 0, ridge * mean, 1.0))
    inverse = solve(gram + e.astype(gram.dtype) * _identity(gram), adjoint)
    space = 2 * jnp.matmul(columns, inverse, precision=_EXACT)
    return _identity(space) - space


def _identity(like: Any) -> Any:
    eye = jnp.eye(like.shape[-1], dtype=like.dtype)
    return jnp.broadcast_to(eye, like.shape)


def _largest(columns: Any) -> Any:
    """The largest absolute entry of each V, or 1: a reflector does not depend on V's scale."""
    size = jnp.abs(jnp.real(columns)) + jnp.abs(jnp.imag(columns))
    largest = jax.lax.stop_gradient(jnp.max(size, axis=(-2, -1), keepdims=True))
    return jnp.where(largest > 0, largest, 1.0)


def _checked_rank(layer: Any, width: int) -> int:
    rank = max(1, width // 2) if layer.rank is None else layer.rank
    if not 0 <= layer.ridge < np.inf:
        raise ValueError(f"ridge is at least 0 and finite, got {layer.ridge}.")
    if not 1 <= rank < width:
        raise ValueError(
            f"{type(layer).__name__} reflects a space of `rank` dimensions inside the {width} of "
            f"its input: rank is at least 1 and below {width}, got {rank}."
        )
    return rank
