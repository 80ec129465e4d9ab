"""Which sets of highest classes a guarantee admits: the k highest, or classes that belong together.

Words for them, which the command line and configs use, are read by `parse`.
"""

import abc
import dataclasses
import numbers
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from gloro_jax.plain import check_comparable


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
    def admits(
        self, top: Int[Array | np.ndarray, "*batch k"], num_classes: int
    ) -> Bool[Array, "*batch k"]:
        """Whether the first 1, 2, ... of the `largest` highest classes are a candidate."""

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

    def admits(
        self, top: Int[Array | np.ndarray, "*batch k"], num_classes: int
    ) -> Bool[Array, "*batch k"]:
        """All of them."""
        del num_classes
        return jnp.ones(top.shape, bool)

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
        ValueError: if there is no set, a set is empty or names a class twice, or a class is no
            number from 0 on.
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
        alone = self.without(num_classes)
        if is_covering and alone:
            raise ValueError(
                f"Classes {alone[:10]} are in no affinity set, so that nothing could be certified "
                f"of them, nor trained: give each a set of its own, [{alone[0]}]."
            )

    def without(self, num_classes: int) -> list[int]:
        """The classes that are in no set: points of theirs are never certified."""
        return sorted(set(range(num_classes)).difference(*self.sets))

    def largest(self, num_classes: int) -> int:
        """The size of the largest set, below the number of classes."""
        return min(max(map(len, self.sets)), num_classes - 1)

    def admits(
        self, top: Int[Array | np.ndarray, "*batch k"], num_classes: int
    ) -> Bool[Array, "*batch k"]:
        """Where one set holds them all."""
        members = np.zeros((num_classes, len(self.sets)), np.int32)
        for column, one in enumerate(self.sets):
            members[list(one), column] = 1
        held = jnp.cumsum(jnp.take(members, top, axis=0), axis=-2)
        return (held == counted(top)[..., None]).any(axis=-1)

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
        TypeError: if it is no text.
        ValueError: if it is none of these.
    """
    if not isinstance(text, str):
        raise TypeError(f"A guarantee in words is text, 'top-5' for example; got {text!r}.")
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
    check_comparable(guarantee, what="A guarantee")
    guarantee.check(num_classes, is_covering=is_covering)


def _classes(one: Any) -> tuple[int, ...]:
    if isinstance(one, str) or not isinstance(one, Iterable):
        raise ValueError(f"An affinity set is a list of class numbers, [1, 2]; got {one!r}.")
    found = sorted(_whole(value, least=0, what="A class") for value in one)
    if not found:
        raise ValueError("An affinity set names at least one class, and one is empty.")
    if len(set(found)) < len(found):
        raise ValueError(f"The affinity set {found} names a class twice: is another one meant?")
    return tuple(found)


def _whole(value: Any, *, least: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{what} is a whole number of at least {least}, got {value!r}.")
    return int(value)


def counted(like: Any) -> Array:
    """1, 2, 3, ... along the last axis."""
    return jax.lax.broadcasted_iota(jnp.int32, like.shape, like.ndim - 1) + 1
