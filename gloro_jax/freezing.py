"""Freeze a network: guaranteed bounds, tied to the weights they were computed from.

`freeze` looks at the network once. Its first pass collects every linear operator as it is
executed; the host bounds each in float64; the second pass traces the network with those operators,
examines the program equation by equation and composes the bounds along it, in float64 with every
product and sum rounded up (`gloro_jax.program`). What comes out is a `FrozenNet`: that program,
those kernels, those bounds, and one digest over all. `certify` accepts nothing else.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from gloro_jax.frozen_net import FrozenNet, assemble
from gloro_jax.gloro import FrozenHead, GloroNet, Head, checked_shape
from gloro_jax.identity import (
    DIGEST_VERSION,
    is_bounded,
    named_leaves,
    path_name,
    shape_differences,
)
from gloro_jax.layers.base import Collect, FrozenLinear, Linear
from gloro_jax.lipschitz.many import norms
from gloro_jax.lipschitz.rounding import float32_up
from gloro_jax.lipschitz.steps import Steps
from gloro_jax.margins import head_distance_bounds
from gloro_jax.platforms import in_32_bits, is_tracing
from gloro_jax.program import trace
from gloro_jax.program.agreement import check_agreement
from gloro_jax.program.narrowing import flushed, narrow
from gloro_jax.program.settle import evaluated
from gloro_jax.program.teaching import taught


@in_32_bits
@taught()
def freeze(
    net: GloroNet,
    variables: Any,
    *,
    input_shape: tuple[int, ...],
    on_progress: Callable[[int], None] | None = None,
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
        The frozen network. Weights too small for a normal float32, which devices may take for 0,
        are 0 in it; `flushed` says how many.

    Raises:
        TypeError: when called inside `jit`, if `net` is not a GloroNet, or if a layer gives an
            Estimate for a bound or a function that can have no constant.
        ValueError: if "params" is missing or belongs to another network, a weight is NaN or
            infinite, a bound overflows, an activation is touched outside `Bounded.apply` and
            `Bounded.add`, or the frozen network computes something else than `net` does.
    """
    if not isinstance(net, GloroNet):
        raise TypeError(f"freeze takes a gj.GloroNet, got {type(net).__name__}.")
    if type(net).__call__ is not GloroNet.__call__:
        raise TypeError(
            f"{type(net).__name__} has a __call__ of its own, which freezing would leave out: what "
            "is frozen is the body and the head. Put what it does into a layer of the body."
        )
    if is_tracing(variables):
        raise TypeError(
            "freeze looks at the weights on the host, so it cannot run inside jit, vmap or grad. "
            "Freeze outside and pass the FrozenNet in: it is a pytree."
        )
    shape = checked_shape(input_shape)
    operators = _collect(net, jax.tree.map(narrow, variables), shape)
    executed, count = flushed(operators)
    # Rounded before they are composed, so that a file's K can be composed again from its norms.
    bounded = _bounded(executed, on_progress or (lambda norms: None))
    tree = jax.tree.map(_in_float32, bounded, is_leaf=is_bounded)
    frozen = assemble(net, tree, input_shape=shape, flushed=count)
    about: Any = {"lipschitz": frozen.lipschitz, "shape": shape}
    check_agreement(net, variables, frozen.program, tree, **about)
    return frozen


@in_32_bits
def check_freezable(net: GloroNet, variables: Any, *, input_shape: tuple[int, ...]) -> None:
    """Raises what `freeze` would raise for this network, without computing norms; in seconds.

    Raises:
        TypeError: if a layer gives an Estimate for a bound, a function that can have no constant,
            or keeps weights to itself.
        ValueError: as `freeze`, for whatever is not a matter of the weights' values.
    """
    steps_of(net, variables, input_shape=input_shape)


@in_32_bits
@taught()
def steps_of(net: GloroNet, variables: Any, *, input_shape: tuple[int, ...]) -> Steps:
    """The steps that a FrozenNet of this network would have, without computing norms.

    Raises:
        TypeError: as `check_freezable`.
        ValueError: as `check_freezable`.
    """
    shape = checked_shape(input_shape)
    executed, _ = flushed(_collect(net, jax.tree.map(narrow, variables), shape))
    tree = _as_if_bounded(executed)
    traced = trace(net, tree, input_shape=shape)
    about: Any = {"lipschitz": float(traced.lipschitz), "shape": shape}
    check_agreement(net, variables, traced.program, tree, **about)
    return traced.program.steps


def executed_arrays(
    net: GloroNet, variables: Any, *, input_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Kernels and biases as executed, by the names that steps use; also inside a program."""
    example = jnp.zeros((1, *input_shape), jnp.float32)
    kept = {name: tree for name, tree in variables.items() if name != "spectral"}
    made = net.apply(kept, example, norms=Collect(), mutable=["operators"])[1]["operators"]
    named = named_leaves(_as_if_bounded(made))
    return {path: leaf for path, leaf in named if not path.endswith(("/norm", "head/distances"))}


def _as_if_bounded(operators: Any) -> Any:
    def bounded(node: Linear | Head) -> FrozenLinear | FrozenHead:
        if isinstance(node, Linear):
            return FrozenLinear(node, np.ones(node.operator.stack_of(), np.float32))
        classes = node.kernel.shape[1]
        return FrozenHead(node, np.ones((classes, classes), np.float32))

    return jax.tree.map(bounded, operators, is_leaf=_is_collected)


@in_32_bits
def from_arrays(
    net: GloroNet,
    arrays: dict[str, np.ndarray],
    *,
    input_shape: tuple[int, ...],
    digest: str,
    digest_version: int = DIGEST_VERSION,
) -> FrozenNet:
    """The FrozenNet whose `arrays()` and `digest` these are.

    Raises:
        ValueError: if names or shapes are not those of `net`, the digest does not match, or K is
            smaller than what the layers of `net` make of the norms, or it has views that a digest
            of version 1 cannot bind.
    """
    template = _template(net, checked_shape(input_shape), digest_version)
    wanted = {path: (leaf.shape, leaf.dtype) for path, leaf in named_leaves(template)}
    given = {path: (array.shape, array.dtype) for path, array in arrays.items()}
    if wanted != given:
        missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
        other = sorted(k for k in wanted.keys() & given.keys() if wanted[k] != given[k])
        raise ValueError(
            "The stored weights do not belong to this network: "
            f"missing {missing}, unknown {extra}, of another shape or type {other}."
        )
    if net.views and digest_version == 1:
        raise ValueError(
            "The stored weights are of an earlier version, whose digest does not bind views, and "
            "this network has some: freeze it again."
        )
    leaves = [arrays[path] for path, _ in named_leaves(template)]
    tree = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return assemble(
        net, tree, input_shape=input_shape, digest=digest, digest_version=digest_version
    )


def _collect(net: GloroNet, variables: Any, shape: tuple[int, ...]) -> Any:
    if not isinstance(variables, Mapping):
        raise TypeError(
            "freeze takes the collections that net.init returned, with the trained params, "
            f"{{'params': ...}}; got {type(variables).__name__}."
        )
    if "params" not in variables:
        raise ValueError(
            f"freeze needs variables['params']; got the collections {sorted(variables)}. Pass "
            "what net.init returned, with the trained params."
        )
    variables = meta.unbox(variables)  # of nn.with_partitioning
    kept = {name: tree for name, tree in variables.items() if name != "spectral"}
    example = jnp.zeros((1, *shape), jnp.float32)
    # Flax does not look at what is left over, say the third of two blocks.
    fresh = meta.unbox(_fresh(net, shape).get("params", {}))
    differences = shape_differences(variables["params"], fresh)
    if differences:
        raise ValueError("variables['params'] is of another network. " + "; ".join(differences))

    def collect(kept: Any) -> Any:
        made = net.apply(kept, example, norms=Collect(), mutable=["operators"])[1]["operators"]
        # Bounded is what runs, and a FrozenNet runs in float32.
        return jax.tree.map(lambda array: array.astype(jnp.float32), made)

    # Most weights are in the tree as they are: nothing to compile, unless a layer computes its own.
    traced = jax.jit(collect).trace(kept)
    leaves = evaluated(traced.jaxpr, jax.tree.leaves(kept))
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), leaves)


def _bounded(operators: Any, on_progress: Callable[[int], None]) -> Any:
    """The tree of operators with the guaranteed bounds of each."""
    flatten = jax.tree_util.tree_flatten_with_path
    named, structure = flatten(operators, is_leaf=_is_collected)
    for path, node in named:
        if any("/" in str(getattr(key, "key", "")) for key in path):
            raise ValueError(
                f"The name of a module on the way to {path_name(path)} holds a slash, so that two "
                "layers could share one path. Take another name."
            )
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


def _fresh(net: GloroNet, shape: tuple[int, ...]) -> Any:
    """The collections that `init` makes, with shapes in place of arrays."""
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(
        lambda key, x: net.init(key, x, norms=Collect()), jax.random.key(0), example
    )


def _template(net: GloroNet, shape: tuple[int, ...], version: int) -> Any:
    """The tree inside a FrozenNet, with shapes in place of arrays."""

    def bounded(node: Linear | Head) -> FrozenLinear | FrozenHead:
        if isinstance(node, Head):
            classes = node.kernel.shape[1]
            return FrozenHead(node, jax.ShapeDtypeStruct((classes, classes), jnp.float32))
        return FrozenLinear(node, jax.ShapeDtypeStruct(node.operator.stack_of(), jnp.float32))

    frozen = jax.tree.map(bounded, _fresh(net, shape)["operators"], is_leaf=_is_collected)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    return {**frozen, "lipschitz": scalar, **({"longest": scalar} if version > 1 else {})}


def _in_float32(node: FrozenLinear | FrozenHead) -> FrozenLinear | FrozenHead:
    """Bounds, float64 so far, rounded up to float32; weights stay as executed."""
    if isinstance(node, FrozenLinear):
        return dataclasses.replace(node, norm=_float32_up(node.norm))
    return dataclasses.replace(node, distances=_float32_up(node.distances))


def _float32_up(bounds: np.ndarray) -> np.ndarray:
    return np.vectorize(float32_up, otypes=[np.float32])(bounds)


def _is_collected(node: Any) -> bool:
    return isinstance(node, Linear | Head)
