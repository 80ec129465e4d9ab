"""BallBox: an l2 ball and a box around every activation (Lee, Lee, Park, NeurIPS 2020, BCP)."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from gloro_jax.network import Network
from gloro_jax.verifiers.bounds.boxes import Walk, size_of
from gloro_jax.verifiers.bounds.lines import TINY
from gloro_jax.verifiers.bounds.operations import Affine, Chain, Kinked, Parallel, Relu
from gloro_jax.verifiers.bounds.regions import Region, lengths
from gloro_jax.verifiers.incomplete import Incomplete
from gloro_jax.verifiers.scores import box_margins, margin_rows, walk_boxes


@dataclasses.dataclass(frozen=True)
class BallBox(Incomplete):
    """Balls grow by the guaranteed norm of each layer, boxes by its rows; each clips the other.

    A unit lies within the ball's radius times the length of its row, and where the box says. The
    margins take their least value over ball and box together. Up to rounding it is at least as
    good as the bound by K, and as interval bounds.
    """

    def margins(
        self, network: Network, chain: Chain, walk: Walk, labels: Any, aid: Any
    ) -> tuple[Any, Any]:
        """The least margins over the last ball and box."""
        rows = margin_rows(labels, network.num_classes, walk.area.centre.dtype)
        balls = _BallWalk(walk.area, None, walk.charge)
        tail, inside = walk_boxes(balls, chain)
        low, high, centre, radius = inside.lower, inside.upper, balls.centre, balls.radius
        by_boxes = box_margins(balls, tail, inside, rows)
        if len(tail) == len(chain):
            return by_boxes, ()
        ball = Region(centre, radius, low, high, "l2", is_boxed=True)
        last = Walk(ball, None, walk.charge)
        return jnp.maximum(by_boxes, box_margins(last, tail, ball, rows)), ()


class _BallWalk(Walk):
    """A walk that carries a ball beside the box."""

    def __init__(self, area: Region, lines_of: Any, charge: float) -> None:
        super().__init__(area, lines_of, charge)
        self.centre, self.radius = area.centre, area.radius
        if area.norm == "linf":
            self.centre = (area.lower + area.upper) / 2
            reach = jnp.maximum(area.upper - self.centre, self.centre - area.lower)
            self.radius = self._up(_length(reach))

    def through(self, chain: Chain, box: Any, before: Chain = ()) -> Any:
        """The box after a chain; the ball is moved along."""
        for op in chain:
            centre, radius = self.centre, self.radius
            match op:
                case Affine():
                    after = super().through((op,), box, before)
                    after = self._moved(op, centre, radius, after)
                case Relu():
                    after = super().through((op,), box, before)
                    self.centre = jnp.maximum(centre, 0)
                case Kinked():
                    self.sizes[op] = size_of(box)
                    after, self.centre = op.box(*box), op.fn(centre)
                case Parallel():
                    self.sizes[op] = size_of(box)
                    after = self._joined(op, centre, radius, box, before)
            box, before = after, (*before, op)
        return box

    def _moved(self, op: Affine, centre: Any, radius: Any, box: Any) -> Any:
        self.centre = op(centre)
        error = self.charge * (op.spread(jnp.abs(centre)) + jnp.abs(op.constant(centre.dtype)))
        self.radius = self._up(op.norm * radius + _length(error))
        lead = (-1, *(1,) * (self.centre.ndim - 1))
        lengths = jnp.sqrt(op.spread(jnp.ones((1, *op.before), centre.dtype), power=2))
        reach = self._up(lengths * radius.reshape(lead) + error)
        low, high = self.centre - reach, self.centre + reach
        return jnp.maximum(box[0], low), jnp.minimum(box[1], high)

    def _joined(self, op: Parallel, centre: Any, radius: Any, box: Any, before: Chain) -> Any:
        boxes, centres, radii = [], [], []
        for branch in op.branches:
            self.centre, self.radius = centre, radius
            boxes.append(self.through(branch, box, before))
            centres.append(self.centre)
            radii.append(self.radius)
        self.centre = sum(centres)
        error = self.charge * sum(map(jnp.abs, centres))
        self.radius = self._up(sum(radii) + _length(error))
        return self._sum(boxes)

    def _up(self, value: Any) -> Any:
        return value * (1 + self.charge) + (TINY if self.charge else 0.0)


def _length(z: Any) -> Any:
    return lengths(z.reshape(len(z), -1))
