"""From logits and a bound to the set of highest classes that cannot change, radius and slack.

F^k does not change where each class inside stays above each outside: the least
y_l - y_i - epsilon K_li over l inside and i outside is positive. With k = 1 it is the strict
certificate, bit for bit. A set of all classes cannot change, and says nothing: it is no candidate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gloro_jax import margins
from gloro_jax.guarantees.kinds import Guarantee, check_guarantee, counted
from gloro_jax.logits import GloroLogits
from gloro_jax.margins import as_epsilon, pair_constants, scores


class SetCertificate(NamedTuple):
    """What `certify(..., guarantee=...)` says of each example.

    All fields speak of one k: the largest that is certified at epsilon, and where none is, the one
    of the largest radius.

    Attributes:
        classes: whether each class is among the k highest, (..., m).
        k: how many are.
        radius: the l2 radius within which that set cannot change, rounded down.
        is_certified: whether `slack` is positive.
        slack: the least margin left at epsilon between a class inside and one outside, in logit
            units, rounded down; minus infinity where no set is a candidate.
    """

    classes: Bool[Array, "*batch m"]
    k: Int[Array, "*batch"]
    radius: Float[Array, "*batch"]
    is_certified: Bool[Array, "*batch"]
    slack: Float[Array, "*batch"]


def set_certificate(logits: GloroLogits, guarantee: Guarantee, *, epsilon: Any) -> SetCertificate:
    """The certificate of the set of highest classes, from logits with a guaranteed bound.

    Args:
        logits: scores (..., m) with an upper bound.
        guarantee: which sets are candidates.
        epsilon: the l2 radius.

    Raises:
        TypeError: if the bound is an estimate, or `guarantee` is none.
        ValueError: if the guarantee does not fit the number of classes.
    """
    top = _highest(logits, guarantee)
    constants = margins.guaranteed_constants(logits, top)
    leads = margins.leads_down(logits, top)
    m, count = leads.shape[-1], top.shape[-1] * leads.shape[-1]
    are_bounds = margins.is_sane(logits, constants.reshape((*top.shape[:-1], count)))
    is_candidate, inside = guarantee.admits(top, m) & are_bounds[..., None], _inside(top, m)
    slacks = margins.pair_slacks(leads, constants, epsilon=epsilon)
    slack = jnp.where(is_candidate, _least(slacks, inside), -jnp.inf)
    radii = margins.pair_radii(leads, constants)
    radius = jnp.where(is_candidate, _least(radii, inside), 0.0)
    last = _chosen(slack, radius)
    slack, radius = (_at(numbers, last) for numbers in (slack, radius))
    classes = jnp.take_along_axis(inside, last[..., None, None], axis=-2)[..., 0, :]
    return SetCertificate(classes, last + 1, radius, slack > 0, slack)


def bottom_logit(
    logits: GloroLogits, *, epsilon: Any, guarantee: Guarantee | None
) -> Float[Array, "*batch"]:
    """The score of "not robust here" under a guarantee; None is the strict one.

    The highest score, less the largest margin of a candidate set (NeurIPS 2021, section 4): the
    highest exceeds it where a set is certified.
    """
    if guarantee is None:
        return margins.bottom_logit(logits, epsilon=epsilon)
    margin, _ = _margins(logits, epsilon, guarantee)
    return jnp.max(scores(logits), axis=-1) - jnp.max(margin, axis=-1)


def is_verified(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any, guarantee: Guarantee | None
) -> Bool[Array, "*batch"]:
    """Whether a set is certified and holds the label, (...); as good as the bound of `logits`.

    An estimate while training; of upper bounds, `certify` rounds against us and this does not.
    """
    if guarantee is None:
        bottom = margins.bottom_logit(logits, epsilon=epsilon)
        is_above = jnp.max(scores(logits), axis=-1) > bottom
        return is_above & (logits.prediction == labels)
    margin, top = _margins(logits, epsilon, guarantee)
    k = jnp.where(margin > 0, counted(margin), 0).max(axis=-1)
    return ((top == labels[..., None]) & (counted(top) <= k[..., None])).any(axis=-1)


def _margins(logits: GloroLogits, epsilon: Any, guarantee: Guarantee) -> tuple[Array, Array]:
    """The margin of each k, (..., k), minus infinity for no candidate, and the highest classes."""
    top = _highest(logits, guarantee, is_covering=True)
    own = jnp.take_along_axis(logits.values, top, axis=-1)[..., None]
    lifted = logits.values[..., None, :] + pair_constants(logits, top) * as_epsilon(epsilon)
    is_candidate = guarantee.admits(top, lifted.shape[-1])
    return jnp.where(
        is_candidate, _least(own - lifted, _inside(top, lifted.shape[-1])), -jnp.inf
    ), top


def _highest(logits: GloroLogits, guarantee: Guarantee, *, is_covering: bool = False) -> Array:
    """The classes of the highest scores, (..., k), the lower number first on a tie."""
    m = scores(logits).shape[-1]
    check_guarantee(guarantee, m, is_covering=is_covering)
    return jax.lax.top_k(jax.lax.stop_gradient(logits.values), guarantee.largest(m))[1]


def _inside(top: Array, m: int) -> Array:
    """For each k, whether each class is among the k highest, (..., k, m)."""
    is_it = jax.nn.one_hot(top, m, dtype=bool)
    place = jnp.where(is_it.any(axis=-2), jnp.argmax(is_it, axis=-2), top.shape[-1])
    places = jax.lax.broadcasted_iota(place.dtype, is_it.shape, is_it.ndim - 2)
    return place[..., None, :] <= places


def _least(pairs: Array, inside: Array) -> Array:
    """For each k, the least entry of `pairs` (..., l, m) over the k highest and classes outside."""
    lowest = jax.lax.cummin(pairs, axis=pairs.ndim - 2)
    return jnp.min(jnp.where(inside, jnp.inf, lowest), axis=-1)


def _chosen(slack: Array, radius: Array) -> Array:
    """The index of the largest k with a positive slack, else of the largest radius."""
    last = jnp.where(slack > 0, counted(slack), 0).max(axis=-1) - 1
    return jnp.where(last >= 0, last, jnp.argmax(radius, axis=-1))


def _at(numbers: Array, index: Array) -> Array:
    return jnp.take_along_axis(numbers, index[..., None], axis=-1)[..., 0]
