"""A door as the walk meets it: its constant, and how long zeros become."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from gloro_jax.lipschitz.doors import Passage
from gloro_jax.program.settle import evaluated

# Functions of the certificate format that map zeros to zeros.
_ZERO_AT_ZERO = (
    "relu", "abs", "minmax", "max_pool", "average_pool", "flatten", "space_to_depth", "smooth_abs",
)  # fmt: skip
_LINEAR = ("conv", "dense", "scale")


@dataclasses.dataclass(frozen=True)
class Known:
    """A number that depends on weights alone; `get` computes it.

    Attributes:
        origin: "leaf" if it is a frozen array or a slice of its first axis, which are what bounds
            speak of; "changed" if it was computed from one.
    """

    get: Callable[[], Any]
    origin: Literal["leaf", "changed", ""] = ""


@dataclasses.dataclass(frozen=True)
class Visit:
    """A door as it was met: its program, and its operands after the activations' parts."""

    passage: Passage
    closed: Any
    others: list[Known]

    def constant(self) -> float:
        """The Lipschitz constant of the door's function."""
        if self.passage.constant is not None:
            return self.passage.constant
        if len(self.others) == self.passage.operands:
            found = np.asarray(self.others[0].get())
        else:  # a loop took apart what it knows beforehand; the bound of an activation of bound 1
            found = self.executed(self._zeros())[1]
        if found.shape != () or not 0 <= float(found) < math.inf:
            raise ValueError(
                f"{self.passage.layer} gives Bounded.apply the constant {found}. A Lipschitz "
                "constant is one finite number of at least 0."
            )
        return float(found)

    def length_at_zero(self) -> float:
        """At least the l2 norm of what the door's function makes of zeros."""
        named = self.passage.is_ours and self.passage.step is not None
        op = self.passage.step.op if named and self.passage.step else None
        if op in _ZERO_AT_ZERO:
            return 0.0
        if op in _LINEAR:  # a kernel has 0, 2 or 4 axes, a bias one
            biases = [np.asarray(a) for o in self.others if np.ndim(a := o.get()) == 1]
            largest = sum(float(np.abs(bias).max(initial=0.0)) for bias in biases)
            return largest * math.sqrt(self.closed.out_avals[0].size) * (1 + 1e-6)
        value = np.asarray(self.executed(self._zeros())[0], np.float64)
        if not np.isfinite(value).all():
            raise ValueError(
                f"The function that {self.passage.layer} gives to Bounded.apply is NaN or infinite "
                "where its input is 0. A function with a Lipschitz constant is finite everywhere."
            )
        return float(np.linalg.norm(value)) * (1 + 1e-4)

    def executed(self, value: np.ndarray) -> list[np.ndarray]:
        """What comes out for an activation with bound 1."""
        one = np.float32(1)
        given = [value, one, one, *(operand.get() for operand in self.others)]
        return [np.asarray(out) for out in evaluated(self.closed, given)]

    def _zeros(self) -> np.ndarray:
        return np.zeros(self.closed.in_avals[0].shape, self.closed.in_avals[0].dtype)
