"""A value that carries its own Lipschitz bound, so that no layer can forget it.

A `Bounded` deliberately is not an array: `jnp.tanh(x)`, `nn.Dense(8)(x)`, `x + 1` and `if x:`
raise while tracing. The one way to transform it is `apply`, which asks for the Lipschitz constant
of what it applies; `add` joins branches.

The bound is with respect to the network's input, in the l2 norm over all axes but the first:
moving the input of example i by d moves `value[i]` by at most `lipschitz * d`.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gloro_jax.lipschitz.norms import Estimate, UpperBound
from gloro_jax.lipschitz.rounding import add_up, float32_up, multiply_up
from gloro_jax.lipschitz.steps import Step, Steps, joined
from gloro_jax.pytrees import pytree_dataclass

Kind = Literal["estimate", "upper"]
Constant = int | float | Estimate | UpperBound

# jax.tree.map(fn, x) would apply fn to the value and to the bound. It then also changes this leaf,
# and a bound with a changed seal is NaN, which certifies nothing.
_SEAL = np.float32(0.57721566)

_NOT_AN_ARRAY = (
    "A Bounded is not an array: it carries the Lipschitz bound of the network so far, and this "
    "operation would lose it. Use a layer of gloro_jax.layers, or admit your own function with "
    "x.apply(fn, lipschitz=c), where c bounds its Lipschitz constant (docs/adding-a-layer.md)."
)


@pytree_dataclass(static=("kind", "rule", "is_training", "batch_axis", "steps"))
class Bounded:
    """An activation and the Lipschitz bound of the map that produced it.

    Layers read `shape`, `rule` (how norms are obtained), `is_training` and `batch_axis` (the mapped
    axis that a batch is spread over, None for none); the activation itself is reached through
    `apply` only. `steps` is what was applied so far, where somebody asked for it, and None
    otherwise.
    """

    _value: Any
    _lipschitz: Any
    _seal: Any
    kind: Kind
    rule: Any
    is_training: bool
    batch_axis: str | None = None
    steps: Steps | None = None

    @staticmethod
    def enter(
        x: Array,
        *,
        kind: Kind,
        rule: Any,
        is_training: bool,
        dtype: Any,
        batch_axis: str | None = None,
        is_noting: bool = False,
    ) -> "Bounded":
        """Wraps a network's input: the identity has Lipschitz constant 1.

        Args:
            x: the input, (batch, ...).
            kind: "upper" if every bound to come is guaranteed, else "estimate".
            rule: the norm rule, hashable, that layers will find in `rule`.
            is_training: what layers will find in `is_training`.
            dtype: of the bound.
            batch_axis: what layers will find in `batch_axis`.
            is_noting: whether `steps` are noted.
        """
        steps = () if is_noting else None
        one, seal = jnp.ones((), dtype), jnp.float32(_SEAL)
        return Bounded(x, one, seal, kind, rule, is_training, batch_axis, steps)

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
        constant, kind = self._read(lipschitz)
        value = fn(self._value)
        if isinstance(value, Bounded) or not hasattr(value, "shape"):
            raise TypeError(
                "The function given to Bounded.apply maps an array to an array, but returned "
                f"{type(value).__name__}."
            )
        if value.shape[:1] != self._value.shape[:1]:
            raise ValueError(
                "The function given to Bounded.apply must keep the batch axis of "
                f"{self._value.shape}, but returned shape {tuple(value.shape)}."
            )
        multiply = multiply_up if kind == "upper" else operator.mul
        bound = multiply(self._lipschitz, constant)
        steps = None if self.steps is None else (*self.steps, step or Step(None))
        return self._with(value, bound, self._seal, kind, steps)

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
        kind: Kind = "upper" if a.kind == b.kind == "upper" else "estimate"
        add = add_up if kind == "upper" else operator.add
        total = add(a._lipschitz, b._lipschitz)
        seal = jnp.where(b._seal == _SEAL, a._seal, jnp.nan)
        steps = None if a.steps is None or b.steps is None else joined(a.steps, b.steps)
        return a._with(a._value + b._value, total, seal, kind, steps)

    def leave(self) -> tuple[Float[Array, "batch ..."], Estimate | UpperBound]:
        """The activation and its bound, apart. Only `GloroNet` may call this; a test checks it."""
        number = UpperBound if self.kind == "upper" else Estimate
        return self._value, number(jnp.where(self._seal == _SEAL, self._lipschitz, jnp.nan))

    def _passes(self) -> tuple[Any, bool, str | None]:
        """What all activations of one forward pass have in common."""
        return self.rule, self.is_training, self.batch_axis

    def _with(
        self, value: Any, bound: Any, seal: Any, kind: Kind, steps: Steps | None
    ) -> "Bounded":
        return Bounded(value, bound, seal, kind, *self._passes(), steps)

    def _read(self, lipschitz: Constant) -> tuple[Any, Kind]:
        dtype = self._lipschitz.dtype
        if isinstance(lipschitz, Estimate):
            return jnp.asarray(lipschitz.value, dtype), "estimate"
        if isinstance(lipschitz, UpperBound):
            if isinstance(lipschitz.value, float):
                return self._as_bound(lipschitz.value), self.kind
            return jnp.asarray(lipschitz.value, dtype), self.kind
        if isinstance(lipschitz, bool) or not isinstance(lipschitz, int | float):
            raise TypeError(
                "lipschitz is a Python number, an UpperBound or an Estimate, got "
                f"{type(lipschitz).__name__}. A bare array does not say whether it errs high or "
                "low: wrap it, or write float(c) for a proved constant."
            )
        if not (math.isfinite(lipschitz) and lipschitz >= 0):
            raise ValueError(
                f"A Lipschitz constant is finite and at least 0, got lipschitz={lipschitz}."
            )
        return self._as_bound(lipschitz), self.kind

    def _as_bound(self, number: int | float) -> Any:
        """A Python number in the bound's type, rounded up and never subnormal."""
        exact = float(number)
        if exact < number:  # an integer beyond 2^53
            exact = math.nextafter(exact, math.inf)
        dtype = self._lipschitz.dtype
        if dtype == np.float32:
            return jnp.asarray(float32_up(exact))
        return jnp.asarray(max(exact, np.finfo(np.float64).tiny) if exact else 0.0, dtype)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(_NOT_AN_ARRAY)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = __neg__ = _refuse
    __getitem__ = __iter__ = __len__ = __bool__ = __float__ = __int__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __array__ = __jax_array__ = _refuse
    __array_ufunc__ = None  # else NumPy would build an object array of it
    ndim = dtype = property(_refuse)
