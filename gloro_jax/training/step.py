"""The steps: pure functions of one device's share of a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from gloro_jax import losses
from gloro_jax.data.batches import Batch, as_float
from gloro_jax.gloro import GloroNet
from gloro_jax.layers import PowerIteration
from gloro_jax.margins import GloroLogits, bottom_logit
from gloro_jax.schedules import epsilon_ramp, warmup_cosine
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.parallel import sum_over_devices, value_and_grad
from gloro_jax.training.state import TrainState

Loss = Callable[..., Any]

# Validation may take its time: the estimate it reports is then close to the norm.
_VALIDATION_STEPS = 30


def make_loss(config: TrainConfig) -> Loss:
    """(logits, labels, epsilon=) to one number per example, from the config's choice."""
    choices: dict[losses.LossName, Loss] = {
        "emma": losses.emma,
        "gloro_cross_entropy": losses.gloro_cross_entropy,
        "trades_kl": functools.partial(losses.trades_kl, weight=config.trades_weight),
        "trades_ce": functools.partial(losses.trades_ce, weight=config.trades_weight),
        "margin": losses.margin,
        "lmt": losses.lmt,
    }
    if config.loss not in choices:
        raise ValueError(f"loss is one of {sorted(choices)}, got {config.loss!r}.")
    return choices[config.loss]


def make_optimizer(
    config: TrainConfig, *, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    """NAdam with clipping, linear warm-up and cosine decay (Hu et al. 2024's recipe)."""
    learning_rate = warmup_cosine(
        config.learning_rate,
        warmup_steps=config.warmup_epochs * steps_per_epoch,
        total_steps=config.epochs * steps_per_epoch,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.nadam(learning_rate))


def make_train_step(
    net: GloroNet,
    config: TrainConfig,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    steps_per_epoch: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """The training step, to be run by `data_parallel`.

    Its metrics are sums over the batch, with their `count`.
    """
    loss_of, norms = make_loss(config), PowerIteration(steps=config.power_steps)
    radius = epsilon_ramp(
        config.epsilon,
        start=config.epsilon_start,
        end=config.epsilon_end,
        ramp_steps=round(config.ramp * config.epochs * steps_per_epoch),
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        epsilon = radius(state.step)

        def objective(params: Any, spectral: Any) -> Any:
            logits, new = net.apply(
                {"params": params, "spectral": spectral},
                as_float(batch.images),
                norms=norms,
                is_training=True,
                mutable=["spectral"],
            )
            per_example = loss_of(logits, batch.labels, epsilon=epsilon)
            sums = _sums(logits, batch, per_example, epsilon=config.epsilon)
            return jnp.mean(per_example), (new.get("spectral", {}), sums)

        (_, (spectral, sums)), gradient = value_and_grad(objective, state.params, state.spectral)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, spectral, opt_state), sums

    return step


def make_eval_step(
    net: GloroNet, config: TrainConfig
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """Sums over a padded batch, with norms by power iteration: an estimate, never a certificate."""
    loss_of, norms = make_loss(config), PowerIteration(steps=_VALIDATION_STEPS)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        variables = {"params": state.params, "spectral": state.spectral}
        logits: Any = net.apply(variables, as_float(batch.images), norms=norms)
        per_example = loss_of(logits, batch.labels, epsilon=config.epsilon)
        return state, sum_over_devices(_sums(logits, batch, per_example, epsilon=config.epsilon))

    return step


def _sums(logits: GloroLogits, batch: Batch, loss: Any, *, epsilon: float) -> dict[str, Any]:
    is_correct = (logits.prediction == batch.labels) & batch.is_real
    is_above = logits.values.max(axis=-1) > bottom_logit(logits, epsilon=epsilon)
    return {
        "loss": jnp.sum(jnp.where(batch.is_real, loss, 0.0)),
        "correct": jnp.sum(is_correct, dtype=jnp.float32),
        "certified_estimate": jnp.sum(is_correct & is_above, dtype=jnp.float32),
        "count": jnp.sum(batch.is_real, dtype=jnp.float32),
    }
