"""Bounds by boxes, from the image onwards, tightened at every ReLU by lines that lead back.

The box around an activation is carried through each operation (interval bounds: Gowal et al. 2018).
Before a ReLU, a method may find better bounds of its input, by following unit rows back to the
image through the lines of the ReLUs before it; both hold, so the tighter one is kept.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gloro_jax.verifiers.bounds.lines import TINY, Followed, Lines, below, follow, start
from gloro_jax.verifiers.bounds.operations import Affine, Chain, Kinked, Parallel, Relu
from gloro_jax.verifiers.bounds.regions import Region, minimum

Boxed = tuple[Any, Any]
LinesOf = Callable[[Any, Any], Lines]
_AT_ONCE = 2**24  # numbers in the rows that are followed together


@dataclasses.dataclass(eq=False)
class Walk:
    """One walk from images to scores, and what it finds on the way.

    Attributes:
        area: where the images may be.
        lines_of: bounds of a ReLU's input to its lines; None for boxes alone.
        charge: the relative rounding error of each operation; 0 where none is counted.
        units: bounds (n, *shape) of each ReLU's input.
        lines: the lines of each ReLU.
        sizes: how large the input of each operation can be.
        limits: bounds of ReLUs' inputs that hold by assumption, such as a split of cases.
    """

    area: Region
    lines_of: LinesOf | None
    charge: float = 0.0
    units: dict[int, Boxed] = dataclasses.field(default_factory=dict)
    lines: dict[int, Lines] = dataclasses.field(default_factory=dict)
    sizes: dict[Any, Any] = dataclasses.field(default_factory=dict)
    limits: dict[int, Boxed] = dataclasses.field(default_factory=dict)

    def through(self, chain: Chain, box: Boxed, before: Chain = ()) -> Boxed:
        """The box after a chain, which follows the operations `before`."""
        for op in chain:
            self.sizes[op] = size_of(box)
            match op:
                case Affine():
                    box = self._affine(op, box)
                case Relu():
                    low, high = self._unit(op, box, before)
                    box = (jnp.maximum(low, 0), jnp.maximum(high, 0))
                case Kinked():
                    box = _both(op.box(*box), self.through(op.chain, box, before))
                case Parallel():
                    parts = [self.through(branch, box, before) for branch in op.branches]
                    box = self._sum(parts)
            before = (*before, op)
        return box

    def lower(self, chain: Chain, rows: Any, *, is_tight: bool = False) -> Any:
        """At least the least value of rows (n, r, *shape) of what a chain makes of the images."""
        found = follow(chain, start(rows), relu=self.rule(), sizes=self._counted())
        value, size = minimum(self.area, found.rows, is_tight=is_tight)
        return self.concluded(found, value, size)

    def rule(self) -> Callable[[Relu, Followed], Followed]:
        """How rows pass a ReLU."""
        return below(self.lines)

    def concluded(self, found: Followed, value: Any, size: Any) -> Any:
        """A lower bound from followed rows, with their rounding taken off."""
        total = value + found.offset
        if not self.charge:
            return total
        size = size + found.error + jnp.abs(found.offset)
        return total - self.charge * size - TINY

    def _counted(self) -> Any:
        return self.sizes if self.charge else None

    def _affine(self, op: Affine, box: Boxed) -> Boxed:
        middle = (box[0] + box[1]) / 2
        reach = jnp.maximum(box[1] - middle, middle - box[0])
        centre, spread = op(middle), op.spread(reach)
        if self.charge:
            size = op.spread(jnp.abs(middle) + reach) + jnp.abs(op.constant(middle.dtype))
            spread = spread + self.charge * size + TINY
        return centre - spread, centre + spread

    def _sum(self, parts: list[Boxed]) -> Boxed:
        low, high = sum(part[0] for part in parts), sum(part[1] for part in parts)
        error = self.charge * sum(map(size_of, parts))
        return low - error, high + error

    def _unit(self, op: Relu, box: Boxed, before: Chain) -> Boxed:
        if self.lines_of is not None or self._is_first(before):
            box = _both(box, self._by_rows(op, before))
        if op.unit in self.limits:
            box = _both(box, self.limits[op.unit])
        self.units[op.unit] = box
        if self.lines_of is not None:
            # One row of lines serves all rows that are followed.
            low, high = (bound[:, None] for bound in box)
            self.lines[op.unit] = self.lines_of(low, high)
        return box

    def _is_first(self, before: Chain) -> bool:
        """Boxes alone would make a cube of an l2 ball; the first layer sees the ball."""
        return self.area.norm == "l2" and _is_affine(before)

    def _by_rows(self, op: Relu, before: Chain) -> Boxed:
        units, dtype = math.prod(op.after), self.area.centre.dtype
        n = 1 if _is_affine(before) else len(self.area.centre)
        largest = max(units, *(math.prod(o.before) for o in (*before, op)))
        some = max(1, _AT_ONCE // (2 * n * largest))
        found = []
        for first in range(0, units, some):
            rows = jnp.eye(min(some, units - first), units, first, dtype)
            # Until they meet a ReLU, the rows are the same for all images.
            both = jnp.stack([rows, -rows]).reshape(1, -1, *op.after)
            found.append(self.lower(before, both))
        low = jnp.concatenate([part[:, : part.shape[1] // 2] for part in found], axis=1)
        high = -jnp.concatenate([part[:, part.shape[1] // 2 :] for part in found], axis=1)
        return low.reshape(-1, *op.after), high.reshape(-1, *op.after)


def _is_affine(chain: Chain) -> bool:
    return all(isinstance(op, Affine) for op in chain)


def _both(a: Boxed, b: Boxed) -> Boxed:
    return jnp.maximum(a[0], b[0]), jnp.minimum(a[1], b[1])


def size_of(box: Boxed) -> Any:
    """The largest absolute value of each entry."""
    return jnp.maximum(jnp.abs(box[0]), jnp.abs(box[1]))


def operations(chain: Chain) -> int:
    """How many operations a chain has, those of chains inside among them."""
    inner = [(op.chain,) if isinstance(op, Kinked) else getattr(op, "branches", ()) for op in chain]
    return len(chain) + sum(operations(part) for parts in inner for part in parts)


def entries(chain: Chain) -> int:
    """The number of entries of the largest activation, of chains inside as well."""
    found = 1
    for op in chain:
        found = max(found, math.prod(op.before), math.prod(op.after))
        inner = (op.chain,) if isinstance(op, Kinked) else getattr(op, "branches", ())
        found = max(found, *map(entries, inner), 1)
    return found
