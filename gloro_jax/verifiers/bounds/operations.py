"""What verifiers bound: chains of affine maps, ReLUs, sums of chains, and what ReLUs make up.

Every piecewise-linear layer is one of four operations, so a method needs four rules. MinMax, the
absolute value and max pooling are made of ReLUs, max(a, b) = b + relu(a - b), and say so: methods
that bound by lines follow their chain; those that bound by boxes use that they are monotone.

Shapes: (n, *shape) is a batch of n activations. Arrays may be traced, of float32 or float64.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

Shape = tuple[int, ...]
Chain = tuple["Operation", ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """z -> A z + c, with the matrix A given by what it does to a batch.

    Attributes:
        fn: (entries, z) to A z, where each entry of A is one of `entries` or 0.
        entries: None where all are 0 or 1.
        offset: c, or what broadcasts to it; None is 0.
        before: the shape of z.
        after: the shape of A z + c.
        norm: at least the l2 norm of A, in float64.
    """

    fn: Callable[[Any, Any], Any]
    before: Shape
    after: Shape
    entries: Any = None
    offset: Any = None
    norm: Any = 1.0

    def linear(self, z: Any) -> Any:
        """A z."""
        return self.fn(self.entries, z)

    def __call__(self, z: Any) -> Any:
        """A z + c."""
        return self.linear(z) if self.offset is None else self.linear(z) + self.constant(z.dtype)

    def spread(self, z: Any, *, power: int = 1) -> Any:
        """|A| z, or with a power, the entries of A squared instead of their absolute values."""
        entries = None if self.entries is None else jnp.abs(self.entries) ** power
        return self.fn(entries, z)

    def transposed(self, rows: Any) -> Any:
        """Rows times A: (n, *after) to (n, *before)."""
        return _transposed(self.fn, self.before, self.entries, rows)

    def constant(self, dtype: Any) -> Any:
        """c, (1, *after)."""
        offset = jnp.zeros((), dtype) if self.offset is None else jnp.asarray(self.offset)
        return jnp.broadcast_to(offset, (1, *self.after))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _transposed(fn: Callable[[Any, Any], Any], before: Shape, entries: Any, rows: Any) -> Any:
    like = jax.ShapeDtypeStruct((rows.shape[0], *before), rows.dtype)
    return jax.linear_transpose(functools.partial(fn, entries), like)(rows)[0]


def _transposed_forward(fn: Any, before: Shape, entries: Any, rows: Any) -> tuple[Any, Any]:
    return _transposed(fn, before, entries, rows), (entries, rows)


def _transposed_backward(fn: Any, before: Shape, kept: Any, cotangent: Any) -> tuple[Any, Any]:
    """Of rows A z in the entries of A, z being the cotangent, and in rows.

    The same numbers as JAX's own rule gives; of a convolution it makes one that XLA:CPU, which
    turns an input smaller than its kernel round, runs twenty times as slowly.
    """
    entries, rows = kept
    values, pull = jax.vjp(fn, entries, cotangent)
    return pull(rows)[0], values


_transposed.defvjp(_transposed_forward, _transposed_backward)


@dataclasses.dataclass(frozen=True, eq=False)
class Relu:
    """max(z, 0); `unit` numbers the ReLUs of a network in the order in which they run."""

    unit: int
    after: Shape

    @property
    def before(self) -> Shape:
        """The shape of z."""
        return self.after


@dataclasses.dataclass(frozen=True, eq=False)
class Parallel:
    """The sum of what several chains make of one activation; an empty chain is the identity."""

    branches: tuple[Chain, ...]
    before: Shape
    after: Shape


@dataclasses.dataclass(frozen=True, eq=False)
class Kinked:
    """A 1-Lipschitz piecewise-linear map, and the chain of the other operations that it is.

    Attributes:
        fn: z to its value.
        box: (lower, upper) to the least box that holds the values of all z between.
        chain: the same map.
        before: the shape of z.
        after: the shape of the value.
    """

    fn: Callable[[Any], Any]
    box: Callable[[Any, Any], tuple[Any, Any]]
    chain: Chain
    before: Shape
    after: Shape


Operation = Affine | Relu | Parallel | Kinked


def run(chain: Chain, z: Any) -> Any:
    """What a chain makes of (n, *before)."""
    for op in chain:
        match op:
            case Affine():
                z = op(z)
            case Relu():
                z = jnp.maximum(z, 0)
            case Kinked():
                z = op.fn(z)
            case Parallel():
                z = sum(run(branch, z) for branch in op.branches)
    return z


def relus(chain: Chain) -> Iterator[Relu]:
    """The ReLUs of a chain in their order."""
    for op in chain:
        match op:
            case Relu():
                yield op
            case Parallel():
                for branch in op.branches:
                    yield from relus(branch)
            case Kinked():
                yield from relus(op.chain)


def affine_tail(chain: Chain) -> int:
    """Where the affine operations begin that a chain ends with."""
    start = len(chain)
    while start and isinstance(chain[start - 1], Affine):
        start -= 1
    return start
