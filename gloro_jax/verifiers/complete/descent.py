"""Projected gradient descent for witnesses (Madry et al. 2018), towards every other class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import jit, random_key
from gloro_jax.verifiers.complete.method import Goal, first_witness
from gloro_jax.verifiers.operations import run
from gloro_jax.verifiers.rules import chain_of


def descend(
    network: Network, goal: Goal, *, steps: int, restarts: int, seed: int = 0
) -> np.ndarray | None:
    """A witness, if descent finds one.

    Args:
        network: the network.
        goal: the image and its region.
        steps: of descent.
        restarts: for each other class; the first of them starts at the image.
        seed: of the others.
    """
    rivals = [j for j in range(network.num_classes) if j != goal.label]
    aims = np.tile(rivals, restarts)
    low, high = (end.astype(np.float32)[None] for end in goal.bounds())
    uniform = np.asarray(jax.random.uniform(random_key(seed), (len(aims), *goal.x.shape)))
    x, points = goal.x.astype(np.float32)[None], low + uniform * (high - low)
    points[: len(rivals)] = x
    points = _projected(points, x, low, high, goal.radius, goal.norm)
    where = (x, low, high, goal.radius)
    for step in range(steps):
        size = np.float32(goal.radius * 0.5 * (1 - step / steps))
        points = _step(network, points, goal.label, aims, *where, size, norm=goal.norm)
    return first_witness(network, goal, np.asarray(points, np.float64))


def _one_step(
    network: Network,
    points: Any,
    label: Any,
    aims: Any,
    x: Any,
    low: Any,
    high: Any,
    radius: Any,
    size: Any,
    *,
    norm: str,
) -> Any:
    def lead(points: Any) -> Any:
        scores = run(chain_of(network), points)
        return (scores[:, label] - scores[jnp.arange(len(scores)), aims]).sum()

    slope = jax.grad(lead)(points)
    if norm == "linf":
        move = jnp.sign(slope)
    else:
        axes = tuple(range(1, slope.ndim))
        length = jnp.sqrt(jnp.square(slope).sum(axes, keepdims=True))
        move = slope / jnp.maximum(length, 1e-12)
    return _projected(points - size * move, x, low, high, radius, norm)


_step = jit(_one_step, static_argnames=("norm",))


def _projected(points: Any, x: Any, low: Any, high: Any, radius: Any, norm: str) -> Any:
    points = jnp.clip(points, low, high)
    if norm == "linf":
        return points
    moved = points - x
    length = jnp.sqrt(jnp.square(moved).sum(tuple(range(1, moved.ndim)), keepdims=True))
    return x + moved * jnp.minimum(1, radius / jnp.maximum(length, 1e-12))
