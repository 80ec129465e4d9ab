"""A value that carries its own Lipschitz bound, so that no layer can forget it.

A `Bounded` deliberately is not an array: `jnp.tanh(x)`, `nn.Dense(8)(x)`, `x + 1` and `if x:`
raise while tracing. The one way to transform it is `apply`, which asks for the Lipschitz constant
of what it applies; `add` joins branches.

The bound is with respect to the network's input, in the l2 norm over all axes but the first:
moving the input of example i by d moves `value[i]` by at most `lipschitz * d`.
"""

import operator
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gloro_jax.lipschitz.doors import Doors, Parts, check_output
from gloro_jax.lipschitz.norms import Estimate, UpperBound, bound_number, is_bound
from gloro_jax.lipschitz.rounding import add_up, float32_up, multiply_up
from gloro_jax.lipschitz.steps import Step
from gloro_jax.pytrees import pytree_dataclass

Kind = Literal["estimate", "upper"]
Constant = int | float | Estimate | UpperBound

# jax.tree.map(fn, x) would apply fn to the value and to the bound. It then also changes this leaf,
# and a bound with a changed seal is NaN, which certifies nothing. A function that leaves it alone
# is found when the network is frozen, by a look at the program (gloro_jax.program).
_SEAL = np.float32(0.57721566)

_NOT_AN_ARRAY = (
    "A Bounded is not an array: it carries the Lipschitz bound of the network so far, and this "
    "operation would lose it. Use a layer of gloro_jax.layers, or admit your own function with "
    "x.apply(fn, lipschitz=c), where c bounds its Lipschitz constant (docs/adding-a-layer.md)."
)


@pytree_dataclass(static=("kind", "rule", "is_training", "batch_axis", "doors"))
class Bounded:
    """An activation and the Lipschitz bound of the map that produced it.

    Layers read `shape`, `rule` (how norms are obtained), `is_training` and `batch_axis` (the mapped
    axis that a batch is spread over, None for none); the activation itself is reached through
    `apply` only. `doors` notes what is applied while a network is being frozen, and is None
    otherwise.
    """

    _value: Any
    _lipschitz: Any
    _seal: Any
    kind: Kind
    rule: Any
    is_training: bool
    batch_axis: str | None = None
    doors: Doors | None = None

    @staticmethod
    def enter(
        x: Array,
        *,
        kind: Kind,
        rule: Any,
        is_training: bool,
        dtype: Any,
        batch_axis: str | None = None,
    ) -> "Bounded":
        """Wraps a network's input: the identity has Lipschitz constant 1.

        Args:
            x: the input, (batch, ...).
            kind: "upper" if every bound to come is guaranteed, else "estimate".
            rule: the norm rule, hashable, that layers will find in `rule`.
            is_training: what layers will find in `is_training`.
            dtype: of the bound.
            batch_axis: what layers will find in `batch_axis`.
        """
        one, seal = jnp.ones((), dtype), jnp.float32(_SEAL)
        return Bounded(x, one, seal, kind, rule, is_training, batch_axis)

    @staticmethod
    def watched(parts: Parts, *, rule: Any, doors: Doors) -> "Bounded":
        """An input whose way through the network is watched, for `gloro_jax.program`.

        Args:
            parts: value, bound and seal, so that the traced program names all three as inputs.
            rule: the norm rule, as for `enter`.
            doors: notes what is applied.
        """
        return Bounded(*parts, "upper", rule, False, None, doors)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The activation's shape, batch first; the batch is a symbol while JAX exports."""
        return tuple(self._value.shape)

    def apply(
        self, fn: Callable[[Any], Any], *, lipschitz: Constant, step: Step | None = None
    ) -> "Bounded":
        """The activation after `fn`, with the bound multiplied by `lipschitz`.

        Args:
            fn: from the activation to an array with the same batch axis. It must treat every
                example by itself.
            lipschitz: a constant of `fn` in the l2 norm: a Python number that is a proved bound,
                an `UpperBound`, or an `Estimate` (which makes the whole product an estimate).
            step: what `fn` is, in the words of the certificate format. Without it the network
                trains and certifies, and has no certificate file.

        Raises:
            TypeError: if `lipschitz` is a bare array or of another type, or `fn` does not return
                an array.
            ValueError: if a number is negative, NaN or infinite, or the batch axis changes.
        """
        self._check_axes()
        if not callable(fn) or not isinstance(step, Step | None):
            raise TypeError(
                "Bounded.apply takes a function of the activation and, if any, a Step of the "
                f"certificate format; got {fn!r} and {step!r} (docs/adding-a-layer.md)."
            )
        constant, kind = read_constant(lipschitz, self.kind)
        if self.doors is not None:
            if kind != "upper":
                raise TypeError(
                    f"{self.doors.layer} gives Bounded.apply an Estimate. Power iteration errs "
                    "low, so it proves nothing and cannot be frozen: use gj.matrix_norm, "
                    "gj.conv_norm or a proved number as the constant, or hand the "
                    "operator to apply_linear (docs/adding-a-layer.md)."
                )
            parts = self.doors.pass_through(fn, [self._parts()], constant=constant, step=step)
            return self._with(parts, kind)
        value = fn(self._value)
        check_output(value, self._value.shape)
        multiply = multiply_up if kind == "upper" else operator.mul
        bound = multiply(self._lipschitz, self._as_bound(constant))
        return self._with((value, bound, self._seal), kind)

    @staticmethod
    def add(a: "Bounded", b: "Bounded") -> "Bounded":
        """The sum of two branches of one network; their bounds add (triangle inequality).

        Raises:
            TypeError: if one of them is not a `Bounded`.
            ValueError: if their shapes differ or they do not belong to one forward pass.
        """
        if not (isinstance(a, Bounded) and isinstance(b, Bounded)):
            raise TypeError("Bounded.add joins two Bounded branches of one network.")
        if a.shape != b.shape or a._passes() != b._passes():
            raise ValueError(
                f"The branches of a sum must have one shape, got {a.shape} and {b.shape}, and "
                "come from the same forward pass."
            )
        a._check_axes()
        b._check_axes()
        kind: Kind = "upper" if a.kind == b.kind == "upper" else "estimate"
        if a.doors is not None:
            both = [a._parts(), b._parts()]
            return a._with(a.doors.pass_through(operator.add, both, constant=1.0, step=None), kind)
        add = add_up if kind == "upper" else operator.add
        total = add(a._lipschitz, b._lipschitz)
        seal = jnp.where(b._seal == _SEAL, a._seal, jnp.nan)
        return a._with((a._value + b._value, total, seal), kind)

    def leave(self) -> tuple[Float[Array, "batch ..."], Estimate | UpperBound]:
        """The activation and its bound, apart. Only `GloroNet` may call this; a test checks it."""
        number = UpperBound if self.kind == "upper" else Estimate
        return self._value, number(jnp.where(self._seal == _SEAL, self._lipschitz, jnp.nan))

    def _passes(self) -> tuple[Any, ...]:
        """What all activations of one forward pass have in common."""
        return self.rule, self.is_training, self.batch_axis, self.doors

    def _parts(self) -> Parts:
        return self._value, self._lipschitz, self._seal

    def _with(self, parts: Parts, kind: Kind) -> "Bounded":
        return Bounded(*parts, kind, *self._passes())

    def _check_axes(self) -> None:
        if getattr(self._lipschitz, "shape", ()) != ():
            raise ValueError(
                f"This activation carries a bound of shape {self._lipschitz.shape}: jax.vmap or "
                "nn.vmap gave one to each entry of the axis that it added. One activation has one "
                "bound. Keep such branches apart, each a Bounded of its own, and join them with "
                "gj.Bounded.add."
            )

    def _as_bound(self, constant: Any) -> Any:
        """A constant in the bound's type; a Python number rounded up and never subnormal."""
        dtype = self._lipschitz.dtype
        if not isinstance(constant, float):
            return jnp.asarray(constant, dtype)
        if dtype == np.float32:
            return jnp.asarray(float32_up(constant))
        return jnp.asarray(max(constant, np.finfo(np.float64).tiny) if constant else 0.0, dtype)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(_NOT_AN_ARRAY)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = __neg__ = _refuse
    __getitem__ = __iter__ = __len__ = __bool__ = __float__ = __int__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __array__ = __jax_array__ = _refuse
    __array_ufunc__ = None  # else NumPy would build an object array of it
    ndim = dtype = property(_refuse)


def read_constant(lipschitz: Any, kind: Kind) -> tuple[Any, Kind]:
    """A layer's constant as a Python float or an array, and the kind of a product with it."""
    if isinstance(lipschitz, Estimate):
        return jnp.asarray(lipschitz.value), "estimate"
    if isinstance(lipschitz, UpperBound):
        return bound_number(lipschitz.value, name="The constant given to Bounded.apply"), kind
    if isinstance(lipschitz, bool) or not isinstance(lipschitz, int | float):
        raise TypeError(
            "lipschitz is a Python number, an UpperBound or an Estimate, got "
            f"{type(lipschitz).__name__}. A bare array does not say whether it errs high or "
            "low: wrap it, or write float(c) for a proved constant."
        )
    if not is_bound(lipschitz):
        raise ValueError(
            f"A Lipschitz constant is finite and at least 0, got lipschitz={str(lipschitz)[:24]}."
        )
    return bound_number(lipschitz, name="lipschitz"), kind
