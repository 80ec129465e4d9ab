"""What is fixed of a frozen network beside its arrays, as a compiled program knows it."""

import dataclasses
import functools
from typing import Any

import numpy as np

from gloro_jax.gloro import GloroNet
from gloro_jax.program.same import word_of
from gloro_jax.program.trace import Program


@dataclasses.dataclass(frozen=True, eq=False)
class Static:
    """What a FrozenNet knows beside its leaves; equal where one compiled program serves both."""

    net: GloroNet
    program: Program
    input_shape: tuple[int, ...]
    layout: Any
    digest_version: int
    flushed: int

    @functools.cached_property
    def word(self) -> np.uint32:
        """32 bits of the program, to mix into a checksum of leaves."""
        return np.uint32(word_of(self.program.closed))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Static)
            and self.net is other.net
            and self.input_shape == other.input_shape
            and self.digest_version == other.digest_version
            and self.program == other.program
        )

    def __hash__(self) -> int:
        return hash((id(self.net), self.input_shape))
