"""Doors: where an activation may be touched, marked so that a look at the program finds them.

While a network is being frozen, `Bounded.apply` and `Bounded.add` run their function inside one
named `jax.jit`. In the traced program each of them is then one equation with a name of ours, and
`gloro_jax.program` refuses every other equation that reads an activation or its bound.
"""

import contextlib
import dataclasses
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gloro_jax.lipschitz.purity import impurity, inner_jaxprs
from gloro_jax.lipschitz.rounding import is_finite
from gloro_jax.lipschitz.steps import Step

# An activation, its bound and its seal.
Parts = tuple[Any, Any, Any]

NAME = "gloro_jax_door_"
ANOTHER_ACTIVATION = (
    "the function given to Bounded.apply reads another activation of the network, which it kept "
    "or took from elsewhere. Its Lipschitz constant speaks of its argument alone, so no constant "
    "can be right. Join branches with gj.Bounded.add(a, b) or layers.Residual(branch)"
)


@dataclasses.dataclass(frozen=True)
class Passage:
    """What a door was told, beside the equation that it became.

    Attributes:
        layer: the path and the class of the innermost layer, "body/layers_2 (Softplus)".
        kind: that class.
        step: the function in the words of the certificate format, if it has any.
        constant: its Lipschitz constant; None if an array holds it.
        shapes: of the activations that go in.
        out: the shape of the one that comes out.
        operands: how many its equation has beside the activations' parts.
        is_ours: whether that class is one of this library.
    """

    layer: str
    kind: str
    step: Step | None
    constant: float | None
    shapes: tuple[tuple[int, ...], ...]
    out: tuple[int, ...]
    operands: int
    is_ours: bool


def _is_from_here(fn: Any) -> bool:
    """Whether a function is of this library or of JAX: a layer of ours may be given another."""
    root = str(getattr(fn, "__module__", "")).split(".")[0]
    return root in ("gloro_jax", "jax", "operator", "_operator")


class Doors:
    """The doors of one forward pass, in the order in which they were traced.

    Layers can reach this object, as `x.doors`: what they could change of it is private.
    """

    def __init__(self) -> None:
        self._passages: list[Passage] = []
        self._name = f"{NAME}{uuid.uuid4().hex}_"
        self._place = "the body", "body", False

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Of each door; its equation is called `name` and the place in this tuple."""
        return tuple(self._passages)

    @property
    def name(self) -> str:
        """Like that of no other pass."""
        return self._name

    @property
    def layer(self) -> str:
        """The path and the class of the layer that is being traced."""
        return self._place[0]

    @contextlib.contextmanager
    def _inside(self, layer: str, kind: str, *, is_ours: bool) -> Iterator[None]:
        """What is traced meanwhile belongs to a layer, whose class is `kind`."""
        before, self._place = self._place, (layer, kind, is_ours)
        try:
            yield
        finally:
            self._place = before

    def pass_through(
        self,
        fn: Callable[..., Any],
        parts: Sequence[Parts],
        *,
        constant: Any,
        step: Step | None,
    ) -> Parts:
        """The parts of the activation after `fn`, computed inside one named `jax.jit`.

        Args:
            fn: from the activations to one array with the same batch axis.
            parts: of each activation.
            constant: of `fn`: a Python number, or an array.
            step: what `fn` is, in the words of the certificate format.

        Raises:
            TypeError: if `fn` does not return a float32 array, or is no function of its argument.
            ValueError: if the batch axis changes.
        """
        values, bounds, seals = zip(*parts, strict=True)
        # A new function each time: JAX remembers what it traced, and state of Python's may differ.
        traced, out = jax.make_jaxpr(lambda *values: fn(*values), return_shape=True)(*values)
        check_output(out, values[0].shape)
        self._check_pure(traced, out)
        traced = copied(traced)
        known = constant if isinstance(constant, float) else None
        layer, kind, is_ours = self._place
        is_ours = is_ours and _is_from_here(fn)
        shapes, count = tuple(tuple(v.shape) for v in values), 1 + len(traced.consts)
        told = layer, kind, step, known
        self._passages.append(Passage(*told, shapes, tuple(out.shape), count, is_ours))

        def door(values: Any, bounds: Any, seals: Any, factor: Any, captured: Any) -> Parts:
            run = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(traced.jaxpr, captured))
            (value,) = run(*values)
            # The host composes the bounds; here they only say which activation they belong to. The
            # seal becomes NaN where a function of one's own makes NaN or infinity.
            seal = math.prod(seals) * jnp.float32(1)
            if not is_ours:
                seal = seal * jnp.where(is_finite(value).all(), jnp.float32(1), jnp.nan)
            return value, sum(bounds) * factor, seal

        door.__name__ = f"{self._name}{len(self._passages) - 1}"
        factor = jnp.float32(1) if known is not None else constant
        return jax.jit(door)(values, bounds, seals, factor, traced.consts)

    def _check_pure(self, traced: Any, out: Any) -> None:
        what = f"{self.layer}: the function given to Bounded.apply"
        if axes := {effect for effect in traced.effects if "Axis" in type(effect).__name__}:
            raise TypeError(
                f"{what} reads other entries of a mapped axis ({', '.join(map(str, axes))}), by "
                "psum or the like, so its constant cannot be that of one activation. Compute it "
                "without vmap."
            )
        if reason := impurity(traced.jaxpr):
            raise TypeError(
                f"{what} {reason}, so no Lipschitz constant can be right. Write it with jax.numpy, "
                "as a function of its argument alone."
            )
        if out.dtype != jnp.float32:
            raise TypeError(
                f"{what} returns {out.dtype}. A frozen network is bounded in float32, and what "
                "runs in another type is another network: return v.astype(jnp.float32)."
            )


def copied(closed: Any, change: Callable[[Any], Any] = lambda equation: equation) -> Any:
    """A program whose constants nobody else holds, whatever arrays its code closed over.

    Args:
        closed: the program.
        change: of every equation on the way.
    """
    jaxpr = _copied_jaxpr(closed.jaxpr, change)
    return jax.extend.core.ClosedJaxpr(jaxpr, list(map(_copied_array, closed.consts)))


def _copied_jaxpr(jaxpr: Any, change: Callable[[Any], Any]) -> Any:
    equations = []
    for equation in jaxpr.eqns:
        params = {name: _copied_param(value, change) for name, value in equation.params.items()}
        invars = list(map(_copied_atom, equation.invars))
        equations.append(change(equation.replace(params=params, invars=invars)))
    return jaxpr.replace(eqns=equations, outvars=list(map(_copied_atom, jaxpr.outvars)))


def _copied_param(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, jax.extend.core.ClosedJaxpr):
        return copied(value, change)
    if isinstance(value, jax.extend.core.Jaxpr):
        return _copied_jaxpr(value, change)
    if isinstance(value, tuple | list) and any(True for _ in inner_jaxprs({"": value})):
        items = [_copied_param(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _copied_atom(atom: Any) -> Any:
    if isinstance(atom, jax.extend.core.Literal) and hasattr(atom.val, "dtype"):
        return jax.extend.core.Literal(_copied_array(atom.val), atom.aval)
    return atom


def _copied_array(array: Any) -> Any:
    """An array that cannot change; typed numbers of JAX's keep their type.

    NumPy's memory can be written to, also behind an array of JAX (`jax.device_put`, DLPack), and
    an array of JAX can be donated.
    """
    if isinstance(array, Tracer):
        return array
    if not isinstance(array, jax.Array):
        return np.array(array, getattr(array, "dtype", None))
    with jax.ensure_compile_time_eval():
        if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jnp.array(array, copy=True)
        bits = jnp.array(jax.random.key_data(array), copy=True)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(array))


def check_output(out: Any, shape: tuple[Any, ...]) -> None:
    """Raises unless `out` is one array with the batch axis of `shape`."""
    if hasattr(out, "leave") or not hasattr(out, "shape"):
        raise TypeError(
            "The function given to Bounded.apply maps an array to an array, but returned "
            f"{type(out).__name__}."
        )
    if out.shape[:1] != shape[:1]:
        raise ValueError(
            f"The function given to Bounded.apply must keep the batch axis of {tuple(shape)}, but "
            f"returned shape {tuple(out.shape)}."
        )
