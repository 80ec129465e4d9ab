"""How tight the Lipschitz bound is: lower bounds found by search, beside the guaranteed one.

A lower bound above the upper one would refute the certificate: it is an alarm, not a statistic.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from gloro_jax.data.batches import as_float
from gloro_jax.data.dataset import check_images
from gloro_jax.frozen_net import FrozenNet, raw_logits
from gloro_jax.platforms import in_32_bits, jit, on_host, outside_jit, random_key

# Differences of float32 logits across a shorter distance would be mostly rounding.
_SHORTEST = 1e-2
# The forward pass of the search runs in float32; a violation smaller than this could be its error.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class Tightness:
    """The search's best pair of points, for the pair of classes with the largest ratio.

    Attributes:
        lower: the slope found, |difference of margins| / distance.
        upper: the guaranteed Lipschitz constant K_ij of that difference of logits.
        classes: (i, j).
    """

    lower: float
    upper: float
    classes: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Lower / upper: 1 is a tight bound."""
        return self.lower / self.upper if self.upper else 0.0

    @property
    def is_alarm(self) -> bool:
        """Whether the search refutes the bound, beyond what float32 rounding explains."""
        return self.lower > self.upper * (1 + _ROUNDING)


@in_32_bits
@outside_jit
def tightness(
    frozen: FrozenNet,
    images: np.ndarray | jax.Array,
    *,
    pairs: int = 64,
    steps: int = 500,
    seed: int = 0,
) -> Tightness:
    """Searches for two inputs across which a difference of logits is as steep as it can be.

    Starts at images and at points near them, and ascends on the slope relative to K_ij with Adam,
    as the reference's lower-bound tool does (klasleino/gloro). Pixels may leave [0, 1]: the bound
    is global.

    Args:
        frozen: the network.
        images: (n, H, W, C) to start from, uint8 or float32 in [0, 1].
        pairs: how many pairs of points are moved at once.
        steps: of Adam.
        seed: of the starts.

    Returns:
        The steepest pair found in the whole search.

    Raises:
        TypeError: if images have the wrong type.
        ValueError: if images do not fit the network.
    """
    images = on_host(images)
    check_images(images)
    rng = np.random.default_rng(seed)
    chosen = images[rng.choice(len(images), size=pairs, replace=len(images) < pairs)]
    x = frozen.check_images(as_float(chosen))
    noise = jax.random.normal(random_key(seed), x.shape)
    # Distances from a hundredth of a pixel's range up to a coarse change of the whole image.
    scale = jnp.logspace(-2, 0.5, pairs).reshape((-1, 1, 1, 1))
    points = (x, x + scale * noise / jnp.sqrt(noise[0].size))
    optimizer = optax.adam(1e-2)
    opt_state = optimizer.init(points)
    none, one, index = np.float32(0), np.float32(1), np.int32(0)
    best: Any = (none, none, one, index, index)  # on the device: no step waits for the host
    for _ in range(steps):
        points, opt_state, best = _ascend(frozen, points, opt_state, best)
    _, lower, upper, i, j = (np.asarray(number).item() for number in best)
    return Tightness(lower, upper, (i, j))


def layer_norms(frozen: FrozenNet, spectral: Any, *, steps: int) -> dict[str, dict[str, float]]:
    """Per layer, the power-iteration estimate at the end of training, and the guaranteed norm.

    Args:
        frozen: the network, frozen from the same weights.
        spectral: the power-iteration vectors that training left.
        steps: rounds per training step.
    """
    vectors = {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): vector
        for path, vector in jax.tree_util.tree_flatten_with_path(spectral)[0]
    }
    guaranteed = frozen.layer_norms()
    return {
        name: {
            "estimate": operator_estimate(operator, vectors[name], steps=steps)
            if name in vectors
            else 1.0,  # orthonormalised: training counts it as 1
            "guaranteed": guaranteed[name],
        }
        for name, operator in frozen.operators().items()
    }


def operator_estimate(operator: Any, vector: Any, *, steps: int) -> float:
    """The estimate of one operator, or the largest of those that `nn.scan` stacked."""

    def estimate(operator: Any, vector: Any) -> Any:
        return operator.estimate(vector, steps=steps).value

    for _ in operator.stack_of():
        estimate = jax.vmap(estimate)
    return float(jnp.max(jit(estimate)(operator, jnp.asarray(vector))))


@jit
def _ascend(
    frozen: FrozenNet, points: tuple[Array, Array], opt_state: Any, best: tuple[Any, ...]
) -> tuple[Any, Any, tuple[Array, ...]]:
    def objective(points: tuple[Array, Array]) -> tuple[Array, tuple[Array, ...]]:
        ratios, slopes, upper = _ratios(frozen, *points)
        # Each pair of points ascends on its own steepest pair of classes.
        steepest = jnp.max(ratios, axis=(1, 2))
        where = jnp.unravel_index(jnp.argmax(ratios), ratios.shape)
        found = (ratios[where], slopes[where], upper[where[1:]], where[1], where[2])
        return -jnp.sum(jnp.log(jnp.maximum(steepest, 1e-12))), found

    gradient, found = jax.grad(objective, has_aux=True)(points)
    updates, opt_state = optax.adam(1e-2).update(gradient, opt_state)
    is_better = found[0] > best[0]  # not if it is NaN
    best = tuple(jnp.where(is_better, new, old) for new, old in zip(found, best, strict=True))
    return optax.apply_updates(points, updates), opt_state, best


def _ratios(
    frozen: FrozenNet, a: Float[Array, "n h w c"], b: Float[Array, "n h w c"]
) -> tuple[Array, Array, Array]:
    """Slopes of every difference of logits between a and b, over K_ij; 0 for too short pairs."""
    at_a, at_b = raw_logits(frozen, a), raw_logits(frozen, b)
    moved = at_a.values - at_b.values
    differences = jnp.abs(moved[:, None, :] - moved[:, :, None])
    squares = jnp.sum(jnp.square(a - b), axis=(1, 2, 3))
    distance = jnp.sqrt(jnp.maximum(squares, _SHORTEST**2))[:, None, None]
    slopes = differences / distance
    upper = (at_a.lipschitz.value * at_a.head_distances)[None]
    is_usable = (upper > 0) & (squares > _SHORTEST**2)[:, None, None]
    ratios = slopes / jnp.where(upper > 0, upper, 1.0)
    ratios = jnp.where(is_usable & jnp.isfinite(ratios), ratios, 0.0)
    return ratios, slopes, upper[0]
