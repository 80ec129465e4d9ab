"""Maps with weights as they are executed: arrays, static geometry, application and norms.

A layer trains, is bounded and certifies through the same object, so what is bounded is what runs.
A map is a pytree: its leaves are its arrays, everything else is static. An `Operator` is a linear
map with one array, `kernel`.
"""

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.lipschitz.geometry import Pads, Pair, output_size
from gloro_jax.lipschitz.norms import Estimate, UpperBound, power_iteration
from gloro_jax.lipschitz.rounding import up
from gloro_jax.lipschitz.steps import Step
from gloro_jax.lipschitz.upper import conv_norm, matrix_norm
from gloro_jax.pytrees import pytree_dataclass


class WeightedMap(abc.ABC):
    """A map between activations of one example, applied to a batch of them, with weights.

    Its Lipschitz constant is proved on the host from the very arrays that run. Subclasses are
    `pytree_dataclass`es; their leaves are the arrays that `array_ndims` names. They supply
    `array_ndims`, `input_shape`, `__call__` and `norm`. `freeze` looks at what `norm` returns;
    `gloro_jax.testing.check_lipschitz` tries to refute it.
    """

    @property
    @abc.abstractmethod
    def array_ndims(self) -> Mapping[str, int]:
        """How many axes each array has, by its name; stacked arrays (nn.scan) have more."""

    @property
    @abc.abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example's input."""

    @abc.abstractmethod
    def __call__(self, values: Any, *, precision: Any = None) -> Any:
        """Applies the map to `values`, (batch, *input_shape)."""

    @abc.abstractmethod
    def norm(self) -> UpperBound:
        """A guaranteed bound of the Lipschitz constant, on the host; the arrays are concrete."""

    def step(self, layer: str, *, bias: str | None, **arrays: str) -> Step | None:
        """The map in the words of the certificate format; None if it has none.

        Args:
            layer: its name.
            bias: the name of the bias's array, if one is added.
            arrays: the name of each of its own arrays.
        """
        del layer, bias, arrays
        return None

    def estimate(self, vector: Any, *, steps: int) -> Estimate:
        """The constant from below, to train with: the slope where it is steepest near zero."""
        slope = jax.linearize(lambda v: self(v[None])[0], jnp.zeros_like(vector))[1]
        return power_iteration(slope, vector, steps=steps)

    def stack_of(self) -> tuple[int, ...]:
        """The leading axes that `nn.scan` gave to every array; () for one layer.

        Raises:
            ValueError: if the arrays have different ones.
        """
        leads = {
            name: np.shape(getattr(self, name))[: np.ndim(getattr(self, name)) - ndim]
            for name, ndim in self.array_ndims.items()
        }
        if len(set(leads.values())) != 1:
            raise ValueError(
                f"The arrays of a {type(self).__name__} belong to one layer or to one stack of "
                f"layers; their leading axes are {leads}."
            )
        return next(iter(leads.values()))


class Operator(WeightedMap):
    """A linear map with one array.

    Subclasses are `pytree_dataclass`es whose only leaf is `kernel`. They supply `input_shape`,
    `__call__` and `norm`.
    """

    kernel: Any
    kernel_ndim: ClassVar[int]  # tells stacked kernels (nn.scan) from plain ones

    @property
    def array_ndims(self) -> Mapping[str, int]:
        """The kernel's."""
        return {"kernel": self.kernel_ndim}

    def estimate(self, vector: Any, *, steps: int) -> Estimate:
        """The spectral norm from below, by `steps` rounds of power iteration.

        Raises:
            TypeError: if the map is not linear.
        """
        try:
            return power_iteration(lambda v: self(v[None])[0], vector, steps=steps)
        except (AssertionError, NotImplementedError) as error:  # of JAX's transposition
            raise TypeError(
                f"{type(self).__name__} is an Operator and its __call__ is not linear, so power "
                "iteration cannot transpose it. A map that is not linear is a WeightedMap "
                "(docs/adding-a-layer.md)."
            ) from error


@pytree_dataclass()
class Matrix(Operator):
    """Multiplication of a feature vector by `kernel`, (in, out)."""

    kernel: Any
    kernel_ndim: ClassVar[int] = 2

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(in,)."""
        return (self.kernel.shape[-2],)

    def __call__(self, values: Any, *, precision: Any = None) -> Any:
        """(batch, in) to (batch, out)."""
        return jnp.matmul(values, self.kernel, precision=precision)

    def step(self, layer: str, *, bias: str | None, kernel: str, **_: str) -> Step:
        """A "dense" layer."""
        return Step.of("dense", layer=layer, kernel=kernel, bias=bias)

    def norm(self) -> UpperBound:
        """The bound of `matrix_norm`."""
        return matrix_norm(np.asarray(self.kernel))


@pytree_dataclass(static=("image_size", "strides", "pads", "groups"))
class Convolution(Operator):
    """Cross-correlation of NHWC images with an HWIO kernel, (kh, kw, in / groups, out)."""

    kernel: Any
    image_size: Pair
    strides: Pair
    pads: Pads
    groups: int = 1
    kernel_ndim: ClassVar[int] = 4

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, in)."""
        return (*self.image_size, self.kernel.shape[-2] * self.groups)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(H', W', out)."""
        kh, kw = self.kernel.shape[-4:-2]
        sizes = output_size(self.image_size, (kh, kw), self.strides, self.pads)
        return (*sizes, self.kernel.shape[-1])

    def __call__(self, values: Any, *, precision: Any = None) -> Any:
        """(batch, H, W, in) to (batch, H', W', out)."""
        if tuple(values.shape[1:]) != self.input_shape:
            raise ValueError(
                f"This convolution was built for images of shape {self.input_shape}, got "
                f"{tuple(values.shape[1:])}. Its norm depends on the image size."
            )
        return jax.lax.conv_general_dilated(
            values,
            self.kernel,
            self.strides,
            self.pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
            precision=precision,
        )

    def step(self, layer: str, *, bias: str | None, kernel: str, **_: str) -> Step:
        """A "conv" layer with its geometry."""
        geometry = {
            name: getattr(self, name) for name in ("image_size", "strides", "pads", "groups")
        }
        return Step.of("conv", layer=layer, kernel=kernel, bias=bias, **geometry)

    def norm(self) -> UpperBound:
        """The bound of `conv_norm` at this image size, stride and padding."""
        return conv_norm(
            np.asarray(self.kernel),
            image_size=self.image_size,
            strides=self.strides,
            padding=self.pads,
            groups=self.groups,
        )


@pytree_dataclass(static=("shape",))
class Scaling(Operator):
    """Multiplication of an activation of `shape` by one number, `kernel` of shape ()."""

    kernel: Any
    shape: tuple[int, ...]
    kernel_ndim: ClassVar[int] = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Any: `shape`."""
        return self.shape

    def __call__(self, values: Any, *, precision: Any = None) -> Any:
        """Multiplies."""
        del precision
        return values * self.kernel

    def step(self, layer: str, *, bias: str | None, kernel: str, **_: str) -> Step:
        """A "scale" layer."""
        return Step.of("scale", layer=layer, kernel=kernel, bias=bias)

    def norm(self) -> UpperBound:
        """The absolute value: a factor of -2 stretches by 2."""
        factor = float(np.asarray(self.kernel))
        if not math.isfinite(factor):
            raise ValueError(f"A scale must be finite, got {factor}.")
        return UpperBound(up(abs(factor)))
