"""Freeze a network: guaranteed bounds, tied to the weights they were computed from.

`freeze` looks at the network once. Its first pass collects every linear operator as it is
executed; the host bounds each in float64; the second pass composes the bounds through the
network's own forward code, in float64 with every product and sum rounded up. What comes out is a
`FrozenNet`: those kernels, those bounds, and one digest over both. `certify` accepts nothing else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.frozen_net import (
    FrozenNet,
    assemble,
    is_bounded,
    named_leaves,
    path_name,
    shape_differences,
)
from gloro_jax.gloro import FrozenHead, GloroNet, Head
from gloro_jax.layers.base import Collect, Frozen, FrozenLinear, Linear
from gloro_jax.lipschitz.many import norms
from gloro_jax.lipschitz.rounding import float32_up
from gloro_jax.margins import head_distance_bounds
from gloro_jax.platforms import is_tracing


def freeze(
    net: GloroNet,
    variables: Any,
    *,
    input_shape: tuple[int, ...],
    on_progress: Callable[[int], None] = lambda norms: None,
) -> FrozenNet:
    """Computes guaranteed bounds for a trained network at one image size.

    Every number is an upper bound with rounding counted: of each operator's norm, of K, and of
    every distance between rows of the head. Power-iteration vectors are neither needed nor read.

    Args:
        net: the network.
        variables: its collections, concrete; "params" is needed.
        input_shape: one image, (H, W, C).
        on_progress: called with 1 after each norm. Where several layers are large, their norms are
            computed in processes beside each other.

    Returns:
        The frozen network.

    Raises:
        TypeError: when called inside `jit`, or if `net` is not a GloroNet.
        ValueError: if "params" is missing or belongs to another network, a weight is NaN or
            infinite, or a bound overflows.
    """
    if not isinstance(net, GloroNet):
        raise TypeError(f"freeze takes a gj.GloroNet, got {type(net).__name__}.")
    if is_tracing(variables):
        raise TypeError(
            "freeze looks at the weights on the host, so it cannot run inside jit, vmap or grad. "
            "Freeze outside and pass the FrozenNet in: it is a pytree."
        )
    shape = _checked_shape(input_shape)
    operators = _collect(net, variables, shape)
    # Rounded before they are composed, so that a file's K can be composed again from its norms.
    bounded = _bounded(operators, on_progress)
    frozen = jax.tree.map(_in_float32, bounded, is_leaf=is_bounded)
    lipschitz = float32_up(_compose(net, frozen, shape))
    if not np.isfinite(lipschitz):
        raise ValueError(
            f"The network's Lipschitz bound is {lipschitz}, so nothing could be certified. Either "
            "it overflows float32: check the scale of the weights. Or jax.tree.map was applied to "
            "a Bounded, which changes value and bound alike: use x.apply(fn, lipschitz=c)."
        )
    frozen["lipschitz"] = np.asarray(lipschitz)
    return assemble(net, frozen, input_shape=shape)


def from_arrays(
    net: GloroNet, arrays: dict[str, np.ndarray], *, input_shape: tuple[int, ...], digest: str
) -> FrozenNet:
    """The FrozenNet whose `arrays()` and `digest` these are.

    Raises:
        ValueError: if names or shapes are not those of `net`, or the digest does not match.
    """
    template = _template(net, _checked_shape(input_shape))
    wanted = {path: (leaf.shape, leaf.dtype) for path, leaf in named_leaves(template)}
    given = {path: (array.shape, array.dtype) for path, array in arrays.items()}
    if wanted != given:
        missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
        other = sorted(k for k in wanted.keys() & given.keys() if wanted[k] != given[k])
        raise ValueError(
            "The stored weights do not belong to this network: "
            f"missing {missing}, unknown {extra}, of another shape or type {other}."
        )
    leaves = [arrays[path] for path, _ in named_leaves(template)]
    tree = jax.tree.unflatten(jax.tree.structure(template), leaves)
    frozen = assemble(net, tree, input_shape=input_shape, digest=digest)
    # Layers without weights leave no trace in the file, and their constants may differ.
    body = {name: node for name, node in tree.items() if name != "lipschitz"}
    if frozen.lipschitz < float32_up(_compose(net, body, input_shape)):
        raise ValueError(
            "The stored Lipschitz bound is too small for this network: its layers without weights "
            "are not those that were frozen. Freeze it again."
        )
    return frozen


def _checked_shape(input_shape: Any) -> tuple[int, ...]:
    shape = tuple(int(n) for n in input_shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"input_shape is the shape of one image, (H, W, C); got {input_shape!r}.")
    return shape


def _collect(net: GloroNet, variables: Any, shape: tuple[int, ...]) -> Any:
    if "params" not in variables:
        raise ValueError(
            f"freeze needs variables['params']; got the collections {sorted(variables)}. Pass "
            "what net.init returned, with the trained params."
        )
    kept = {name: tree for name, tree in variables.items() if name != "spectral"}
    example = jnp.zeros((1, *shape), jnp.float32)
    # Flax does not look at what is left over, say the third of two blocks.
    differences = shape_differences(variables["params"], _fresh(net, shape).get("params", {}))
    if differences:
        raise ValueError("variables['params'] is of another network. " + "; ".join(differences))

    def collect(kept: Any) -> Any:
        made = net.apply(kept, example, norms=Collect(), mutable=["operators"])[1]["operators"]
        # Bounded is what runs, and a FrozenNet runs in float32.
        return jax.tree.map(lambda array: array.astype(jnp.float32), made)

    return jax.jit(collect)(kept)


def _bounded(operators: Any, on_progress: Callable[[int], None]) -> Any:
    """The tree of operators with the guaranteed bounds of each."""
    flatten = jax.tree_util.tree_flatten_with_path
    named, structure = flatten(operators, is_leaf=_is_collected)
    for path, node in named:
        if not all(np.isfinite(np.asarray(array)).all() for array in jax.tree.leaves(node)):
            raise ValueError(
                f"The weights of {path_name(path)} hold NaN or infinite entries, so nothing can "
                "be certified. Did training diverge?"
            )
    linear = [node.operator for _, node in named if isinstance(node, Linear)]
    found = iter(norms(linear, on_progress=on_progress))
    bounded = [
        FrozenHead(node, head_distance_bounds(np.asarray(node.kernel)))
        if isinstance(node, Head)
        else FrozenLinear(node, next(found))
        for _, node in named
    ]
    return jax.tree.unflatten(structure, bounded)


def _compose(net: GloroNet, frozen: Any, shape: tuple[int, ...]) -> float:
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        tree = jax.tree.map(_bounds_in_float64, frozen, is_leaf=is_bounded)
        example = jnp.zeros((1, *shape), jnp.float32)

        def bound(frozen: Any) -> Any:
            logits: Any = net.apply({"frozen": frozen}, example, norms=Frozen())
            return logits.lipschitz.value

        return float(jax.jit(bound)(tree))


def _fresh(net: GloroNet, shape: tuple[int, ...]) -> Any:
    """The collections that `init` makes, with shapes in place of arrays."""
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(
        lambda key, x: net.init(key, x, norms=Collect()), jax.random.key(0), example
    )


def _template(net: GloroNet, shape: tuple[int, ...]) -> Any:
    """The tree inside a FrozenNet, with shapes in place of arrays."""

    def bounded(node: Linear | Head) -> FrozenLinear | FrozenHead:
        if isinstance(node, Head):
            classes = node.kernel.shape[1]
            return FrozenHead(node, jax.ShapeDtypeStruct((classes, classes), jnp.float32))
        kernel = node.operator.kernel
        lead = kernel.shape[: kernel.ndim - node.operator.kernel_ndim]
        return FrozenLinear(node, jax.ShapeDtypeStruct(lead, jnp.float32))

    frozen = jax.tree.map(bounded, _fresh(net, shape)["operators"], is_leaf=_is_collected)
    return {**frozen, "lipschitz": jax.ShapeDtypeStruct((), jnp.float32)}


def _bounds_in_float64(node: FrozenLinear | FrozenHead) -> FrozenLinear | FrozenHead:
    """Norms in float64, so that products of them are; weights as they are."""
    if isinstance(node, FrozenLinear):
        return dataclasses.replace(node, norm=np.asarray(node.norm, np.float64))
    return node


def _in_float32(node: FrozenLinear | FrozenHead) -> FrozenLinear | FrozenHead:
    """Bounds, float64 so far, rounded up to float32; weights stay as executed."""
    if isinstance(node, FrozenLinear):
        return dataclasses.replace(node, norm=_float32_up(node.norm))
    return dataclasses.replace(node, distances=_float32_up(node.distances))


def _float32_up(bounds: np.ndarray) -> np.ndarray:
    return np.vectorize(float32_up, otypes=[np.float32])(bounds)


def _is_collected(node: Any) -> bool:
    return isinstance(node, Linear | Head)
