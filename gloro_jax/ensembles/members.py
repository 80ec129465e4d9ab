"""What the members of an ensemble must agree in, and weights as exact numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from gloro_jax.frozen_net import FrozenNet
from gloro_jax.plain import as_array, unwritable
from gloro_jax.platforms import holds_traced

Member = FrozenNet | Callable[[Any], Any]


def scores_of(member: Member, x: Any) -> Any:
    """The scores (n, m) of a FrozenNet, or of a function that gives them.

    Such a function gets a copy of its own: it may write to it, as NumPy's `x -= mean` does.
    """
    if isinstance(member, FrozenNet):
        return member(x).values
    return member(x.copy() if isinstance(x, np.ndarray) else x)


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """FrozenNets that answer one question.

    Attributes:
        members: of one image shape, with the same classes.
    """

    members: Sequence[FrozenNet]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image."""
        return self.members[0].input_shape

    @property
    def num_classes(self) -> int:
        """How many classes."""
        return self.members[0].net.num_classes


def check_batch(x: Any, input_shape: tuple[int, ...], *, what: str) -> None:
    """Raises a ValueError unless x is (n, *input_shape)."""
    if tuple(np.shape(x)[1:]) != tuple(input_shape):
        raise ValueError(
            f"{what} takes a batch of images (n, {', '.join(map(str, input_shape))}), got shape "
            f"{np.shape(x)}."
        )


def listed(members: Any, *, what: str) -> tuple[Any, ...]:
    """The members, or an error if they are no list, or there is none."""
    if isinstance(members, FrozenNet | str) or not isinstance(members, Iterable):
        raise TypeError(
            f"{what} takes a list of members, [one, another], got {type(members).__name__}."
        )
    found = tuple(members)
    if not found:
        raise ValueError(f"{what} takes at least one member, and got none.")
    return found


def check_members(
    members: Sequence[Any],
    *,
    what: str,
    class_names: Sequence[Sequence[str]] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[FrozenNet, ...]:
    """The members, or an error if they do not belong together.

    Args:
        members: FrozenNets.
        what: the ensemble's name, for messages.
        class_names: those of each member, where they are known: classes must be numbered alike.
        names: of the members, for messages; "member 0", "member 1" and so on unless given.

    Raises:
        TypeError: if a member is no FrozenNet.
        ValueError: if there is none, or they differ in image shape, classes, or order of classes.
    """
    found = listed(members, what=what)
    for number, member in enumerate(found):
        if not isinstance(member, FrozenNet):
            raise TypeError(
                f"Member {number} of {what} is a {type(member).__name__}, and members are "
                "FrozenNets: gj.load(run), or gj.freeze(net, variables, input_shape=...)."
            )
        if holds_traced(member):
            raise TypeError(
                f"{what} reads the bounds of its members on the host: make it outside jit, vmap or "
                "grad, of FrozenNets as they are, and close over it."
            )
        first, own = (f"member {i}" if names is None else names[i] for i in (0, number))
        _check_alike(found[0], member, first=first, own=own, what=what)
    if class_names is not None:
        _check_names(class_names, len(found), found[0].net.num_classes, what)
    return found


def _check_alike(head: FrozenNet, member: FrozenNet, *, first: str, own: str, what: str) -> None:
    subject, classes = f"{own[0].upper()}{own[1:]} of {what}", head.net.num_classes
    if member.net.num_classes != classes:
        raise ValueError(
            f"{subject} has {member.net.num_classes} classes, and {first} has {classes}: they must "
            "answer one question."
        )
    if member.input_shape != head.input_shape:
        raise ValueError(
            f"{subject} takes images {member.input_shape}, and {first} {head.input_shape}: they "
            "must see the same image."
        )


def _check_names(names: Sequence[Sequence[str]], count: int, classes: int, what: str) -> None:
    if not all(isinstance(one, Iterable) and not isinstance(one, str) for one in names):
        raise ValueError(f"class_names gives {what} a list of names for each member, got {names}.")
    given = [tuple(one) for one in names]
    if len(given) != count or any(len(one) != classes for one in given):
        raise ValueError(
            f"class_names gives {what} the {classes} names of each of {count} members, got "
            f"{[len(one) for one in given]} names."
        )
    for number, one in enumerate(given):
        if one != given[0]:
            at = next(i for i in range(classes) if one[i] != given[0][i])
            raise ValueError(
                f"Class {at} of member {number} of {what} is {one[at]!r}, and that of member 0 "
                f"{given[0][at]!r}: number the classes alike."
            )


def check_weights(weights: Any, count: int, *, what: str) -> np.ndarray:
    """Weights (count,) as float64; all 1 where none are given.

    Raises:
        ValueError: if they are not one finite number from 0 on for each member, or all 0.
    """
    given = np.ones(count) if weights is None else as_array(weights, name=f"weights of {what}")
    if given.dtype.kind not in "fiub":
        raise ValueError(f"Weights of {what} are real numbers, got {given.dtype}: [1, 0.5].")
    found = given.astype(np.float64)
    if found.shape != (count,):
        raise ValueError(
            f"{what} takes one weight for each of {count} members, got shape {found.shape}."
        )
    if not (np.isfinite(found).all() and (found >= 0).all() and found.any()):
        raise ValueError(
            f"Weights of {what} are finite, at least 0 and not all 0, got {found.tolist()}. A "
            "member that should not count has weight 0."
        )
    return unwritable(found)


def as_integers(weights: np.ndarray) -> np.ndarray:
    """Integers in exactly the proportion of float weights; Python's where 64 bits do not do."""
    exact = [Fraction(float(weight)) for weight in weights]
    scale = math.lcm(*(one.denominator for one in exact))
    whole = [int(one * scale) for one in exact]
    divisor = math.gcd(*whole)
    whole = [one // divisor for one in whole]
    return np.array(whole, np.int64 if sum(whole) < 2**62 else object)
