"""FastLin and Crown: lines below and above each ReLU, followed back to the image."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from gloro_jax.network import Network
from gloro_jax.verifiers.bounds.boxes import LinesOf, Walk
from gloro_jax.verifiers.bounds.lines import adaptive_lines, parallel_lines
from gloro_jax.verifiers.bounds.operations import Chain
from gloro_jax.verifiers.incomplete import Incomplete
from gloro_jax.verifiers.scores import box_margins, margin_rows, walk_boxes


@dataclasses.dataclass(frozen=True)
class FastLin(Incomplete):
    """Both lines of a ReLU have one slope, u / (u - l) (Weng et al. 2018).

    Bounds of each ReLU's input come from the same method, intersected with interval bounds.
    """

    lines_of: ClassVar[LinesOf] = staticmethod(parallel_lines)

    def margins(
        self, network: Network, chain: Chain, walk: Walk, labels: Any, aid: Any
    ) -> tuple[Any, Any]:
        """The larger of the bounds by lines and by boxes."""
        walk.lines_of = type(self).lines_of
        rows = margin_rows(labels, network.num_classes, walk.area.centre.dtype)
        tail, inside = walk_boxes(walk, chain)
        by_boxes = box_margins(walk, tail, inside, rows)
        return jnp.maximum(by_boxes, walk.lower(chain, rows, is_tight=True)), ()


@dataclasses.dataclass(frozen=True)
class Crown(FastLin):
    """The line below a ReLU is z or 0, whichever leaves the smaller area (Zhang et al. 2018).

    The same choice as DeepPoly's (Singh et al. 2019). Neither it nor `FastLin` is better on every
    image.
    """

    lines_of: ClassVar[LinesOf] = staticmethod(adaptive_lines)
