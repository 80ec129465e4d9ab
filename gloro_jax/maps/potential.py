"""Convex potential layers (Meunier, Delattre, Araujo, Allauzen, ICML 2022), with any step tau."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.lipschitz.geometry import Pair, resolve_padding
from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.lipschitz.operators import Convolution, Matrix, Operator, WeightedMap
from gloro_jax.lipschitz.rounding import gamma, up
from gloro_jax.lipschitz.steps import Step
from gloro_jax.pytrees import pytree_dataclass


@pytree_dataclass(static=("image_size",))
class ConvexPotential(WeightedMap):
    """x - tau W^T relu(W x + offset): a step of gradient descent on a convex function.

    Where it has a slope, that is I - tau W^T D W with a diagonal D of zeros and ones, a symmetric
    matrix. W^T D W has eigenvalues between 0 and |W|^2, so those of the slope lie between
    1 - tau |W|^2 and 1, and the constant is max(1, tau |W|^2 - 1). It is 1 up to tau = 2 / |W|^2;
    tau from a power iteration that is 5 % low makes it 1.216.

    `kernel` is (in, out), or (kh, kw, in, out) for a convolution of images of `image_size` with
    SAME padding and stride 1; `offset` is (out,) and `tau` is one number.
    """

    kernel: Any
    offset: Any
    tau: Any
    image_size: Pair | None = None

    @property
    def array_ndims(self) -> Mapping[str, int]:
        """Of the three arrays."""
        return {"kernel": 2 if self.image_size is None else 4, "offset": 1, "tau": 0}

    @property
    def inner(self) -> Operator:
        """W."""
        return inner(self.kernel, self.image_size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """That of W."""
        return self.inner.input_shape

    def __call__(self, values: Any, *, precision: Any = None) -> Any:
        """Applies W, relu, and the transpose of W, which uses the same floats."""
        linear = self.inner

        def apply(v: Any) -> Any:
            return linear(v, precision=precision)

        hidden = apply(values)
        if np.shape(self.offset) != hidden.shape[-1:] or np.ndim(self.tau):
            raise ValueError(
                f"A convex potential has one offset per output of W, {hidden.shape[-1:]}, and one "
                f"tau; got {np.shape(self.offset)} and {np.shape(self.tau)}."
            )
        shape = (1,) * (hidden.ndim - 1) + np.shape(self.offset)
        active = jax.nn.relu(hidden + jnp.reshape(self.offset, shape))
        (back,) = jax.linear_transpose(apply, values)(active)
        return values - self.tau * back

    def norm(self) -> UpperBound:
        """max(1, tau U^2 - 1), with U the guaranteed norm of W.

        Raises:
            ValueError: if tau is negative or not finite, which no step of descent is; or if W or
                the offsets are so large that what is hidden inside could overflow float32.
        """
        tau = float(np.asarray(self.tau))
        if not 0 <= tau < np.inf:
            raise ValueError(f"The step tau of a convex potential is at least 0, got {tau}.")
        bound, offset = float(self.inner.norm()), float(np.abs(np.asarray(self.offset)).max())
        # No activation is longer than 1e15 (`FrozenNet.is_sane`), so that W x + offset stays below
        # 1e25 and W^T of it below 1e36: nobody outside would see an overflow in between.
        if bound > _LARGEST or offset > _LARGEST:
            raise ValueError(
                f"The norm of W, {bound:.3g}, or an offset, {offset:.3g}, of a convex potential is "
                f"above {_LARGEST:g}: float32 could overflow inside it. Did training diverge?"
            )
        excess = tau * bound * bound * (1 + gamma(8)) - 1
        return UpperBound(max(1.0, up(excess) if excess > 0 else 0.0))

    def step(self, layer: str, *, bias: str | None, **arrays: str) -> Step:
        """A "convex_potential", for which a certificate file has no proof yet."""
        return Step.of("convex_potential", layer=layer, bias=bias, **arrays)


def inner(kernel: Any, image_size: Pair | None) -> Operator:
    """W of a convex potential: a matrix, or a convolution of stride 1 with SAME padding."""
    if image_size is None:
        return Matrix(kernel)
    window = (kernel.shape[-4], kernel.shape[-3])
    pads = resolve_padding("SAME", image_size=image_size, window=window, strides=(1, 1))
    return Convolution(kernel, image_size, (1, 1), pads)


def safe_step(operator: Operator, direction: Any, *, rounds: int) -> Any:
    """About 2 / |W|^2, the largest step of constant 1; 0 where W is 0.

    The norm is estimated from below, so the step may be a little too long, and `norm` counts it.

    Args:
        operator: W.
        direction: the start of power iteration.
        rounds: of it.
    """
    estimate = operator.estimate(direction, steps=rounds).value
    square = jnp.maximum(jnp.square(estimate), _LEAST_SQUARE)
    return jnp.where(estimate > 0, 2 / square, 0.0)


_LARGEST = 1e9
# 2 over it is still far from the largest float32.
_LEAST_SQUARE = 1e-30
