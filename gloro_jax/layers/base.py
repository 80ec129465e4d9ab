"""What every layer shares: where norms come from, and how operators are trained and frozen.

Three rules say how a forward pass obtains its norms; the rule travels inside `Bounded`:

* `PowerIteration` estimates each operator's norm, with a start vector kept in "spectral";
* `Collect` lets each layer sow its operator, as executed, in "operators" (first pass of freeze);
* `Frozen` reads operators and guaranteed norms from "frozen" (second pass, and certification).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from gloro_jax.lipschitz.bounded import Bounded, Kind
from gloro_jax.lipschitz.norms import Estimate, UpperBound, random_direction
from gloro_jax.lipschitz.operators import WeightedMap
from gloro_jax.lipschitz.steps import Step
from gloro_jax.plain import check_fields
from gloro_jax.pytrees import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class PowerIteration:
    """Norms by power iteration: estimates from below, to train with.

    Attributes:
        steps: rounds per forward pass; 5 is usual, since the vector carries over between passes.
    """

    steps: int
    kind: ClassVar[Kind] = "estimate"

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"PowerIteration needs steps >= 1, an integer; got {self.steps!r}.")


@dataclasses.dataclass(frozen=True)
class Collect:
    """No norms: every linear layer hands out its operator."""

    kind: ClassVar[Kind] = "estimate"


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Guaranteed norms, computed beforehand from the very operators that run."""

    kind: ClassVar[Kind] = "upper"


NormRule = PowerIteration | Collect | Frozen


@pytree_dataclass()
class Linear:
    """An operator, or another map with weights, and the bias added after it, as executed."""

    operator: WeightedMap
    bias: Any = None


@pytree_dataclass()
class FrozenLinear:
    """A `Linear` with the guaranteed norm of its operator."""

    linear: Linear
    norm: Any


class LipschitzLayer(nn.Module, metaclass=abc.ABCMeta):
    """A layer from `Bounded` to `Bounded`.

    Subclasses implement `__call__`. A layer without weights writes
    `x.apply(fn, lipschitz=constant)`; one with weights writes `self.apply_linear(x, make)` and gets
    training, freezing and certification from here. The library trusts constants and operators;
    `gloro_jax.testing.check_lipschitz` tests them.
    """

    def __post_init__(self) -> None:
        if type(self).__module__.startswith("gloro_jax."):
            check_fields(self)
        super().__post_init__()

    @abc.abstractmethod
    def __call__(self, x: Bounded) -> Bounded:
        """Transforms the activation and its bound together."""

    def apply_linear(
        self, x: Bounded, make: Callable[[], Linear], *, trained_norm: float | None = None
    ) -> Bounded:
        """Applies a linear operator, or another `WeightedMap`, by the norm rule of `x`.

        Args:
            x: the activation.
            make: builds the operator from parameters. It is not called on a frozen network, whose
                operators are stored as they were executed.
            trained_norm: the norm to train with where it is known beforehand, as for orthogonal
                kernels; estimated otherwise. A certificate never reads it.

        Raises:
            TypeError: if `x` is not a `Bounded`.
            ValueError: if weights or power-iteration vectors are missing or do not fit.
        """
        check_bounded(x, self)
        if isinstance(x.rule, Frozen):
            entry: FrozenLinear = frozen_entry(self, "linear")
            run = runner(entry.linear, precision=jax.lax.Precision.HIGHEST)
            return x.apply(run, lipschitz=UpperBound(entry.norm), step=self._step(entry.linear))
        linear = make()
        run = runner(linear, precision=None)
        if isinstance(x.rule, Collect):
            self.sow("operators", "linear", linear, init_fn=_nothing, reduce_fn=_same_geometry)
            return x.apply(run, lipschitz=Estimate(jnp.inf))  # not looked at
        known = trained_norm is not None
        return x.apply(run, lipschitz=trained_norm if known else self.estimate(linear, x))

    def _step(self, linear: Linear) -> Step | None:
        # The names under which a FrozenNet keeps these arrays.
        layer = "/".join(self.path)
        bias = None if linear.bias is None else f"{layer}/linear/linear/bias"
        arrays = {
            name: f"{layer}/linear/linear/operator/{name}" for name in linear.operator.array_ndims
        }
        return linear.operator.step(layer, bias=bias, **arrays)

    def estimate(self, linear: Linear, x: Bounded) -> Estimate:
        """The norm by power iteration, with this layer's start vector in "spectral"."""
        operator, rule, shape = linear.operator, x.rule, linear.operator.input_shape
        if not (self.has_variable("spectral", "vector") or self.is_mutable_collection("spectral")):
            raise ValueError(
                f"{self.name or type(self).__name__} has no power-iteration vector. Pass "
                "variables['spectral'] from net.init, or make it with gj.init_spectral(net, "
                "variables, key=..., input_shape=...)."
            )
        vector = self.variable(
            "spectral", "vector", lambda: random_direction(self.make_rng("params"), shape)
        )
        if vector.value.shape != shape:
            raise ValueError(
                f"The power-iteration vector of {self.name or type(self).__name__} has shape "
                f"{vector.value.shape}, but this input needs {shape}. Another image size needs "
                "fresh vectors: gj.init_spectral(net, variables, key=..., input_shape=...)."
            )
        estimate = operator.estimate(vector.value, steps=rule.steps)
        if self.is_mutable_collection("spectral"):
            vector.value = estimate.vector
        return estimate


def check_bounded(x: Any, layer: nn.Module) -> Bounded:
    """`x`, or a TypeError that teaches if it is not a `Bounded`."""
    if not isinstance(x, Bounded):
        raise TypeError(
            f"{type(layer).__name__} is a layer for the body of a GloroNet and takes a Bounded, "
            f"got {type(x).__name__}. Put it into gj.GloroNet(body, num_classes)."
        )
    return x


def image_shape(x: Bounded, layer: nn.Module) -> tuple[int, int, int]:
    """(H, W, C) of a batch of images, or a ValueError that names the layer."""
    if len(x.shape) != 4:
        raise ValueError(
            f"{type(layer).__name__} takes images (batch, H, W, C), got shape {x.shape}."
        )
    return x.shape[1], x.shape[2], x.shape[3]


def feature_count(x: Bounded, layer: nn.Module) -> int:
    """How many features each example has, or a ValueError that names the layer."""
    if len(x.shape) != 2:
        raise ValueError(
            f"{type(layer).__name__} takes (batch, features), got shape {x.shape}. Put Flatten "
            "before it."
        )
    return x.shape[1]


def new_bias(layer: nn.Module, features: int, *, is_wanted: bool = True) -> Any:
    """A layer's parameter "bias", (features,), zeros to begin with; None where it is not wanted."""
    if not is_wanted:
        return None
    return layer.param("bias", nn.initializers.zeros, (features,), jnp.float32)


def add_bias(values: Any, bias: Any) -> Any:
    """`values` plus a bias along the last axis, in the precision of `values`."""
    return values + jnp.reshape(bias, (1,) * (values.ndim - 1) + (-1,)).astype(values.dtype)


def runner(linear: Linear, *, precision: Any) -> Callable[[Any], Any]:
    """The function that a linear layer applies, in the precision of its argument."""

    def run(values: Any) -> Any:
        operator = jax.tree.map(lambda kernel: kernel.astype(values.dtype), linear.operator)
        image = operator(values, precision=precision)
        if linear.bias is None:
            return image
        # A bias that broadcasts the image would stretch it, and no bound would know.
        if jnp.shape(linear.bias) != image.shape[-1:]:
            raise ValueError(
                f"A bias has one entry per output, {image.shape[-1:]}; got "
                f"{jnp.shape(linear.bias)}."
            )
        return add_bias(image, linear.bias)

    return run


def frozen_entry(module: nn.Module, name: str) -> Any:
    """What `freeze` stored for this module, or an error that teaches."""
    if not module.has_variable("frozen", name):
        raise ValueError(
            f"{module.name or type(module).__name__} has no frozen operator: guaranteed norms "
            "exist only inside a FrozenNet, made by gj.freeze(net, variables, input_shape=...)."
        )
    return module.get_variable("frozen", name)


def _nothing() -> None:
    return None


def _same_geometry(earlier: Linear | None, later: Linear) -> Linear:
    """Lets a shared layer run twice, if both runs execute one and the same operator."""
    if earlier is None:
        return later
    if jax.tree.structure(earlier) != jax.tree.structure(later):
        raise ValueError(
            "A shared layer meets two image sizes, so it stands for two operators with two "
            "norms. Use one layer per size."
        )
    pairs = zip(jax.tree.leaves(earlier), jax.tree.leaves(later), strict=True)
    if any(first is not second for first, second in pairs):
        raise ValueError(
            "A layer called apply_linear twice with kernels that are not known to be one array. "
            "Only one operator per layer can be frozen: use one layer per operator."
        )
    return later
