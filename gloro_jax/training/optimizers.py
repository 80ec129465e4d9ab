"""The optimiser, from optax, and the learning rate's schedule."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from gloro_jax.schedules import Schedule, parse_schedule
from gloro_jax.training import manifold
from gloro_jax.training.config import TrainConfig

_SLOW_STEP = 0.5
# What layers call their vectors, stacks of which have two axes, and LipNeXt's map of positions.
_NO_KERNELS = ("bias", "gain", "offset", "factor")
_MUON_RMS = 0.2  # of its moves, over the learning rate, as Adam's (Liu et al. 2025)


def learning_rate(config: TrainConfig, *, steps_per_epoch: int) -> Schedule:
    """From the step count to the learning rate: warm-up times schedule times peak."""
    factor = parse_schedule(config.learning_rate_schedule, epochs=config.epochs)

    def rate(step: Any) -> Any:
        time = step / steps_per_epoch
        warm = jnp.minimum(time / config.warmup_epochs, 1.0) if config.warmup_epochs else 1.0
        return config.learning_rate * warm * factor(time)

    return rate


def make_optimizer(
    config: TrainConfig,
    *,
    steps_per_epoch: int,
    own: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clipping, then the optimiser of the config, perhaps inside Lookahead, and an average.

    Parameters named "orthogonal" turn on their manifold instead (`gloro_jax.training.manifold`).

    Args:
        config: how to train.
        steps_per_epoch: for schedules in epochs.
        own: in place of clipping, optimiser and Lookahead.
    """
    rate = learning_rate(config, steps_per_epoch=steps_per_epoch)
    turning = manifold.turning_adam(rate, retract_every=steps_per_epoch)
    clip = optax.clip_by_global_norm(config.clip_norm)
    if own is not None:
        plain = others = _with_plain_keys(own)
    else:
        inner = _inner(config, rate)
        plain, others = optax.chain(clip, inner), inner
        if config.lookahead:  # its mean of matrices would leave the manifold
            plain, others = (_lookahead(o, period=config.lookahead) for o in (plain, others))
    both = optax.multi_transform({"plain": others, manifold.NAME: turning}, manifold.labels)
    routed = _routed(plain, optax.chain(clip, both) if own is None else both)
    return _averaged(routed, decay=config.average) if config.average else routed


def _inner(config: TrainConfig, rate: Schedule) -> optax.GradientTransformation:
    decay: Any = {"weight_decay": config.weight_decay, "mask": _decaying}
    if config.optimizer == "sgd":
        decayed = [optax.add_decayed_weights(**decay)] if config.weight_decay else []
        return optax.chain(*decayed, optax.sgd(rate, momentum=config.momentum, nesterov=True))
    if config.optimizer == "adamw":
        return optax.adamw(rate, **decay)
    if config.optimizer == "muon":
        return optax.contrib.muon(
            rate, consistent_rms=_MUON_RMS, muon_weight_dimension_numbers=_matrices
        )
    return {"nadam": optax.nadam, "adam": optax.adam}[config.optimizer](rate)


def described(optimizer: Any) -> str:
    """The kind of an optimiser of one's own, as a run's config has it.

    Raises:
        TypeError: if it is none, or one that asks for more than gradients and parameters.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "optimizer is an optax.GradientTransformation, optax.adam(1e-3) for example; got "
            f"{optimizer!r}."
        )
    params = {"kernel": jnp.zeros((2, 2))}
    try:
        state = optimizer.init(params)
        jax.eval_shape(optimizer.update, params, state, params)
    except Exception as error:
        raise TypeError(
            "optimizer must take gradients, its state and parameters, and nothing else, as most of "
            f"optax's do and optax.lbfgs does not. It says: {error}"
        ) from None
    return str(jax.tree.structure(state))


def _routed(plain: Any, with_manifold: Any) -> optax.GradientTransformationExtraArgs:
    """One transformation for networks without orthogonal parameters, another for those with."""

    def chosen(tree: Any) -> Any:
        return with_manifold if manifold.has_orthogonal(tree) else plain

    return optax.GradientTransformationExtraArgs(
        lambda params: chosen(params).init(params),
        lambda updates, state, params=None, **_: chosen(updates).update(updates, state, params),
    )


class Averaged(NamedTuple):
    """The optimiser's state, and the running mean of the weights."""

    mean: Any
    count: Any
    inner: Any


def _averaged(inner: Any, *, decay: float) -> optax.GradientTransformationExtraArgs:
    """An exponential moving average of the weights, beside an optimiser that does not see it.

    Its decay rises from 0.1 with the steps, so that the initial weights are soon forgotten.
    """

    def init(params: Any) -> Averaged:
        return Averaged(params, jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra
        moved, new = inner.update(updates, state.inner, params)
        weights, count = optax.apply_updates(params, moved), state.count + 1
        keep = jnp.minimum(decay, (1 + count) / (10 + count))
        mean = jax.tree.map(lambda m, w: keep * m + (1 - keep) * w, state.mean, weights)
        return moved, Averaged(mean, count, new)

    return optax.GradientTransformationExtraArgs(init, update)


def _with_plain_keys(own: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The same, with random keys kept as numbers, which a checkpoint can hold."""

    def is_key(leaf: Any) -> bool:
        return jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)

    def plain(state: Any) -> Any:
        return jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, state)

    def as_in(fresh: Any, leaf: Any) -> Any:
        if not is_key(fresh):
            return leaf
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(fresh))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra
        fresh = own.init(updates if params is None else params)
        moved, new = own.update(updates, jax.tree.map(as_in, fresh, state), params)
        return moved, plain(new)

    return optax.GradientTransformationExtraArgs(lambda params: plain(own.init(params)), update)


def _is_kernel(path: Any, leaf: Any) -> bool:
    """Whether a parameter is one: of two or more axes, and no stack or field of other things."""
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return leaf.ndim > 1 and not name.endswith(_NO_KERNELS)


def _decaying(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(_is_kernel, params)


def _matrices(params: Any) -> Any:
    """Kernels as matrices for Muon: to the last axis, from the others; stacks one by one."""

    def numbers(path: Any, leaf: Any) -> Any:
        if not _is_kernel(path, leaf):
            return None
        first = leaf.ndim % 2  # nn.scan stacks dense and convolution kernels along an axis
        inputs = tuple(range(first, leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(inputs, (leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(numbers, params)


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
