"""What makes a network the one it is: a digest of its numbers and steps, a layout of its layers."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gloro_jax.gloro import FrozenHead
from gloro_jax.layers.base import FrozenLinear
from gloro_jax.lipschitz.steps import Steps

# A version of the digest says what it binds: 1 the weights, their geometry and the bounds; 2 also
# the steps, so that layers without weights cannot be exchanged under one digest.
DIGEST_VERSION = 2


def layout_of(value: Any) -> Any:
    """The layers of a network and their options, to compare with those of another time."""
    if isinstance(value, str | bytes | bool | int | complex | None):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, list | tuple):
        return type(value), tuple(map(layout_of, value))
    if isinstance(value, Mapping):
        return type(value), tuple((key, layout_of(item)) for key, item in value.items())
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (f.name for f in dataclasses.fields(value) if f.name not in ("parent", "name"))
        return type(value), tuple((name, layout_of(getattr(value, name))) for name in names)
    return _ByIdentity(value)


def digest_of(frozen: Any, input_shape: tuple[int, ...], steps: Steps | None) -> np.ndarray:
    """SHA-256 over the image size, each operator's geometry, every leaf and the steps, uint32[8].

    Args:
        frozen: the frozen tree.
        input_shape: one image.
        steps: of the body; None for a digest of version 1, which leaves them out.
    """
    sha = hashlib.sha256(repr(tuple(input_shape)).encode())
    if steps is not None:
        plain = json.dumps([step.plain() for step in steps], sort_keys=True, default=_number)
        sha.update(f"gloro-jax digest {DIGEST_VERSION} {plain}".encode())
    for path, node in named_nodes(frozen):
        if isinstance(node, FrozenLinear):
            operator: Any = node.linear.operator
            static = {
                field.name: getattr(operator, field.name)
                for field in dataclasses.fields(operator)
                if field.name not in operator.array_ndims
            }
            sha.update(f"{path} {type(operator).__name__} {static}".encode())
    for path, leaf in named_leaves(frozen):
        if path == "longest" and steps is None:
            continue
        array = np.asarray(leaf)
        sha.update(f"{path} {array.shape} {array.dtype}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return digest_words(sha.digest())


def _number(option: Any) -> Any:
    """A number of NumPy's among a step's options, for JSON."""
    if isinstance(option, np.generic):
        return option.item()
    raise TypeError(
        f"A Step holds numbers, text and lists of them, got {type(option).__name__}: {option!r}."
    )


def digest_words(digest: bytes) -> np.ndarray:
    """A SHA-256 as uint32[8], the form it has as a leaf or an output of a program."""
    return np.frombuffer(digest, ">u4").astype(np.uint32)


def digest_text(words: Any) -> str:
    """Such words in hexadecimal."""
    return np.asarray(words).astype(">u4").tobytes().hex()


def named_nodes(frozen: Any) -> list[tuple[str, Any]]:
    """Every frozen operator and the head with its path."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(frozen, is_leaf=is_bounded)
    return [(path_name(path), node) for path, node in pairs]


def named_leaves(frozen: Any) -> list[tuple[str, Any]]:
    """Every leaf with its path, "body/conv1/linear/bias"."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(frozen)
    return [(path_name(path), leaf) for path, leaf in pairs]


def shape_differences(given: Any, wanted: Any) -> list[str]:
    """Where two trees of arrays differ in names or shapes, a line each."""
    found, meant = ({name: np.shape(a) for name, a in named_leaves(t)} for t in (given, wanted))
    names = sorted(k for k in meant.keys() | found if meant.get(k) != found.get(k))
    return [f"{k}: {found.get(k, 'none')}, wanted {meant.get(k, 'none')}" for k in names]


def path_name(path: Any) -> str:
    """A key path as text."""
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)


def is_bounded(node: Any) -> bool:
    """Whether a node carries guaranteed bounds."""
    return isinstance(node, FrozenLinear | FrozenHead)


class _ByIdentity:
    """An object without a form of its own, compared by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
