"""Doors: where an activation may be touched, marked so that a look at the program finds them.

While a network is being frozen, `Bounded.apply` and `Bounded.add` run their function inside one
named `jax.jit`. In the traced program each of them is then one equation with a name of ours, and
`gloro_jax.program` refuses every other equation that reads an activation or its bound.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from gloro_jax.lipschitz.steps import Step

# An activation, its bound and its seal.
Parts = tuple[Any, Any, Any]

NAME = "gloro_jax_door_"
_HOST = ("pure_callback", "io_callback")

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
    """

    layer: str
    kind: str
    step: Step | None
    constant: float | None
    shapes: tuple[tuple[int, ...], ...]
    out: tuple[int, ...]
    operands: int

    @property
    def is_of_ones_own(self) -> bool:
        """Whether it is a function without a name in the certificate format."""
        return self.step is None and len(self.shapes) == 1


class Doors:
    """The doors of one forward pass, in the order in which they were traced.

    Attributes:
        passages: of each door; its equation is called `NAME` and the place in this list.
        layer: the path and the class of the layer that is being traced, which whoever traces sets.
        kind: that class.
    """

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self.layer = self.kind = "the body"

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
            TypeError: if `fn` does not return an array, talks to the host or to another device.
            ValueError: if the batch axis changes.
        """
        values, bounds, seals = zip(*parts, strict=True)
        traced, out = jax.make_jaxpr(fn, return_shape=True)(*values)
        check_output(out, values[0].shape)
        self._check_pure(traced)
        is_number = isinstance(constant, float)
        shapes = tuple(tuple(value.shape) for value in values)
        known = constant if is_number else None
        count = 1 + len(traced.consts)
        passage = Passage(self.layer, self.kind, step, known, shapes, tuple(out.shape), count)
        self.passages.append(passage)

        def door(values: Any, bounds: Any, seals: Any, factor: Any, captured: Any) -> Parts:
            run = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(traced.jaxpr, captured))
            (value,) = run(*values)
            # The host composes the bounds; here they only say which activation they belong to.
            return value, sum(bounds) * factor, sum(seals) * jnp.float32(1)

        door.__name__ = f"{NAME}{len(self.passages) - 1}"
        factor = jnp.float32(1) if is_number else constant
        return jax.jit(door)(values, bounds, seals, factor, traced.consts)

    def _check_pure(self, traced: Any) -> None:
        if axes := {effect for effect in traced.effects if "Axis" in type(effect).__name__}:
            raise TypeError(
                f"{self.layer}: the function given to Bounded.apply reads other entries of a "
                f"mapped axis ({', '.join(map(str, axes))}), by psum or the like, so its "
                "constant cannot be that of one activation. Compute it without vmap."
            )
        if {primitive for primitive in _primitives(traced.jaxpr) if primitive in _HOST}:
            raise TypeError(
                f"{self.layer}: the function given to Bounded.apply calls back to Python while it "
                "runs (pure_callback or io_callback). What comes back may depend on anything, so "
                "no Lipschitz constant can be right. Write it with jax.numpy."
            )


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


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The programs inside an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jax.extend.core.Jaxpr):
                yield item


def _primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in inner_jaxprs(equation.params):
            yield from _primitives(inner)
