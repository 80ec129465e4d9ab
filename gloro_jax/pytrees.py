"""Frozen dataclasses that JAX can flatten, map over and rebuild; checksums that notice a map."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

T = TypeVar("T")

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
_SPREAD = np.uint32(0x9E3779B9)
# Multipliers and shifts of MurmurHash3's last step: each bit of a word moves half of the others.
_MIXING = ((16, np.uint32(0x85EBCA6B)), (13, np.uint32(0xC2B2AE35)), (16, np.uint32(1)))


@dataclass_transform(frozen_default=True)
def pytree_dataclass(*, static: Iterable[str] = ()) -> Callable[[type[T]], type[T]]:
    """Makes a class a frozen dataclass and a pytree whose leaves are its fields.

    Rebuilding skips `__init__` and `__post_init__`: JAX rebuilds trees with placeholders that
    are not arrays, and a check there would break `jit` and `tree.map`. Checks belong in
    `__post_init__`, where they meet only what a caller wrote.

    Args:
        static: the fields that are compile-time constants rather than leaves; hashable.

    Returns:
        The decorator.
    """
    meta = tuple(static)

    def decorate(cls: type[T]) -> type[T]:
        decorated: Any = dataclasses.dataclass(frozen=True)(cls)
        names = tuple(f.name for f in dataclasses.fields(decorated) if f.name not in meta)

        def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
            children = [(jax.tree_util.GetAttrKey(n), getattr(node, n)) for n in names]
            return children, tuple(getattr(node, m) for m in meta)

        def flatten(node: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            return tuple(getattr(node, n) for n in names), tuple(getattr(node, m) for m in meta)

        def unflatten(aux: tuple[Any, ...], children: Iterable[Any]) -> T:
            node = object.__new__(decorated)
            for name, value in (*zip(meta, aux, strict=True), *zip(names, children, strict=True)):
                object.__setattr__(node, name, value)
            return node

        jax.tree_util.register_pytree_with_keys(decorated, flatten_with_keys, unflatten, flatten)
        return decorated

    return decorate


def own_dicts(tree: Any) -> Any:
    """A tree with dictionaries of its own; what is in them is the same."""
    return {k: own_dicts(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def mixed_bits(array: Any) -> Any:
    """The bits of each entry, mixed with each other and with its place along the last axis.

    Args:
        array: (..., n), NumPy's, or JAX's and maybe traced.

    Returns:
        uint32 of that shape; (..., n, 2) for entries of 8 bytes.
    """
    array = array.astype(np.uint8) if array.dtype == bool else array
    words, n = _WORDS[array.dtype.itemsize], array.shape[-1]
    module: Any = np if isinstance(array, np.ndarray) else jnp
    if module is np:
        bits = np.ascontiguousarray(array).view(words)
    else:
        bits = jax.lax.bitcast_convert_type(array, words)
    mixed = bits.reshape((*array.shape, -1) if array.size else (*array.shape, 1)).astype(np.uint32)
    places = (module.arange(n, dtype=np.uint32) * _SPREAD)[:, None]
    mixed = mixed ^ module.broadcast_to(places, mixed.shape)
    for shift, multiplier in _MIXING:
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * multiplier
    return mixed[..., 0] if mixed.shape[-1] == 1 else mixed


def checksum(leaves: Sequence[Any]) -> Any:
    """32 bits that a map over arrays changes, () uint32; alike on the host and in a program.

    It guards against accidents, not against someone who computes it anew; unlike a SHA-256 it can
    be computed where the arrays are traced.
    """
    on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
    module = np if on_host else jnp
    flat = [module.asarray(leaf).reshape(-1) for leaf in leaves]
    sums = module.stack([mixed_bits(leaf).sum(dtype=np.uint32) for leaf in flat])
    return mixed_bits(sums).sum(dtype=np.uint32)


def is_deleted(leaf: Any) -> bool:
    """Whether an array is no more: deleted, or donated to a program; False for traced ones."""
    return not isinstance(leaf, Tracer) and getattr(leaf, "is_deleted", bool)()


def refuse_deleted(leaves: Iterable[Any]) -> None:
    """Raises a ValueError if one of a FrozenNet's arrays is no more."""
    if any(map(is_deleted, leaves)):
        raise ValueError(
            "Arrays of this FrozenNet were deleted, or donated to a program (donate_argnums), "
            "which may write over them. Donate other arguments, and load or freeze it again."
        )
