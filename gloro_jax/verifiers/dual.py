"""The dual of Wong and Kolter (2018): a network run backwards bounds the least margin."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gloro_jax.network import Network
from gloro_jax.verifiers.bounds.boxes import Walk
from gloro_jax.verifiers.bounds.lines import Followed, above
from gloro_jax.verifiers.bounds.operations import Chain, Relu
from gloro_jax.verifiers.crown import FastLin


@dataclasses.dataclass(frozen=True)
class Dual(FastLin):
    """A feasible point of the dual of the linear relaxation, in closed form.

    With nu the dual variables after a layer, the dual of ReLUs is linear: active ones keep nu,
    inactive ones drop it, unstable ones take the share u / (u - l), and l times the positive part
    of what they take is added to the objective (theorem 1 of the paper). On equal bounds of the
    ReLUs' inputs it equals `FastLin`, which came to it by lines.
    """

    def margins(
        self, network: Network, chain: Chain, walk: Walk, labels: Any, aid: Any
    ) -> tuple[Any, Any]:
        """The dual objective for each margin, or the bound by boxes where that is larger."""
        dual = _DualWalk(walk.area, walk.lines_of, walk.charge)
        return super().margins(network, chain, dual, labels, aid)


class _DualWalk(Walk):
    def rule(self) -> Callable[[Relu, Followed], Followed]:
        def pass_back(op: Relu, at: Followed) -> Followed:
            low, high = (bound[:, None] for bound in self.units[op.unit])
            is_unstable = (low < 0) & (high > 0)
            share = jnp.clip(high / jnp.where(is_unstable, high - low, 1), 0, 1)
            share = jnp.where(is_unstable, share, jnp.where(low >= 0, 1.0, 0.0 * (low + high)))
            nu = -at.rows
            taken = share * nu
            # The least that the line may lie above zero at both ends, as floats have it.
            depth = jnp.maximum(-low * share, (1 - share) * high)
            depth = jnp.where(is_unstable, above(depth), 0)
            lost = (jnp.maximum(nu, 0) * depth).sum(axis=tuple(range(2, nu.ndim)))
            return Followed(-taken, at.offset - lost, at.error + lost, at.met)

        return pass_back
