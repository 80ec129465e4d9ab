"""Whether a program is a function of its inputs, the same at each call and for each batch."""

import sys
from collections.abc import Iterator
from typing import Any

import jax.extend.core
from jax.core import ShapedArray

_IMPURE = {
    "pure_callback": "calls back to Python while it runs",
    "io_callback": "calls back to Python while it runs",
    "buffer_callback": "calls back to Python while it runs",
    "rng_bit_generator": "draws numbers that hang on the place of an example in its batch",
    "rng_uniform": "draws other random numbers at every call",
    "ffi_call": "calls machine code, which nobody can look at",
    "call_hi_primitive": "has rules of its own for batches, which may do anything else",
    "call_hi_primitive_linearized": "has rules of its own for batches, which may do anything else",
    "custom_vmap_call": "has a rule of its own for batches, which may do anything else",
    "custom_partitioning": "runs another function where it is split among devices",
    "call_exported": "runs a program that was compiled elsewhere and cannot be looked into",
    "call_tf": "calls TensorFlow",
}


def impurity(jaxpr: Any) -> str:
    """Why a program is no function of its inputs, in words; empty if it is one."""
    for reason in _impurities(jaxpr):
        return reason
    return ""


def _impurities(jaxpr: Any, *, has_refs: bool = False) -> Iterator[str]:
    atoms = [*jaxpr.constvars, *jaxpr.invars]
    for equation in jaxpr.eqns:
        atoms += [*equation.invars, *equation.outvars]
    others = [a.aval for a in atoms if not isinstance(a.aval, ShapedArray)]
    if others and not has_refs:
        yield f"reads or writes a mutable array or a container ({type(others[0]).__name__})"
    if any("rbg" in str(getattr(atom.aval, "dtype", "")) for atom in atoms):
        yield (
            "draws with a key of rbg, whose numbers hang on the place of an example in its batch: "
            "take jax.random.key(seed, impl='threefry2x32')"
        )
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _IMPURE:
            yield f"{_IMPURE[name]} ({name})"
        elif not _is_of_jax(equation.primitive):
            yield f"runs `{name}`, a primitive that is none of JAX's, whose rules may do anything"
        for inner in inner_jaxprs(equation.params):
            # The kernels of Pallas are written with Refs.
            yield from _impurities(inner, has_refs=has_refs or name == "pallas_call")


_OF_JAX: set[int] = set()


def _is_of_jax(primitive: Any) -> bool:
    """Whether this very primitive stands in a module of JAX's; a name can be taken by anybody."""
    if id(primitive) not in _OF_JAX:
        modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] == "jax" and m]
        for module in modules:
            values = list(vars(module).values())
            _OF_JAX.update(id(v) for v in values if isinstance(v, jax.extend.core.Primitive))
    return id(primitive) in _OF_JAX


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The programs inside an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jax.extend.core.Jaxpr):
                yield item
