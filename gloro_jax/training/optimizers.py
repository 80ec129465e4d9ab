"""The optimiser, from optax, and the learning rate's schedule."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from gloro_jax.schedules import Schedule, parse_schedule
from gloro_jax.training.config import TrainConfig

_SLOW_STEP = 0.5


def learning_rate(config: TrainConfig, *, steps_per_epoch: int) -> Schedule:
    """From the step count to the learning rate: warm-up times schedule times peak."""
    factor = parse_schedule(config.learning_rate_schedule, epochs=config.epochs)

    def rate(step: Any) -> Any:
        time = step / steps_per_epoch
        warm = jnp.minimum(time / config.warmup_epochs, 1.0) if config.warmup_epochs else 1.0
        return config.learning_rate * warm * factor(time)

    return rate


def make_optimizer(
    config: TrainConfig, *, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    """Clipping, then the optimiser of the config, perhaps inside Lookahead."""
    rate = learning_rate(config, steps_per_epoch=steps_per_epoch)
    decay: Any = {"weight_decay": config.weight_decay, "mask": _decaying}
    if config.optimizer == "sgd":
        decayed = [optax.add_decayed_weights(**decay)] if config.weight_decay else []
        moved = optax.sgd(rate, momentum=config.momentum, nesterov=True)
        inner = optax.chain(*decayed, moved)
    elif config.optimizer == "adamw":
        inner = optax.adamw(rate, **decay)
    else:
        inner = {"nadam": optax.nadam, "adam": optax.adam}[config.optimizer](rate)
    fast = optax.chain(optax.clip_by_global_norm(config.clip_norm), inner)
    return _lookahead(fast, period=config.lookahead) if config.lookahead else fast


def _decaying(params: Any) -> Any:
    """Which parameters decay: those of two or more axes, which are kernels."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


class _LookaheadState(NamedTuple):
    slow: Any
    inner: Any


def _lookahead(
    fast: optax.GradientTransformation, *, period: int
) -> optax.GradientTransformationExtraArgs:
    """Optax's Lookahead, with the slow weights kept in the optimiser's state.

    Optax asks for fast and slow weights as one tree of parameters; here the parameters stay what
    they are for every other optimiser: the fast weights, which equal the slow ones after each
    `period` steps.
    """
    pair = optax.lookahead(fast, sync_period=period, slow_step_size=_SLOW_STEP)

    def init(params: Any) -> _LookaheadState:
        both = optax.LookaheadParams(fast=params, slow=params)
        return _LookaheadState(params, pair.init(cast(Any, both)))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra
        both = optax.LookaheadParams(fast=params, slow=state.slow)
        moved: Any
        moved, inner = pair.update(updates, state.inner, cast(Any, both))
        slow = optax.apply_updates(state.slow, moved.slow)
        return moved.fast, _LookaheadState(slow, inner)

    return optax.GradientTransformationExtraArgs(init, update)
