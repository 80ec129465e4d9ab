"""Properties, and the text that says them, a line each.

    # where it speaks: how scores are ordered
    always: y0 < y1 < y2 or not max y3
    x[0] in [0.2, 0.5], x[3] >= 1: max y4
    sum x <= 3, class in {0, 2}: min y1 and y2 < y3

What stands before the colon holds together; after it, `and` binds closer than `or`.
"""

import dataclasses
import re
from collections.abc import Callable

from gloro_jax.repair.orders import (
    Order,
    all_of,
    any_of,
    below,
    is_maximal,
    is_minimal,
    is_not_maximal,
    is_not_minimal,
)
from gloro_jax.repair.preconditions import (
    AllOf,
    Always,
    InBox,
    Precondition,
    PredictedIn,
    SumIn,
)

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = rf"(?:in\s*\[\s*(?P<low>{_NUMBER})\s*,\s*(?P<high>{_NUMBER})\s*\]|(?P<side><=|>=)\s*(?P<at>{_NUMBER}))"  # noqa: E501
_FEATURE = re.compile(rf"x\[\s*(?P<feature>\d+)\s*\]\s*{_RANGE}")
_SUM = re.compile(rf"sum\s+x\s*{_RANGE}")
_CLASS = re.compile(r"class\s+in\s*\{\s*(?P<classes>\d+(?:\s*,\s*\d+)*)\s*\}")
_CHAIN = re.compile(r"y\d+(?:\s*[<>]\s*y\d+)+")
_EXTREME = re.compile(r"(?P<not>not\s+)?(?P<which>max|min)\s+y(?P<label>\d+)")
_EXTREMES: dict[tuple[bool, str], Callable[..., Order]] = {
    (False, "max"): is_maximal,
    (False, "min"): is_minimal,
    (True, "max"): is_not_maximal,
    (True, "min"): is_not_minimal,
}


@dataclasses.dataclass(frozen=True)
class Property:
    """Where the input is so, scores are ordered so.

    Attributes:
        when: the precondition.
        then: the order of scores.
    """

    when: Precondition
    then: Order


def parse(text: str, *, num_classes: int) -> tuple[Property, ...]:
    """Properties from text, a line each, "where: order".

    Where: always, x[3] >= 1, x[0] in [0.2, 0.5], sum x <= 3, class in {0, 2}, or several of them
    joined by commas. Order: y0 < y1 < y2, max y3, min y1, not max y3, joined by `and` and `or`;
    `and` binds closer, and there are no parentheses.

    Raises:
        ValueError: if a line is none; it names the line and what was expected.
    """
    if not isinstance(text, str):
        raise TypeError(f"Properties are text, a line each; got {type(text).__name__}.")
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        when, colon, then = words.partition(":")
        try:
            if not colon:
                raise ValueError("A property is WHERE: ORDER, with a colon")
            if told := [int(n) for n in re.findall(r"\by(\d+)", then) if int(n) >= num_classes]:
                raise ValueError(f"there is no y{told[0]}: scores are y0 to y{num_classes - 1}")
            found.append(Property(_when(when.strip()), _then(then.strip(), num_classes)))
        except ValueError as error:
            raise ValueError(f"Line {number}, {words!r}: {error}") from None
    return tuple(found)


def _when(words: str) -> Precondition:
    if words == "always":
        return Always()
    parts = [_part(one.strip()) for one in re.split(r",(?![^\[{]*[\]}])", words)]
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _part(words: str) -> Precondition:
    if found := _FEATURE.fullmatch(words):
        return InBox(((int(found["feature"]), *_limits(found)),))
    if found := _SUM.fullmatch(words):
        return SumIn(*_limits(found))
    if found := _CLASS.fullmatch(words):
        return PredictedIn([int(label) for label in found["classes"].split(",")])
    raise ValueError(
        "where it speaks is always, x[0] in [0, 1], x[0] <= 1, sum x >= 2, or class in {0, 1}, "
        f"joined by commas; got {words!r}."
    )


def _limits(found: re.Match[str]) -> tuple[float, float]:
    if found["low"]:
        return float(found["low"]), float(found["high"])
    at, infinity = float(found["at"]), float("inf")
    return (-infinity, at) if found["side"] == "<=" else (at, infinity)


def _then(words: str, num_classes: int) -> Order:
    choices = [
        all_of(*(_atom(atom.strip(), num_classes) for atom in re.split(r"\band\b", one)))
        for one in re.split(r"\bor\b", words)
    ]
    return any_of(*choices)


def _atom(words: str, num_classes: int) -> Order:
    if found := _EXTREME.fullmatch(words):
        made = _EXTREMES[bool(found["not"]), found["which"]]
        return made(int(found["label"]), num_classes=num_classes)
    if _CHAIN.fullmatch(words):
        labels, signs = [int(n) for n in re.findall(r"\d+", words)], re.findall(r"[<>]", words)
        pairs = zip(labels, labels[1:], signs, strict=False)
        return all_of(*(below(a, b) if sign == "<" else below(b, a) for a, b, sign in pairs))
    raise ValueError(
        f"an order is y0 < y1 < y2, max y3, min y3 or not max y3, joined by and, or; got {words!r}."
    )
