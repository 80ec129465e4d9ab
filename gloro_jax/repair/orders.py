"""Safe orders of scores: disjunctions of conjunctions of y_a < y_b."""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Iterable
from typing import Any

Pair = tuple[int, int]  # (a, b) says y_a < y_b
MOST_COMBINATIONS = 2**14


@dataclasses.dataclass(frozen=True)
class Order:
    """Orders of scores of which one must hold.

    Attributes:
        choices: each a set of pairs (a, b), y_a < y_b, that hold together.

    Raises:
        ValueError: if there is no choice, a class is negative, or the pairs of a choice run in a
            circle, which no scores can follow.
    """

    choices: tuple[frozenset[Pair], ...]

    def __post_init__(self) -> None:
        found = tuple(dict.fromkeys(frozenset(map(_pair, one)) for one in self.choices))
        if not found:
            raise ValueError("An Order has at least one choice, and got none.")
        for one in found:
            if any(min(pair) < 0 for pair in one):
                raise ValueError(f"Classes are numbers from 0 on, got {sorted(one)}.")
            if circle := cycle_in(one):
                raise ValueError(f"No scores are so ordered: {in_words(circle)} is a circle.")
        object.__setattr__(self, "choices", found)

    def __and__(self, other: "Order") -> "Order":
        """Both, by all pairs of choices; of those that contradict each other, none is kept."""
        return all_of(self, other)

    def __or__(self, other: "Order") -> "Order":
        """One of both."""
        return any_of(self, other)

    @property
    def largest_class(self) -> int:
        """The largest class that is named; -1 if none is."""
        return max((max(pair) for one in self.choices for pair in one), default=-1)


def below(*classes: int) -> Order:
    """y_a < y_b < y_c ... for classes a, b, c ...

    Raises:
        ValueError: if there are fewer than two, or one comes twice.
    """
    if len(classes) < 2:
        raise ValueError(f"below takes at least two classes, got {list(classes)}.")
    return Order((frozenset(itertools.pairwise(classes)),))


def is_maximal(label: int, *, num_classes: int) -> Order:
    """Score `label` exceeds every other."""
    return Order((frozenset((other, label) for other in _others(label, num_classes)),))


def is_minimal(label: int, *, num_classes: int) -> Order:
    """Score `label` is below every other."""
    return Order((frozenset((label, other) for other in _others(label, num_classes)),))


def is_not_maximal(label: int, *, num_classes: int) -> Order:
    """Some score exceeds score `label`."""
    return any_of(*(below(label, other) for other in _others(label, num_classes)))


def is_not_minimal(label: int, *, num_classes: int) -> Order:
    """Some score is below score `label`."""
    return any_of(*(below(other, label) for other in _others(label, num_classes)))


def any_of(*orders: Order) -> Order:
    """One of several orders holds."""
    return Order(tuple(choice for order in orders for choice in order.choices))


def all_of(*orders: Order) -> Order:
    """All of several orders hold, by all combinations of their choices.

    Raises:
        ValueError: if every combination contradicts itself; it names a circle.
    """
    count = math.prod(len(order.choices) for order in orders)
    if count > MOST_COMBINATIONS:
        raise ValueError(
            f"These orders have {count} combinations of choices, more than {MOST_COMBINATIONS}: "
            "say them with fewer alternatives, or as properties of their own."
        )
    unions = [frozenset().union(*some) for some in itertools.product(*(o.choices for o in orders))]
    kept = tuple(union for union in unions if not cycle_in(union))
    if not kept:
        circle = cycle_in(unions[0])
        raise ValueError(
            f"These orders contradict each other: {in_words(circle)} is a circle"
            f"{', and so it is for every other choice' if len(unions) > 1 else ''}."
        )
    return Order(kept)


def cycle_in(pairs: Iterable[Pair]) -> list[int]:
    """Classes that pairs order in a circle, each below the next; [] if there is none."""
    above: dict[int, list[int]] = {}
    for a, b in sorted(pairs):
        above.setdefault(a, []).append(b)
    done: set[int] = set()
    for start, following in above.items():
        path, pending = [start], [iter(following)]
        while path:
            node = next(pending[-1], None)
            if node is None:  # everything above it has been looked at
                done.add(path.pop())
                pending.pop()
            elif node in path:
                return path[path.index(node) :]
            elif node not in done:
                path.append(node)
                pending.append(iter(above.get(node, [])))
    return []


def in_words(circle: list[int]) -> str:
    """y1 < y2 < y1."""
    return " < ".join(f"y{label}" for label in [*circle, *circle[:1]])


def _pair(pair: Any) -> Pair:
    if len(pair) != 2 or not all(isinstance(label, numbers.Integral) for label in pair):
        raise ValueError(f"An order is of pairs of class numbers (a, b), y_a < y_b; got {pair!r}.")
    return int(pair[0]), int(pair[1])


def _others(label: int, num_classes: int) -> list[int]:
    if not 0 <= label < num_classes or num_classes < 2:
        raise ValueError(f"Class {label} is none of {num_classes} classes, or the only one.")
    return [other for other in range(num_classes) if other != label]
