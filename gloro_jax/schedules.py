"""Schedules as one line of text: how epsilon, the TRADES weight and the learning rate move.

The grammar is that of the GloRo reference (klasleino/gloro), read as a function of continuous time:

    [0.1]-[50%:1.5]              linear from 0.1 to 1.5 over the first half, then constant
    [1]-[10:1]-exp-[0.001]       constant for 10 epochs, then exponential to the end
    [1][80%:0.1]                 1, and 0.1 from 80 % on

Each value multiplies a base value. A time is an epoch or a percentage of training; the first value
stands at the start and, where its time is left out, the last one at the end. Between two values
stands `-` (linear), `-exp-`, `-log-`, `-cos-`, or nothing: the earlier one holds until the later
one's time.
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

Kind = Literal["", "-", "-exp-", "-log-", "-cos-"]
Schedule = Callable[[Any], Any]

NAMED: dict[str, str] = {
    "fixed": "[1]",
    "linear": "[0]-[1]",
    "linear_half": "[0]-[50%:1]",
    "linear_decay": "[1]-[0]",
    "linear_decay_after_half": "[1]-[50%:1]-[0]",
    "logarithmic": "[0.01]-log-[1]",
    "logarithmic_half": "[0.01]-log-[50%:1]",
    "decay": "[1]-exp-[0.001]",
    "decay_after_half": "[1]-[50%:1]-exp-[0.001]",
    "cos": "[1]-cos-[0]",
    "cos_after_half": "[1]-[50%:1]-cos-[0]",
    "one_cycle": "[0.04]-cos-[30%:1]-cos-[0]",
}

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_POINT = re.compile(rf"\[(?:({_NUMBER})(%?):)?({_NUMBER})\]")
_LARGEST, _SMALLEST_EXP = 1e6, 1e-9  # beyond, float32 would go astray
_LARGEST_LOG = 50.0  # -log- interpolates exponentials
_KINDS = ("", "-", "-exp-", "-log-", "-cos-")


@dataclasses.dataclass(frozen=True)
class _Point:
    time: float  # in epochs
    value: float
    kind: Kind  # how this point is reached from the one before


def parse_schedule(text: str, *, epochs: int) -> Schedule:
    """The function from time, in epochs since the start, to a factor; traceable by JAX.

    Args:
        text: a name from `NAMED`, or the grammar above.
        epochs: length of training, for percentages and the last point.

    Raises:
        ValueError: if the text does not follow the grammar; the message says where.
    """
    points = _parse(NAMED.get(text, text), text, epochs)

    def schedule(time: Any) -> Any:
        value = jnp.asarray(points[0].value, jnp.float32)
        for earlier, later in itertools.pairwise(points):
            between = _between(earlier, later, time)
            value = jnp.where(time >= earlier.time, between, value)
            value = jnp.where(time >= later.time, later.value, value)
        return value

    return schedule


def check_schedule(
    name: str, text: str, *, epochs: int, must_be_positive: bool = False, most: float = math.inf
) -> None:
    """Raises a ValueError that names the field unless values are from 0 to `most`, or not all 0."""
    try:
        points = _parse(NAMED.get(text, text), text, epochs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if any(p.value < 0 for p in points) or (must_be_positive and not any(p.value for p in points)):
        raise ValueError(f"{name}: the factors of {text!r} must not be negative, nor all 0.")
    if (largest := max(p.value for p in points)) > most:
        raise ValueError(
            f"{name}: the factors of {text!r} are at most {most:g} here, not {largest:g}."
        )


def _between(earlier: _Point, later: _Point, time: Any) -> Any:
    a, b = earlier.value, later.value
    u = jnp.clip((time - earlier.time) / max(later.time - earlier.time, 1e-9), 0.0, 1.0)
    if later.kind == "-":
        return a + (b - a) * u
    if later.kind == "-exp-":
        return a * jnp.exp(u * math.log(b / a))
    if later.kind == "-log-":
        return jnp.log((math.exp(b) - math.exp(a)) * u + math.exp(a))
    if later.kind == "-cos-":
        return b + (a - b) * (1 + jnp.cos(jnp.pi * u)) / 2
    return jnp.full_like(u, a)


def _parse(text: str, original: str, epochs: int) -> list[_Point]:
    matches = list(_POINT.finditer(text))
    gaps = _POINT.split(text)[:: _POINT.groups + 1]  # what stands around and between the points
    if not matches or gaps[0] or gaps[-1] or any(gap not in _KINDS for gap in gaps[1:-1]):
        near = difflib.get_close_matches(original, NAMED) or list(NAMED)
        raise ValueError(
            f"{original!r} is no schedule. Write points joined by -, -exp-, -log-, -cos- or "
            f"nothing, such as [0.1]-[50%:1.5], or a name: {', '.join(near)}."
        )
    points: list[_Point] = []
    for i, (match, kind) in enumerate(zip(matches, gaps[:-1], strict=True)):
        is_last = i == len(matches) - 1
        point = _point(match, kind, original, epochs, is_first=i == 0, is_last=is_last)
        _check_order(points, point, original)
        points.append(point)
    return points


def _point(
    match: re.Match[str], kind: str, original: str, epochs: int, *, is_first: bool, is_last: bool
) -> _Point:
    number, percent, value = match.groups()
    if number is not None:
        time = float(number) * (epochs / 100 if percent else 1)
    elif is_first:
        time = 0.0
    elif is_last:
        time = float(epochs)
    else:
        raise ValueError(f"{match.group()} in {original!r} needs a time, such as [50%:{value}].")
    if not (0 <= time <= epochs and abs(float(value)) <= _LARGEST):
        raise ValueError(
            f"{match.group()} in {original!r}: values are factors up to {_LARGEST:g}, and times "
            f"within the {epochs} epochs of training."
        )
    return _Point(time, float(value), kind)  # type: ignore[arg-type]


def _check_order(points: list[_Point], point: _Point, original: str) -> None:
    if not points:
        return
    earlier = points[-1]
    if point.time < earlier.time:
        raise ValueError(f"The times in {original!r} must not decrease.")
    if point.kind == "-exp-" and not min(earlier.value, point.value) >= _SMALLEST_EXP:
        raise ValueError(
            f"-exp- in {original!r} joins values from {_SMALLEST_EXP:g} upwards, got "
            f"{earlier.value:g} and {point.value:g}."
        )
    if point.kind == "-log-" and max(earlier.value, point.value) > _LARGEST_LOG:
        raise ValueError(f"-log- in {original!r} joins values up to {_LARGEST_LOG:g}.")
