"""What a certificate file claims of its points, each number a little to the safe side.

It is what the checker proves: a set of the k highest classes (of one, under the strict guarantee),
the pair of a class inside and one outside that comes nearest to changing places, and a radius.
"""

from typing import Any

import numpy as np

from gloro_jax.guarantees import Guarantee

WEAKER = 1e-12
_LARGEST_RADIUS = 1e30


def claim_points(
    network: Any,
    scores: np.ndarray,
    rounding: np.ndarray,
    errors: np.ndarray,
    *,
    epsilon: float,
    guarantee: Guarantee | None,
) -> dict[str, np.ndarray]:
    """What is claimed of a batch of points, by the names of the file's arrays.

    Args:
        network: the checker's, with proved norms.
        scores: (n, m), with what is known of their errors: `rounding` (n, m), and `errors` (n,) of
            the features.
        rounding: of the scores.
        errors: of the features.
        epsilon: the l2 radius.
        guarantee: None for the strict one.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    inside = order[:, : 1 if guarantee is None else guarantee.largest(scores.shape[1])].T
    found = [network.leads(scores, rounding, errors, one) for one in inside]
    # The checker's scores may differ from these by twice the allowance, and it takes off one more.
    least = np.stack([leads - 3 * allowance for leads, allowance in found])
    bound = network.lipschitz(network.steps)
    reach = bound * network.head_distances[inside] * (1 + WEAKER)
    needs = epsilon * reach * (1 + WEAKER)
    radii, slacks = _of_sets(_radii(least, reach), order), _of_sets(least - needs, order)
    if guarantee is not None:
        is_candidate = np.asarray(guarantee.admits(inside.T, scores.shape[1])).T
        radii, slacks = np.where(is_candidate, radii, 0.0), np.where(is_candidate, slacks, -np.inf)
    rows, chosen = np.arange(len(scores)), _chosen(radii, slacks, epsilon)
    classes = np.argsort(order, axis=1) <= chosen[:, None]
    place, rival = _nearest_pairs(least - needs, classes, chosen)
    radius = radii[chosen, rows]
    margin, needed = least[place, rows, rival], needs[place, rows, rival]
    return {
        **_named_sets(classes, chosen, inside[place, rows], guarantee),
        "rival": rival.astype(np.int64),
        "margin": margin,
        "needed": needed,
        "radius": radius,
        "is_certified": ((radius >= epsilon) & (margin > needed)).astype(np.uint8),
    }


def _radii(least: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The radii at which leads are used up, rounded down."""
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = np.where(reach == 0, np.inf, least * (1 - WEAKER) / reach)
    return np.where(least > 0, np.minimum(radii, _LARGEST_RADIUS), 0.0)


def _nearest_pairs(
    slacks: np.ndarray, classes: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank inside, and the class outside, of the least of `slacks` (l, n, m) of each point."""
    is_pair = (np.arange(len(slacks))[:, None] <= chosen)[..., None] & ~classes
    pairs = np.where(is_pair, slacks, np.inf).transpose(1, 0, 2).reshape(len(classes), -1)
    place, rival = np.divmod(pairs.argmin(axis=1), classes.shape[1])
    return place, rival


def _named_sets(
    classes: np.ndarray, chosen: np.ndarray, inside: np.ndarray, guarantee: Guarantee | None
) -> dict[str, np.ndarray]:
    """A set as the file has it: the prediction, or its classes and the one of the nearest pair."""
    if guarantee is None:
        return {"prediction": inside.astype(np.int64)}
    return {
        "classes": classes.astype(np.uint8),
        "k": chosen.astype(np.int64) + 1,
        "inside": inside.astype(np.int64),
    }


def _of_sets(pairs: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(k, n): the least of `pairs` (l, n, m) over the k highest classes and those outside."""
    count = len(pairs)
    by_rank = np.take_along_axis(pairs, order[None], axis=2)
    outside = np.minimum.accumulate(by_rank[:, :, ::-1], axis=2)[:, :, ::-1]
    found = [outside[: k + 1, :, k + 1].min(axis=0) for k in range(count)]
    return np.stack(found)


def _chosen(radii: np.ndarray, slacks: np.ndarray, epsilon: float) -> np.ndarray:
    """The row of the largest certified set of each point, else of the largest radius."""
    is_certified = (radii >= epsilon) & (slacks > 0)
    last = np.where(is_certified, np.arange(len(radii))[:, None], -1).max(axis=0)
    return np.where(last >= 0, last, radii.argmax(axis=0))
