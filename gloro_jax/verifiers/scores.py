"""What a network says of single points, in float64 with its rounding counted."""

import dataclasses
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from gloro_jax.lipschitz.rounding import gamma
from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits, jit
from gloro_jax.verifiers.bounds.boxes import Walk, entries, operations, size_of
from gloro_jax.verifiers.bounds.lines import follow, start
from gloro_jax.verifiers.bounds.operations import Chain, affine_tail
from gloro_jax.verifiers.bounds.regions import Box, Norm, Region, minimum, region
from gloro_jax.verifiers.bounds.rules import chain_of

_AT_ONCE = 256


def margin_rows(labels: Any, classes: int, dtype: Any) -> Any:
    """Rows (n, m, m) of scores: label minus class j; the label's own row is 0."""
    eye = jnp.eye(classes, dtype=dtype)
    return eye[labels][:, None, :] - eye[None]


def charge_of(chain: Chain, dtype: Any) -> float:
    """What each operation of a chain is charged for rounding: nothing in float32.

    An entry is a sum of at most as many products as the largest activation has entries, and each
    step does a few operations more; four times that covers them, and the sums of charges, to which
    each operation adds a few.
    """
    terms = entries(chain) + 8 * operations(chain) + 64
    return 4 * gamma(terms) if dtype == jnp.float64 else 0.0


def walk_boxes(walk: Walk, chain: Chain) -> tuple[Chain, Region]:
    """Walks to the affine operations that a chain ends with; returns them, and where they begin.

    That is a box, and only where they are the whole chain, the ball.
    """
    tail = affine_tail(chain)
    low, high = walk.through(chain[:tail], (walk.area.lower, walk.area.upper))
    if tail == 0:
        return chain, walk.area
    return chain[tail:], Region((low + high) / 2, walk.area.radius, low, high, "linf")


def box_margins(walk: Walk, tail: Chain, inside: Region, rows: Any) -> Any:
    """The least margins over where the affine operations begin that a network ends with.

    Following the margins through them loses nothing of what scores have in common.
    """
    sizes = (inside.lower, inside.upper)
    for op in tail:
        walk.sizes[op] = size_of(sizes)
        sizes = walk.through((op,), sizes)
    counted = walk.sizes if walk.charge else None
    found = follow(tail, start(rows), relu=_no_relu, sizes=counted)
    return walk.concluded(found, *minimum(inside, found.rows, is_tight=True))


def _no_relu(op: Any, at: Any) -> Any:
    raise AssertionError("affine operations hold no ReLU")


@jit
def _point_margins(network: Network, x: Any, labels: Any) -> Any:
    chain = chain_of(network)
    area = region(x, jnp.zeros(len(x), x.dtype), norm="linf", box=None)
    walk = Walk(area, None, charge_of(chain, x.dtype))
    tail, inside = walk_boxes(walk, chain)
    rows = margin_rows(labels, network.num_classes, x.dtype)
    return box_margins(walk, tail, inside, jnp.concatenate([rows, -rows], axis=1))


def point_margins(network: Network, x: np.ndarray, labels: np.ndarray) -> Any:
    """Score of the label minus score of class j: bounds (n, m) from below and from above.

    Args:
        network: the network.
        x: points (n, *shape); float64 as they are.
        labels: (n,).
    """
    wide, found = in_float64(network), []
    for points, goals in batches(_AT_ONCE, x.astype(np.float64), labels):
        with in_64_bits():
            found.append(np.asarray(_point_margins(wide, points, goals)))
    both, m = np.concatenate(found)[: len(x)], network.num_classes
    return both[:, :m], -both[:, m:]


def predictions(network: Network, x: np.ndarray) -> np.ndarray:
    """The class that a network gives to each point, (n,); -1 on a tie and where none is proved."""
    reference = np.zeros(len(x), np.int64)
    low, high = point_margins(network, x, reference)
    likely = (low + high).argmin(axis=1)
    _, is_proved = judged(network, x, likely)
    return np.where(is_proved, likely, -1)


def judged(network: Network, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether another class's score is proved to be at least the label's, and the label's ahead."""
    low, high = point_margins(network, x, labels)
    low[np.arange(len(x)), labels] = high[np.arange(len(x)), labels] = np.inf
    return (high <= 0).any(axis=1), (low > 0).all(axis=1)


def is_misclassified(network: Network, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether another class's score is proved to be at least the label's, (n,)."""
    return judged(network, x, labels)[0]


def is_inside(
    points: np.ndarray, x: np.ndarray, *, norm: Norm, radius: float, box: Box
) -> np.ndarray:
    """Whether points are in the regions around images, in exact arithmetic, (n,)."""
    return np.array([_is_inside(p, c, norm, radius, box) for p, c in zip(points, x, strict=True)])


def _is_inside(point: np.ndarray, centre: np.ndarray, norm: Norm, radius: float, box: Box) -> bool:
    flat, limit = point.ravel(), Fraction(float(radius))
    if not np.isfinite(flat).all() or (box is not None and not _is_between(flat, box)):
        return False
    pairs = zip(flat, centre.ravel(), strict=True)
    moved = [Fraction(float(a)) - Fraction(float(b)) for a, b in pairs]
    if norm == "linf":
        return max(map(abs, moved)) <= limit
    return sum(d * d for d in moved) <= limit * limit


def _is_between(flat: np.ndarray, box: tuple[float, float]) -> bool:
    return bool((flat >= box[0]).all() and (flat <= box[1]).all())


def in_float64(network: Network) -> Network:
    """The network with its float32 weights, exactly, as float64."""
    arrays = {name: np.asarray(array, np.float64) for name, array in network.arrays.items()}
    return dataclasses.replace(network, arrays=arrays)


def batches(at_once: int, *arrays: np.ndarray) -> Any:
    """Parts of arrays, the last one filled up with its first row, so that one program serves."""
    for first in range(0, len(arrays[0]), at_once):
        parts = [array[first : first + at_once] for array in arrays]
        missing = min(at_once, _fitting(len(arrays[0]))) - len(parts[0])
        fill = [np.repeat(part[:1], max(missing, 0), axis=0) for part in parts]
        yield [np.concatenate(pair) for pair in zip(parts, fill, strict=True)]


def _fitting(count: int) -> int:
    """The next power of two, from 8: a program for each size would take long to compile."""
    return max(8, 1 << (count - 1).bit_length())
