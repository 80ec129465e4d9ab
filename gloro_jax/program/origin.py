"""Whose code a module is: the names that a class gives of itself can be anybody's."""

import dataclasses
import sys
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Fraction, np.ndarray, np.generic)


def is_of_this_library(kind: type) -> bool:
    """Whether a class stands under its name in a module of this library."""
    name = kind.__module__
    place: Any = sys.modules.get(name) if name.split(".")[0] == "gloro_jax" else None
    for part in kind.__qualname__.split("."):
        place = getattr(place, part, None)
    return place is kind


def is_known_through(module: Any) -> bool:
    """Whether a module, or a config, and all in its fields are this library's, or nn.Sequential.

    Functions, and objects of other kinds, are not known: they may do anything.
    """
    kind = type(module)
    if dataclasses.is_dataclass(kind):
        names = {f.name for f in dataclasses.fields(module) if f.name != "parent"}
        # Initialisers make weights, which are there already.
        fields = [getattr(module, name) for name in names if not name.endswith("_init")]
        is_known = kind is nn.Sequential or is_of_this_library(kind)
        return is_known and all(map(is_known_through, fields))
    if isinstance(module, tuple | list):
        return all(map(is_known_through, module))
    return isinstance(module, (*_PLAIN, jax.Array))
