"""Relaxed guarantees: a set of likely classes that cannot change, where one class could.

A strict certificate says that the first class stays first. On many classes that refuses points
where the network hesitates between two kinds of fish, and no other answer is anywhere near. Relaxed
guarantees (Leino and Fredrikson, Relaxing Local Robustness, NeurIPS 2021) keep such points: with
F^k(x) the *set* of the k highest classes,

- `TopK(K)`: for some k up to K, F^k does not change within epsilon;
- `Affinity(sets)`: for some k, F^k does not change within epsilon, and lies in one of the sets.

F^k does not change where each class inside stays above each outside: the least
y_l - y_i - epsilon K_li over l inside and i outside is positive. With k = 1 it is the strict
certificate, bit for bit. A set of all classes cannot change, and says nothing: it is no candidate.
"""

import abc
import dataclasses
import numbers
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gloro_jax import margins
from gloro_jax.margins import GloroLogits, as_epsilon, pair_constants, scores


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


class Guarantee(abc.ABC):
    """Which sets of highest classes are good enough to be certified."""

    @abc.abstractmethod
    def check(self, num_classes: int, *, is_covering: bool = False) -> None:
        """Raises a ValueError unless this can be asked of a network of `num_classes` classes.

        Args:
            num_classes: of the network.
            is_covering: whether every class must be in a candidate, as training needs.
        """

    @abc.abstractmethod
    def largest(self, num_classes: int) -> int:
        """The largest k that is a candidate."""

    @abc.abstractmethod
    def admits(self, order: Int[Array, "*batch m"]) -> Bool[Array, "*batch k"]:
        """Whether the k highest are a candidate, for k from 1 to `largest`; `order` is theirs."""

    @abc.abstractmethod
    def plain(self) -> dict[str, Any]:
        """As JSON holds it, and certificate files with it."""


@dataclasses.dataclass(frozen=True)
class TopK(Guarantee):
    """The k highest classes stay the k highest, as a set, for some k up to this one.

    Attributes:
        k: the largest set; 1 is the strict guarantee.

    Raises:
        ValueError: if k is no whole number from 1 on.
    """

    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", _whole(self.k, least=1, what="k"))

    def check(self, num_classes: int, *, is_covering: bool = False) -> None:
        """As the base class says: k must be below the number of classes."""
        if self.k >= num_classes:
            raise ValueError(
                f"TopK({self.k}) asks for a set of {self.k} of {num_classes} classes: a set of all "
                f"classes never changes and says nothing. Take k from 1 to {num_classes - 1}."
            )

    def largest(self, num_classes: int) -> int:
        """k, below the number of classes."""
        return min(self.k, num_classes - 1)

    def admits(self, order: Int[Array, "*batch m"]) -> Bool[Array, "*batch k"]:
        """All of them."""
        return jnp.ones((*order.shape[:-1], self.largest(order.shape[-1])), bool)

    def plain(self) -> dict[str, Any]:
        """{"kind": "top-k", "k": k}."""
        return {"kind": "top-k", "k": self.k}

    def __str__(self) -> str:
        """The words that `parse` reads."""
        return f"top-{self.k}"


@dataclasses.dataclass(frozen=True)
class Affinity(Guarantee):
    """The k highest classes stay the k highest, for some k, and belong together.

    They do where one of `sets` holds them all. With a set for each class alone it is the strict
    guarantee; points whose first class is in no set are never certified.

    Attributes:
        sets: of classes that may be taken for one another, kept as a tuple of sorted tuples of
            numbers; they may overlap.

    Raises:
        ValueError: if there is no set, a set is empty, or a class is no number from 0 on.
    """

    sets: Any

    def __post_init__(self) -> None:
        given = self.sets
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"Affinity takes sets of class numbers, [[0], [1, 2]]; got {given!r}.")
        found = tuple(_classes(one) for one in given)
        if not found:
            raise ValueError("Affinity takes at least one set of classes, and got none.")
        object.__setattr__(self, "sets", tuple(dict.fromkeys(found)))

    @classmethod
    def of_groups(cls, groups: Iterable[int]) -> "Affinity":
        """A set for each group, from the group of each class: coarse labels of fine classes."""
        numbered = np.asarray(list(groups))
        return cls(tuple(tuple(np.flatnonzero(numbered == g)) for g in np.unique(numbered)))

    def check(self, num_classes: int, *, is_covering: bool = False) -> None:
        """As the base class says: sets name classes that are there."""
        for one in self.sets:
            if max(one) >= num_classes:
                raise ValueError(
                    f"The affinity set {list(one)} names class {max(one)}, and the network has "
                    f"classes 0 to {num_classes - 1}."
                )
        alone = sorted(set(range(num_classes)).difference(*self.sets))
        if is_covering and alone:
            raise ValueError(
                f"Classes {alone[:10]} are in no affinity set, so that nothing could be certified "
                f"of them, nor trained: give each a set of its own, [{alone[0]}]."
            )

    def largest(self, num_classes: int) -> int:
        """The size of the largest set, below the number of classes."""
        return min(max(map(len, self.sets)), num_classes - 1)

    def admits(self, order: Int[Array, "*batch m"]) -> Bool[Array, "*batch k"]:
        """Where one set holds the k highest."""
        m = order.shape[-1]
        members = np.zeros((m, len(self.sets)), np.int32)
        for column, one in enumerate(self.sets):
            members[list(one), column] = 1
        first = order[..., : self.largest(m)]
        held = jnp.cumsum(jnp.take(members, first, axis=0), axis=-2)
        return (held == _counted(first)[..., None]).any(axis=-1)

    def plain(self) -> dict[str, Any]:
        """{"kind": "affinity", "sets": [[...], ...]}."""
        return {"kind": "affinity", "sets": [list(one) for one in self.sets]}

    def __str__(self) -> str:
        """The words that `parse` reads."""
        return "".join(f"[{','.join(map(str, one))}]" for one in self.sets)


# Fine classes of CIFAR-100 in alphabetical order, each with its superclass.
_CIFAR100 = (
    "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 "
    "11 5 5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 "
    "16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13"
)


def cifar100_superclasses() -> Affinity:
    """CIFAR-100's 20 superclasses of five classes each (Krizhevsky 2009)."""
    return Affinity.of_groups(map(int, _CIFAR100.split()))


def parse(text: str) -> Guarantee | None:
    """A guarantee from words: "strict" (None), "top-5", "[0][1,2,3]", "cifar100-superclasses".

    Raises:
        ValueError: if it is none of these.
    """
    words = text.strip()
    if words == "strict":
        return None
    if words == "cifar100-superclasses":
        return cifar100_superclasses()
    if found := re.fullmatch(r"top-(\d{1,9})", words):
        return TopK(int(found[1]))
    if re.fullmatch(r"(\[\s*\d+\s*(,\s*\d+\s*)*\]\s*)+", words):
        groups = re.findall(r"\[([^]]*)\]", words)
        return Affinity(tuple(tuple(map(int, group.split(","))) for group in groups))
    raise ValueError(
        "A guarantee is strict, top-5 (the five highest classes as a set), sets of classes such as "
        f"[0][1,2][3], or cifar100-superclasses; got {text!r}."
    )


def check_guarantee(guarantee: Any, num_classes: int, *, is_covering: bool = False) -> None:
    """Raises a TypeError unless this is a relaxed guarantee, a ValueError unless it fits."""
    if not isinstance(guarantee, Guarantee):
        raise TypeError(
            "guarantee is gj.guarantees.TopK(k), gj.guarantees.Affinity(sets), or None for the "
            f"strict one; got {guarantee!r}. gj.guarantees.parse reads words."
        )
    guarantee.check(num_classes, is_covering=is_covering)


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
    order, top = _ranked(logits, guarantee)
    constants = margins.guaranteed_constants(logits, top)
    leads = margins.leads_down(logits, top)
    are_bounds = margins.is_sane(logits, constants.reshape((*top.shape[:-1], -1)))
    is_candidate = guarantee.admits(order) & are_bounds[..., None]
    slacks = margins.pair_slacks(leads, constants, epsilon=epsilon)
    slack = jnp.where(is_candidate, _least(slacks, order), -jnp.inf)
    radii = margins.pair_radii(leads, constants)
    radius = jnp.where(is_candidate, _least(radii, order), 0.0)
    chosen = _chosen(slack, radius)
    rank = jnp.argsort(order, axis=-1)
    slack, radius = (_at(numbers, chosen) for numbers in (slack, radius))
    return SetCertificate(rank <= chosen[..., None], chosen + 1, radius, slack > 0, slack)


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
        is_above = jnp.max(scores(logits), axis=-1) > bottom_logit(
            logits, epsilon=epsilon, guarantee=None
        )
        return is_above & (logits.prediction == labels)
    margin, order = _margins(logits, epsilon, guarantee)
    k = jnp.where(margin > 0, _counted(margin), 0).max(axis=-1)
    rank = jnp.argmax(order == labels[..., None], axis=-1)
    return rank < k


def _margins(logits: GloroLogits, epsilon: Any, guarantee: Guarantee) -> tuple[Array, Array]:
    """The margin of each k, (..., k), minus infinity for no candidate, and the order of classes."""
    order, top = _ranked(logits, guarantee, is_covering=True)
    own = jnp.take_along_axis(logits.values, top, axis=-1)[..., None]
    lifted = logits.values[..., None, :] + pair_constants(logits, top) * as_epsilon(epsilon)
    return jnp.where(guarantee.admits(order), _least(own - lifted, order), -jnp.inf), order


def _ranked(
    logits: GloroLogits, guarantee: Guarantee, *, is_covering: bool = False
) -> tuple[Array, Array]:
    """Classes by falling score, the lower number first on a tie, and the first few of them."""
    m = scores(logits).shape[-1]
    check_guarantee(guarantee, m, is_covering=is_covering)
    order = jnp.argsort(jax.lax.stop_gradient(-logits.values), axis=-1, stable=True)
    return order, order[..., : guarantee.largest(m)]


def _least(pairs: Array, order: Array) -> Array:
    """For each k, the least entry of `pairs` (..., l, m) over l inside and classes outside."""
    count = pairs.shape[-2]
    by_rank = jnp.take_along_axis(pairs, order[..., None, :], axis=-1)
    outside = jax.lax.cummin(by_rank, axis=by_rank.ndim - 1, reverse=True)[..., 1 : count + 1]
    is_inside = jnp.broadcast_to(np.tri(count, dtype=bool).T, outside.shape)
    return jnp.min(jnp.where(is_inside, outside, jnp.inf), axis=-2)


def _chosen(slack: Array, radius: Array) -> Array:
    """The index of the largest k with a positive slack, else of the largest radius."""
    last = jnp.where(slack > 0, _counted(slack), 0).max(axis=-1) - 1
    return jnp.where(last >= 0, last, jnp.argmax(radius, axis=-1))


def _counted(like: Array) -> Array:
    """1, 2, 3, ... along the last axis."""
    return jax.lax.broadcasted_iota(jnp.int32, like.shape, like.ndim - 1) + 1


def _at(numbers: Array, index: Array) -> Array:
    return jnp.take_along_axis(numbers, index[..., None], axis=-1)[..., 0]


def _classes(one: Any) -> tuple[int, ...]:
    if isinstance(one, str) or not isinstance(one, Iterable):
        raise ValueError(f"An affinity set is a list of class numbers, [1, 2]; got {one!r}.")
    found = sorted({_whole(value, least=0, what="A class") for value in one})
    if not found:
        raise ValueError("An affinity set names at least one class, and one is empty.")
    return tuple(found)


def _whole(value: Any, *, least: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{what} is a whole number of at least {least}, got {value!r}.")
    return int(value)
