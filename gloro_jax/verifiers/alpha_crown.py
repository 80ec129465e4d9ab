"""AlphaCrown: the slopes below unstable ReLUs, chosen by gradient (Xu et al. 2021)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from gloro_jax.network import Network
from gloro_jax.platforms import jit
from gloro_jax.verifiers.bounds.boxes import Walk
from gloro_jax.verifiers.bounds.operations import Chain
from gloro_jax.verifiers.bounds.regions import Box, Norm, region
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.crown import Crown
from gloro_jax.verifiers.scores import margin_rows


@dataclasses.dataclass(frozen=True)
class AlphaCrown(Crown):
    """Crown, and then for each margin the slopes below unstable ReLUs that raise its bound.

    Any slope between 0 and 1 is admissible. They start at Crown's, and the best are kept, so it is
    at least as good. Bounds of the ReLUs' inputs stay those of Crown.

    Attributes:
        steps: of Adam.
        learning_rate: of Adam, for slopes between 0 and 1.
    """

    steps: int = 20
    learning_rate: float = 0.1
    has_aid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises a ValueError for fewer than one step or a learning rate that is not positive."""
        super().__post_init__()
        if self.steps < 1 or not self.learning_rate > 0:
            raise ValueError(
                "AlphaCrown takes steps of at least 1 and a positive learning_rate, got "
                f"{self.steps} and {self.learning_rate}. Without steps it is Crown."
            )

    def margins(
        self, network: Network, chain: Chain, walk: Walk, labels: Any, aid: Any
    ) -> tuple[Any, Any]:
        """The larger of Crown's bounds, and those with the slopes in `aid`."""
        lows, _ = super().margins(network, chain, walk, labels, ())
        if not aid:
            return lows, walk.lines
        rows = margin_rows(labels, network.num_classes, walk.area.centre.dtype)
        return jnp.maximum(lows, _lower(chain, walk, rows, aid)), ()

    def hint(
        self, network: Network, images: Any, radius: Any, labels: Any, *, norm: Norm, box: Box
    ) -> tuple[Any, Any]:
        """The margins in float32 by the best slopes, and the slopes."""
        about = {"norm": norm, "box": box}
        best, lines = super().hint(network, images, radius, labels, **about)
        slopes = {
            unit: jnp.repeat(line.low, network.num_classes, axis=1) for unit, line in lines.items()
        }
        kept, rule = slopes, optax.adam(self.learning_rate)
        state = rule.init(slopes)
        for _ in range(self.steps if slopes else 0):
            lows, found = _step(network, images, radius, labels, lines, slopes, **about)
            is_better = lows > best
            best, kept = _keep(is_better, lows, best, slopes, kept)
            updates, state = rule.update(found, state)
            slopes = _clipped(optax.apply_updates(slopes, updates))
        return best, kept


def _lower(chain: Chain, walk: Walk, rows: Any, slopes: Any) -> Any:
    chosen = Walk(walk.area, walk.lines_of, walk.charge, sizes=walk.sizes)
    chosen.lines = {unit: walk.lines[unit].with_slopes(slopes[unit]) for unit in walk.lines}
    return chosen.lower(chain, rows, is_tight=True)


def _bounds(
    network: Network,
    images: Any,
    radius: Any,
    labels: Any,
    lines: Any,
    slopes: Any,
    *,
    norm: Norm,
    box: Box,
) -> Any:
    walk = Walk(region(images, radius, norm=norm, box=box), None, lines=lines)
    rows = margin_rows(labels, network.num_classes, images.dtype)

    def total(slopes: Any) -> Any:
        lows = _lower(chain_of(network), walk, rows, slopes)
        return -lows.sum(), lows

    (_, lows), gradient = jax.value_and_grad(total, has_aux=True)(slopes)
    return lows, gradient


_step = jit(_bounds, static_argnames=("norm", "box"))


@jit
def _keep(is_better: Any, lows: Any, best: Any, slopes: Any, kept: Any) -> Any:
    def chosen(new: Any, old: Any) -> Any:
        return jnp.where(is_better.reshape(*is_better.shape, *(1,) * (new.ndim - 2)), new, old)

    return jnp.where(is_better, lows, best), jax.tree.map(chosen, slopes, kept)


@jit
def _clipped(slopes: Any) -> Any:
    return jax.tree.map(lambda slope: jnp.clip(slope, 0, 1), slopes)
