"""Frozen dataclasses that JAX can flatten, map over and rebuild."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


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
