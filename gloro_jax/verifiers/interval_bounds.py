"""Interval bounds: a box around every activation (Gowal et al. 2018; Mirman et al. 2018)."""

import dataclasses
from typing import Any

from gloro_jax.network import Network
from gloro_jax.verifiers.bounds.boxes import Walk
from gloro_jax.verifiers.bounds.operations import Chain
from gloro_jax.verifiers.incomplete import Incomplete
from gloro_jax.verifiers.scores import box_margins, margin_rows, walk_boxes


@dataclasses.dataclass(frozen=True)
class IntervalBounds(Incomplete):
    """Boxes from layer to layer; the last layers are joined to the margins.

    The cheapest method, and the loosest on networks that were not trained for it. An l2 ball is
    seen as a ball by the first layer and as boxes from there on.
    """

    def margins(
        self, network: Network, chain: Chain, walk: Walk, labels: Any, aid: Any
    ) -> tuple[Any, Any]:
        """The least margins over the box before the last affine operations."""
        tail, inside = walk_boxes(walk, chain)
        rows = margin_rows(labels, network.num_classes, walk.area.centre.dtype)
        return box_margins(walk, tail, inside, rows), ()
