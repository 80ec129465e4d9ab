"""A learned translation: it moves all inputs alike, so it moves no bound."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.lipschitz.operators import WeightedMap
from gloro_jax.lipschitz.steps import Step
from gloro_jax.pytrees import pytree_dataclass


@pytree_dataclass(static=("shape",))
class Translation(WeightedMap):
    """x + offset, where `offset` broadcasts to one example of `shape`; constant 1.

    The difference of two images is that of their inputs, whatever the offset.
    """

    offset: Any
    shape: tuple[int, ...]

    @property
    def array_ndims(self) -> Mapping[str, int]:
        """The offset has as many axes as an example."""
        return {"offset": len(self.shape)}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`shape`."""
        return self.shape

    def __call__(self, values: Any, *, precision: Any = None) -> Any:
        """Adds.

        Raises:
            ValueError: if the offset would stretch the activation over a new or longer axis.
        """
        del precision
        pairs = zip(np.shape(self.offset), self.shape, strict=False)
        if np.ndim(self.offset) != len(self.shape) or any(n not in (1, m) for n, m in pairs):
            raise ValueError(
                f"An offset of shape {np.shape(self.offset)} does not fit an activation of shape "
                f"{self.shape}: each axis has the same length or 1."
            )
        return values + self.offset[None]

    def norm(self) -> UpperBound:
        """1."""
        return UpperBound(1.0)

    def step(self, layer: str, *, bias: str | None, **arrays: str) -> Step:
        """A "translate" layer."""
        del bias  # no translation layer has one
        return Step.of("translate", layer=layer, **arrays)
