"""The nearest-set classifier: a global Lipschitz bound that is exactly tight.

g_i(x) = -d(x, S_i) / 2, with S_i the points of class i. Each distance is 1-Lipschitz, so every
difference g_j - g_i is too: K_ij = 1. At a point of S_j the margin to class i is d(x, S_i) / 2,
half the distance to that class, which is the largest radius any classifier could certify there
(Leino et al. 2021: a global bound is as powerful as a local one). It is an exact reference for
tests of margins and radii, not a model to train.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.logits import GloroLogits


def nearest_set_logits(
    x: Float[Array, "batch d"],
    *,
    points: Float[Array, "n d"],
    labels: Int[Array, "n"],
    num_classes: int,
) -> GloroLogits:
    """The logits of the nearest-set classifier, with K_ij = 1.

    Args:
        x: where to evaluate.
        points: the sets, together.
        labels: which set each point belongs to; every class needs at least one point.
        num_classes: number of sets.

    Returns:
        Scores (batch, num_classes) with the exact bound.
    """
    squares = jnp.sum(jnp.square(x[:, None, :] - points[None, :, :]), axis=-1)
    classes = jnp.arange(num_classes)
    other = labels[None, None, :] != classes[None, :, None]
    nearest = jnp.min(jnp.where(other, jnp.inf, squares[:, None, :]), axis=-1)
    distances = 1.0 - jnp.eye(num_classes)
    return GloroLogits(-jnp.sqrt(nearest) / 2, UpperBound(1.0), distances)
