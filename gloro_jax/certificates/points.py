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
    count = 1 if guarantee is None else guarantee.largest(scores.shape[1])
    inside = order[:, :count].T
    found = [network.leads(scores, rounding, errors, one) for one in inside]
    # The checker's scores may differ from these by twice the allowance, and it takes off one more.
    least = np.stack([leads - 3 * allowance for leads, allowance in found])
    bound = network.lipschitz(network.steps)
    reach = bound * network.head_distances[inside] * (1 + WEAKER)
    needs = epsilon * reach * (1 + WEAKER)
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = np.where(reach == 0, np.inf, least * (1 - WEAKER) / reach)
    radii = _of_sets(np.where(least > 0, np.minimum(radii, _LARGEST_RADIUS), 0.0), order)
    slacks = _of_sets(least - needs, order)
    if guarantee is not None:
        is_candidate = np.asarray(guarantee.admits(order)).T  # type: ignore[arg-type]
        radii, slacks = np.where(is_candidate, radii, 0.0), np.where(is_candidate, slacks, -np.inf)
    rows, chosen = np.arange(len(scores)), _chosen(radii, slacks, epsilon)
    classes = np.argsort(order, axis=1) <= chosen[:, None]
    is_pair = (np.arange(count)[:, None] <= chosen)[..., None] & ~classes
    pairs = np.where(is_pair, least - needs, np.inf).transpose(1, 0, 2).reshape(len(scores), -1)
    place, rival = np.divmod(pairs.argmin(axis=1), scores.shape[1])
    radius, margin, needed = (
        radii[chosen, rows],
        least[place, rows, rival],
        needs[place, rows, rival],
    )
    sets = {
        "classes": classes.astype(np.uint8),
        "k": chosen.astype(np.int64) + 1,
        "inside": inside[place, rows].astype(np.int64),
    }
    return {
        **({"prediction": order[:, 0].astype(np.int64)} if guarantee is None else sets),
        "rival": rival.astype(np.int64),
        "margin": margin,
        "needed": needed,
        "radius": radius,
        "is_certified": ((radius >= epsilon) & (margin > needed)).astype(np.uint8),
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
