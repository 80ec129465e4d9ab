"""Training against what a verifier proves: interval bounds and CROWN-IBP, inside the step.

Gowal et al. 2018 train on the worst scores that interval bounds allow; Zhang et al. 2020 on those
of lines through interval bounds, and move from these to the boxes as training goes on. Both bound
the network as it is executed at this step, with the rules that `gloro_jax.verifiers` has.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gloro_jax.freezing import executed_arrays, steps_of
from gloro_jax.gloro import GloroNet
from gloro_jax.layers import PowerIteration
from gloro_jax.lipschitz.steps import Steps, layers_of
from gloro_jax.network import Network, with_head
from gloro_jax.platforms import random_key
from gloro_jax.training.config import TrainConfig
from gloro_jax.verifiers.bounds.boxes import Walk
from gloro_jax.verifiers.bounds.lines import adaptive_lines
from gloro_jax.verifiers.bounds.regions import region
from gloro_jax.verifiers.bounds.rules import chain_of, check_rules
from gloro_jax.verifiers.scores import box_margins, margin_rows, walk_boxes

Margins = Callable[..., Any]


def make_margins(net: GloroNet, config: TrainConfig, *, input_shape: tuple[int, ...]) -> Margins:
    """(variables, images, labels, radius=, share=) to lower bounds of margins, (n, m).

    `share` is that of the boxes in CROWN-IBP's bound; interval bounds are boxes alone.

    Raises:
        ValueError: if a layer has no rule.
    """
    example = jnp.zeros((1, *input_shape), jnp.float32)
    variables = net.init(random_key(0), example, norms=PowerIteration(steps=1))
    steps = with_head(steps_of(net, variables, input_shape=input_shape))

    def margins(variables: Any, images: Any, labels: Any, *, radius: Any, share: Any) -> Any:
        network = _network(net, variables, steps, input_shape)
        chain, x = chain_of(network), images.astype(jnp.float32)
        area = region(x, jnp.full(len(x), radius), norm=config.norm, box=(0.0, 1.0))
        walk = Walk(area, None)
        rows = margin_rows(labels, net.num_classes, x.dtype)
        tail, inside = walk_boxes(walk, chain)
        by_boxes = box_margins(walk, tail, inside, rows)
        if config.loss == "ibp":
            return by_boxes
        for unit, (low, high) in walk.units.items():
            walk.lines[unit] = adaptive_lines(low[:, None], high[:, None])
        return share * by_boxes + (1 - share) * walk.lower(chain, rows)

    check_rules(_network(net, variables, steps, input_shape), method=f"loss={config.loss!r}")
    return margins


def _network(net: GloroNet, variables: Any, steps: Steps, input_shape: tuple[int, ...]) -> Network:
    arrays = executed_arrays(net, variables, input_shape=input_shape)
    none = jnp.full((), jnp.nan)  # boxes and lines ask for no norm
    norms = dict.fromkeys(layers_of(steps), none)
    return Network(arrays, norms, none, none, steps, input_shape, net.num_classes)


def verified_loss(values: Any, margins: Any, labels: Any, *, weight: Any) -> Any:
    """(1 - weight) cross-entropy + weight cross-entropy of the worst scores, per example (n,).

    Args:
        values: scores (n, m).
        margins: lower bounds of the label's lead over each class, (n, m).
        labels: (n,).
        weight: from 0 to 1.
    """
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    own = jax.nn.one_hot(labels, values.shape[-1], dtype=bool)
    worst = jnp.where(own, 0.0, -margins)
    plain = cross_entropy(values.astype(jnp.float32), labels)
    return (1 - weight) * plain + weight * cross_entropy(worst, labels)


def is_verified(margins: Any, labels: Any) -> Any:
    """Whether every other class is behind, (n,)."""
    own = jax.nn.one_hot(labels, margins.shape[-1], dtype=bool)
    return (own | (margins > 0)).all(axis=-1)
