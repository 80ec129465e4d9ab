"""Adam on orthogonal matrices, for the parameters that layers name "orthogonal" (LipNeXt 2026).

The gradient's skew part G = (X^T g - g^T X) / 2 is the direction in which X can turn; Adam's
moments are those of G, and X is multiplied by the exponential of the step, a rotation. Rounding
moves X off the manifold by little, and once an epoch it is put back (Newton-Schulz). Matrices that
`nn.scan` has stacked are turned each by itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gloro_jax.orthogonal import distance_from_orthogonal, retracted
from gloro_jax.solving import matrix_exponential

NAME = "orthogonal"
_EXACT = jax.lax.Precision.HIGHEST
# Up to this Frobenius norm four terms of the exponential are exact in float32 to 1e-4 of its angle.
_SHORT = 0.5


class _State(NamedTuple):
    count: Any
    first: Any
    second: Any


def labels(params: Any) -> Any:
    """Which group each parameter belongs to: orthogonal, if named so and square, or plain."""

    def label(path: Any, leaf: Any) -> str:
        is_square = jnp.ndim(leaf) >= 2 and jnp.shape(leaf)[-1] == jnp.shape(leaf)[-2]
        is_named = jax.tree_util.keystr(path[-1:], simple=True) == NAME
        return NAME if is_named and is_square else "plain"

    return jax.tree_util.tree_map_with_path(label, params)


def has_orthogonal(params: Any) -> bool:
    """Whether any parameter is to stay orthogonal."""
    return NAME in jax.tree.leaves(labels(params))


def distances(params: Any) -> dict[str, Any]:
    """How far each such parameter is from the manifold, the Frobenius norm of X^T X - I."""
    marked = jax.tree.leaves(labels(params))
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): distance_from_orthogonal(leaf)
        for (path, leaf), label in zip(leaves, marked, strict=True)
        if label == NAME
    }


def put_back(params: Any) -> Any:
    """The parameters, those that are to be orthogonal retracted: after a mean of weights."""

    def back(leaf: Any, label: str) -> Any:
        return retracted(leaf) if label == NAME else leaf

    return jax.tree.map(back, params, labels(params))


def turning_adam(
    rate: Callable[[Any], Any],
    *,
    retract_every: int,
    decays: tuple[float, float] = (0.9, 0.999),
    tiny: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam in the tangent space of orthogonal matrices; there is no weight decay.

    Args:
        rate: from the step count to the learning rate, as for other parameters.
        retract_every: how many steps between retractions.
        decays: of both moments.
        tiny: added to the root of the second moment.
    """
    b1, b2 = decays

    def init(params: Any) -> _State:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return _State(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count + 1
        turns = jax.tree.map(_turn, updates, params)
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, turns)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.second, turns)
        mean, power = 1 - b1**count, 1 - b2**count
        step, is_last = rate(state.count), count % retract_every == 0

        def move(x: Any, m: Any, v: Any) -> Any:
            skew = -step * (m / mean) / (jnp.sqrt(v / power) + tiny)
            turned = jnp.matmul(x, exponential(skew), precision=_EXACT)
            return jax.lax.cond(is_last, retracted, lambda same: same, turned) - x

        moved = jax.tree.map(move, params, first, second)
        return moved, _State(count, first, second)

    return optax.GradientTransformation(init, update)


def exponential(skew: Any) -> Any:
    """Exp of a skew-symmetric matrix: by four terms where it is short, else by squaring."""

    def short(a: Any) -> Any:
        square = jnp.matmul(a, a, precision=_EXACT)
        eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
        tail = eye / 2 + a / 6 + square / 24
        return eye + a + jnp.matmul(square, tail, precision=_EXACT)

    longest = jnp.sqrt(jnp.max(jnp.sum(jnp.square(skew), axis=(-2, -1))))
    return jax.lax.cond(longest < _SHORT, short, matrix_exponential, skew)


def _turn(gradient: Any, x: Any) -> Any:
    product = jnp.matmul(jnp.swapaxes(x, -1, -2), gradient, precision=_EXACT)
    return (product - jnp.swapaxes(product, -1, -2)) / 2
