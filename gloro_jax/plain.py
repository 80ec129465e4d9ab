"""Plain data, as JSON knows it, into config dataclasses and out of them; nothing is executed."""

import dataclasses
import difflib
import numbers
import types
import typing
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from jax.core import Tracer


def as_array(value: Any, *, name: str) -> np.ndarray:
    """An array of NumPy's.

    Raises:
        TypeError: if it is traced, or has a mask.
        ValueError: if it is none, a list of rows of different lengths say.
    """
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name} is looked at on the host, and here it is traced: call this outside jit, or "
            "give it an array of NumPy."
        )
    if np.ma.isMaskedArray(value):
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored: leave out what it masks."
        )
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        raise ValueError(
            f"{name} is no array of numbers: its rows may differ in length, got {str(value)[:60]}."
        ) from None


def check_comparable(value: Any, *, what: str) -> None:
    """Raises a TypeError unless a program compiled for `value` is one for all that equal it."""
    # Of the class itself: what a subclass adds without the decorator, no comparison sees.
    options: Any = vars(type(value)).get("__dataclass_params__")
    kind = type(value).__name__
    if options is None or not options.frozen:
        raise TypeError(
            f"{what} of one's own is a frozen dataclass, and {kind} is none: what is compiled for "
            "one must not change with its fields."
        )
    if hidden := [f.name for f in dataclasses.fields(value) if not f.compare or f.hash is False]:
        raise TypeError(
            f"Fields of {kind} are left out of its comparison: {hidden}. A program compiled for "
            "one value of them would answer for another: leave out compare=False and hash=False."
        )


def unwritable(array: np.ndarray) -> np.ndarray:
    """A copy of an array whose memory cannot be made writable again (`setflags`): it is bytes."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape) if array.size else array


def from_plain(cls: Any, plain: Any, *, where: str = "config") -> Any:
    """A config dataclass from what `json.loads` returned, strictly.

    Raises:
        ValueError: if a field is unknown (the near ones are named) or has the wrong type.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"{where} must be an object, got {plain!r}.")
    fields = typing.get_type_hints(cls)
    for name in plain:
        if name not in fields:
            near = difflib.get_close_matches(name, fields) or sorted(fields)
            raise ValueError(f"{where} has no field {name!r}; did you mean {', '.join(near)}?")
    values = {
        name: _typed(fields[name], value, where=f"{where}.{name}") for name, value in plain.items()
    }
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}.") from None


def settle(config: Any) -> None:
    """Makes the fields of a frozen config dataclass what their annotations say; for __post_init__.

    NumPy's numbers become Python's, which JSON can hold, and a float may be a fraction such as
    "36/255".

    Raises:
        ValueError: if a field is none of the words or of the kind of number that it may be.
    """
    kinds = typing.get_type_hints(type(config))
    for name in (field.name for field in dataclasses.fields(config)):
        kind, value = kinds[name], getattr(config, name)
        if isinstance(value, np.generic):
            value = value.item()
        if typing.get_origin(kind) is Literal and value not in (choices := typing.get_args(kind)):
            raise ValueError(f"{name} is one of {list(choices)}, got {value!r}.")
        if kind is bool and not isinstance(value, bool):
            raise ValueError(f"{name} is True or False, got {value!r}.")
        if kind in (int, float):
            value = _settled_number(name, kind, value)
        object.__setattr__(config, name, value)


def _settled_number(name: str, kind: type, value: Any) -> int | float:
    if kind is float and isinstance(value, str):
        try:
            return number(value)
        except ValueError:
            raise ValueError(f"{name} is a number such as 0.3 or 36/255, got {value!r}.") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is a number, got {value!r}.")
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{name} is a whole number, got {value!r}.")
    try:
        return kind(value)
    except OverflowError:
        raise ValueError(f"{name} is larger than any float.") from None


def check_fields(module: Any) -> None:
    """Looks at those fields of a layer whose annotation is a kind of number or a choice of words.

    Raises:
        TypeError: if one is of another kind.
        ValueError: if a word is none of the choices, or a number of features or groups is below 1.
    """
    what = type(module).__name__
    for field in dataclasses.fields(module):
        kind, name, value = field.type, field.name, getattr(module, field.name)
        if typing.get_origin(kind) is Literal and value not in (choices := typing.get_args(kind)):
            raise ValueError(f"{name} of {what} is one of {list(choices)}, got {value!r}.")
        if isinstance(kind, types.UnionType):
            others = [part for part in typing.get_args(kind) if part is not type(None)]
            if value is None or len(others) > 1:
                continue
            kind = others[0]  # int | None
        wanted = _KINDS.get(kind) if isinstance(kind, type) else None
        is_stray = isinstance(value, bool) and kind is not bool  # Python counts it as a number
        if wanted and (is_stray or not isinstance(value, wanted[0])):
            raise TypeError(f"{name} of {what} is {wanted[1]}, got {value!r}.")
        if name in ("features", "groups") and kind is int and value < 1:
            raise ValueError(f"{name} of {what} is at least 1, got {value}.")
        is_ours = type(module).__module__.startswith("gloro_jax.")
        if is_ours and name.endswith("_init") and not callable(value):
            raise TypeError(f"{name} of {what} is an initialiser of jax.nn, got {value!r}.")


_KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
}


def number(text: Any) -> float:
    """A number, or one from text, which may be a fraction, for the field's radii are: 36/255.

    Raises:
        ValueError: if it is none.
    """
    try:
        if isinstance(text, bool | np.bool_ | bytes):
            raise TypeError
        return float(exact(text) if isinstance(text, str) and "/" in text else text)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{text!r} is no number such as 0.3 or 36/255") from None


def exact(value: int | float | str | Fraction) -> Fraction:
    """The number as a fraction, exactly.

    Raises:
        ValueError: if it is none, or text of more digits or a larger exponent than a float has.
        OverflowError: if it is infinite.
        ZeroDivisionError: of text that divides by zero.
    """
    if isinstance(value, str):
        exponent = value.lower().partition("e")[2].strip().lstrip("+-").lstrip("0")
        if len(value) > 1000 or len(exponent) > 3:  # 1e999999999 would take the machine's memory
            raise ValueError(f"{value[:50]!r} is beyond what a float can hold")
    return Fraction(value.item() if isinstance(value, np.generic) else value)


def in_words(value: float) -> str:
    """A radius as people write it: 36/255 where it is that very number, else six digits."""
    short, levels = f"{value:g}", round(value * 255) if 0 < value < 10 else 0
    if float(short) != value and levels and levels / 255 == value:
        return f"{levels}/255"
    return short


def brief(self: Any) -> str:
    """A dataclass in a few lines, arrays as their type and shape; serves as its `__repr__`."""
    fields = [field for field in dataclasses.fields(self) if field.repr]
    parts = [f"{field.name}={_short(getattr(self, field.name))}" for field in fields]
    return f"{type(self).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"{value.dtype} {value.shape}"
    if isinstance(value, list | tuple | dict) and len(value) > 8:
        return f"{type(value).__name__} of {len(value)}"
    words = " ".join(repr(value).split())
    return words if len(words) <= 240 else words[:240] + " ..."


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data as one level, "training.augmentation.crop": 4."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        path: leaf
        for name, value in tree.items()
        for path, leaf in flat(value, f"{prefix}.{name}" if prefix else name).items()
    }


def _typed(kind: Any, value: Any, *, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_plain(kind, value, where=where)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_typed(k, v, where=where) for k, v in zip(kinds, value, strict=True))
    elif origin is Literal and value in arguments:
        return value
    elif origin in (typing.Union, types.UnionType) and type(None) in arguments:
        rest = [kind for kind in arguments if kind is not type(None)]
        if value is None or len(rest) == 1:
            return None if value is None else _typed(rest[0], value, where=where)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind in (int, bool, str) and type(value) is kind:
        return value
    rule = f"one of {list(arguments)}" if origin is Literal else str(kind)
    raise ValueError(f"{where} must be {rule}, got {value!r}.")
