"""Projected gradient descent for witnesses (Madry et al. 2018), towards every other class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits, jit, random_key
from gloro_jax.verifiers.bounds.operations import run
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.complete.goals import Goal, first_witness
from gloro_jax.verifiers.scores import in_float64

_FURTHER = (0.0, *np.geomspace(1e-12, 1e-3, 10))
_STARTS, _DOWN = 16, np.geomspace(1e-2, 1e-7, 32)


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
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = (end.astype(np.float32)[None] for end in goal.bounds())
        if not np.isfinite(high - low).all() or not np.isfinite(np.float32(goal.radius)):
            return None  # the ball is too large for float32
    uniform = np.asarray(jax.random.uniform(random_key(seed), (len(aims), *goal.x.shape)))
    x, points = goal.x.astype(np.float32)[None], low + uniform * (high - low)
    points[: len(rivals)] = x
    points = _projected(points, x, low, high, goal.radius, goal.norm)
    where = (x, low, high, goal.radius)
    for step in range(steps):
        size = np.float32(goal.radius * 0.5 * (1 - step / steps))
        points = _step(network, points, goal.label, aims, *where, size, norm=goal.norm)
    return first_witness(network, goal, np.asarray(points, np.float64))


def attacked(network: Network, goal: Goal, *, restarts: int) -> float:
    """The distance of the nearest witness that descent finds at a series of radii, or infinity."""
    low, high = 0.0, np.inf
    for radius in 0.01 * 2.0 ** np.arange(20):
        if goal.is_late:
            return high
        point = descend(network, goal._replace(radius=float(radius)), steps=40, restarts=restarts)
        if point is not None:
            high = goal.distance(point)
            break
        low = float(radius)
    for _ in range(8 if np.isfinite(high) else 0):
        radius = (low + high) / 2
        if goal.is_late:
            return high
        point = descend(network, goal._replace(radius=radius), steps=40, restarts=restarts)
        low, high = (radius, high) if point is None else (low, goal.distance(point))
    return high


def witness_near(network: Network, goal: Goal, point: np.ndarray) -> np.ndarray | None:
    """A witness near a point at which another class is level, where solvers stop.

    A little further out from the image, or, if the point is a corner and the label is ahead again
    there, a little down from it.
    """
    away = point.reshape(goal.x.shape) - goal.x
    found = first_witness(network, goal, [goal.x + (1 + share) * away for share in _FURTHER])
    return _down(network, goal, goal.x + away) if found is None else found


def _down(network: Network, goal: Goal, point: np.ndarray) -> np.ndarray | None:
    rivals = [j for j in range(network.num_classes) if j != goal.label]
    aims, wide, tries = np.tile(rivals, _STARTS), in_float64(network), []
    # At a corner the slope is that of one region around it: the others start a little apart.
    apart = np.repeat([0.0, *np.geomspace(1e-6, 1e-2, _STARTS - 1)], len(rivals)) * goal.radius
    around = np.random.default_rng(0).normal(size=(len(aims), point.size)) / np.sqrt(point.size)
    points = point + (apart[:, None] * around).reshape(len(aims), *point.shape)
    low, high = (end[None] for end in goal.bounds())
    where = (goal.x[None], low, high, goal.radius)
    with in_64_bits():
        for share in _DOWN:
            size = goal.radius * share
            points = np.asarray(_step(wide, points, goal.label, aims, *where, size, norm=goal.norm))
            tries.extend(points)
    return first_witness(network, goal, tries)


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
