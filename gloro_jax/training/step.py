"""The steps: pure functions of one device's share of a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gloro_jax import guarantees, losses
from gloro_jax.data.augment import augmented
from gloro_jax.data.batches import Batch, as_float
from gloro_jax.gloro import GloroNet
from gloro_jax.layers import PowerIteration
from gloro_jax.logits import GloroLogits
from gloro_jax.platforms import random_key
from gloro_jax.schedules import parse_schedule
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.scaling.parallel import AXIS, sum_over_devices, value_and_grad
from gloro_jax.training.state import TrainState
from gloro_jax.training.verified import is_verified, make_margins, verified_loss

Loss = Callable[..., Any]

# Validation may take its time: the estimate it reports is then close to the norm.
_VALIDATION_STEPS = 30

# The collections that a training step moves without a gradient.
_MOVING = ("spectral", "centering")

# Initial weights come from the seed's key itself; augmentation draws from a key folded from it.
_AUGMENTATION_STREAM = 1


def make_loss(config: TrainConfig) -> Loss:
    """(logits, labels, epsilon=, weight=) to one number per example, from the config's choice.

    Only the TRADES losses and CRM look at `weight`.
    """
    weighted: dict[losses.LossName, Loss] = {
        "trades_kl": losses.trades_kl,
        "trades_ce": losses.trades_ce,
        "crm": losses.crm,
    }
    relaxed = {}
    if config.loss in losses.RELAXABLE:
        relaxed = {"guarantee": guarantees.parse(config.guarantee)}
    if config.loss in weighted:
        return functools.partial(weighted[config.loss], **relaxed)
    plain: dict[losses.LossName, Loss] = {
        "emma": losses.emma,
        "gloro_cross_entropy": losses.gloro_cross_entropy,
        "margin": losses.margin,
        "lmt": losses.lmt,
        "logit_annealing": losses.logit_annealing,
        "offset_cross_entropy": losses.offset_cross_entropy,
    }
    if config.loss not in plain:
        choices = sorted([*plain, *weighted])
        raise ValueError(f"loss is one of {choices}, got {config.loss!r}.")
    chosen = plain[config.loss]
    return lambda logits, labels, *, epsilon, weight: chosen(
        logits, labels, epsilon=epsilon, **relaxed
    )


def make_train_step(
    net: GloroNet,
    config: TrainConfig,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    steps_per_epoch: int,
    input_shape: tuple[int, ...] = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """The training step, to be run by `data_parallel`.

    Its metrics are sums over the batch, with their `count`. Losses that ask a verifier need the
    `input_shape` of one image.
    """
    made = _make_verified_objective if config.is_verified else _make_objective
    objective = made(net, config, steps_per_epoch=steps_per_epoch, input_shape=input_shape)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        rest = {name: state.variables[name] for name in _MOVING}
        (_, (moved, sums)), gradient = value_and_grad(
            objective, state.params, batch, rest, state.step, microbatches=config.microbatches
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        parts = jax.lax.axis_size(AXIS) * config.microbatches  # whose sums were averaged
        sums = jax.tree.map(lambda mean: mean * parts, sums)
        return TrainState(state.step + 1, params, **moved, opt_state=opt_state), sums

    return step


def _make_objective(
    net: GloroNet, config: TrainConfig, *, steps_per_epoch: int, input_shape: tuple[int, ...]
) -> Callable[[Any, Batch, Any, Any], Any]:
    """(params, batch, other collections, step) to (mean loss, (new collections, sums))."""
    del input_shape
    loss_of, norms = make_loss(config), PowerIteration(steps=config.power_steps)
    radius = parse_schedule(config.epsilon_schedule, epochs=config.epochs)
    weight = parse_schedule(config.trades_schedule, epochs=config.epochs)

    def objective(params: Any, batch: Batch, rest: Any, step: Any) -> Any:
        images = _images(batch, config, step)
        logits, new = net.apply(
            {"params": params, **rest},
            images.astype(config.compute),
            norms=norms,
            is_training=True,
            batch_axis=AXIS,
            mutable=list(_MOVING),
        )
        time = step / steps_per_epoch
        per_example = loss_of(
            logits,
            batch.labels,
            epsilon=config.epsilon * radius(time),
            weight=config.trades_weight * weight(time),
        )
        sums = _sums(logits, batch, per_example, config)
        return jnp.mean(per_example), ({name: new.get(name, {}) for name in _MOVING}, sums)

    return objective


def _images(batch: Batch, config: TrainConfig, step: Any) -> Any:
    """What the network sees of a batch at a step."""
    key = jax.random.fold_in(random_key(config.seed), _AUGMENTATION_STREAM)
    return augmented(batch.images, batch.index, config=config.augmentation, key=key, step=step)


def _make_verified_objective(
    net: GloroNet, config: TrainConfig, *, steps_per_epoch: int, input_shape: tuple[int, ...]
) -> Callable[[Any, Batch, Any, Any], Any]:
    """As `_make_objective`, for losses that ask a verifier; estimates are at the step's radius."""
    margins_of = make_margins(net, config, input_shape=input_shape)
    norms = PowerIteration(steps=config.power_steps)
    radius = parse_schedule(config.epsilon_schedule, epochs=config.epochs)
    weight = parse_schedule(config.trades_schedule, epochs=config.epochs)

    def objective(params: Any, batch: Batch, rest: Any, step: Any) -> Any:
        images = _images(batch, config, step)
        variables, time = {"params": params, **rest}, step / steps_per_epoch
        told = {"norms": norms, "is_training": True, "batch_axis": AXIS}
        logits, new = net.apply(variables, images, **told, mutable=list(_MOVING))
        at, share = config.epsilon * radius(time), jnp.clip(time / config.epochs, 0, 1)
        margins = margins_of(variables, images, batch.labels, radius=at, share=share)
        per_example = verified_loss(
            logits.values, margins, batch.labels, weight=config.trades_weight * weight(time)
        )
        found = is_verified(margins, batch.labels)
        sums = _counted(logits, batch, per_example, found, jnp.zeros_like(found))
        return jnp.mean(per_example), ({name: new.get(name, {}) for name in _MOVING}, sums)

    return objective


def make_eval_step(
    net: GloroNet, config: TrainConfig, *, input_shape: tuple[int, ...] = ()
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """Sums over a padded batch, with norms by power iteration: an estimate, never a certificate.

    Of losses that ask a verifier, the estimate is that verifier's, in float32.
    """
    if config.is_verified:
        return _make_verified_eval_step(net, config, input_shape)
    loss_of, norms = make_loss(config), PowerIteration(steps=_VALIDATION_STEPS)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        logits: Any = net.apply(state.judged, as_float(batch.images), norms=norms)
        per_example = loss_of(
            logits, batch.labels, epsilon=config.epsilon, weight=config.trades_weight
        )
        return state, sum_over_devices(_sums(logits, batch, per_example, config))

    return step


def _make_verified_eval_step(
    net: GloroNet, config: TrainConfig, input_shape: tuple[int, ...]
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    margins_of, norms = make_margins(net, config, input_shape=input_shape), PowerIteration(steps=1)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        images, labels = as_float(batch.images), batch.labels
        logits: Any = net.apply(state.judged, images, norms=norms)
        near, far = (
            margins_of(state.judged, images, labels, radius=factor * config.epsilon, share=1.0)
            for factor in (1.0, 2.0)
        )
        per_example = verified_loss(logits.values, near, labels, weight=config.trades_weight)
        found = [is_verified(margins, labels) for margins in (near, far)]
        return state, sum_over_devices(_counted(logits, batch, per_example, *found))

    return step


def _sums(logits: GloroLogits, batch: Batch, loss: Any, config: TrainConfig) -> dict[str, Any]:
    guarantee = guarantees.parse(config.guarantee)
    near, far = (
        guarantees.is_verified(
            logits, batch.labels, epsilon=factor * config.epsilon, guarantee=guarantee
        )
        for factor in (1, 2)
    )
    return _counted(logits, batch, loss, near, far)


def _counted(logits: GloroLogits, batch: Batch, loss: Any, near: Any, far: Any) -> dict[str, Any]:
    """Sums over a batch; `near` and `far` say what is verified at epsilon and at twice that."""
    is_correct = (logits.prediction == batch.labels) & batch.is_real
    return {
        "loss": jnp.sum(jnp.where(batch.is_real, loss, 0.0)),
        "correct": jnp.sum(is_correct, dtype=jnp.float32),
        "certified_estimate": jnp.sum(near & batch.is_real, dtype=jnp.float32),
        "certified_estimate_2x": jnp.sum(far & batch.is_real, dtype=jnp.float32),
        "count": jnp.sum(batch.is_real, dtype=jnp.float32),
    }
