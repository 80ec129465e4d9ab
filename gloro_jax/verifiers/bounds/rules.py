"""The rule of each step: which operations of `gloro_jax.verifiers.bounds.operations` it is."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.frozen_net import FrozenNet, raw_logits
from gloro_jax.layers.lipnext import shift_channels
from gloro_jax.lipschitz.geometry import output_size
from gloro_jax.lipschitz.steps import Step, Steps, every
from gloro_jax.network import Network
from gloro_jax.platforms import jit
from gloro_jax.program.agreement import random_points
from gloro_jax.verifiers.bounds.convolutions import convolve
from gloro_jax.verifiers.bounds.kinks import absolute, max_pool, sorted_pairs
from gloro_jax.verifiers.bounds.operations import Affine, Chain, Parallel, Relu, Shape, run
from gloro_jax.views import source_of_pixels


def check_rules(network: Network, *, method: str) -> None:
    """Raises a ValueError if a step of the network has no rule."""
    for step in every(network.steps):
        if step.op not in _RULES:
            what = "a function of its own" if step.op is None else repr(step.op)
            raise ValueError(
                f"{method} has no rule for a layer that applies {what}. It bounds networks of "
                f"{', '.join(sorted(map(str, _RULES)))}. gj.certify needs none, nor does "
                "gj.verifiers.Smoothing."
            )


_examined: set[Any] = set()


def check_executed(network: Network, frozen: FrozenNet) -> None:
    """Raises a ValueError if the steps of a network do something else than what runs.

    A layer says by its `step` what it does. Scores at a few random points are compared, once for
    each program and its weights.
    """
    what = frozen.digest, jax.tree.structure(frozen)  # a digest binds what steps say, not what runs
    if what in _examined:
        return
    x = random_points(network.input_shape)
    try:
        executed, described = map(np.asarray, _scores(frozen, network, x))
    except TypeError as error:  # of shapes that do not fit
        raise ValueError(f"{_ANOTHER}: {error}") from None
    lengths = np.sqrt(np.square(x).reshape(len(x), -1).sum(axis=1))
    reach = float(network.lipschitz) * float(network.norms["head"]) * lengths
    room = 1e-3 * np.abs(executed).max(axis=1) + 1e-5 * reach
    with np.errstate(invalid="ignore"):  # where both overflow, nothing is compared
        gap = np.abs(executed - described).max(axis=1)
    if np.isfinite(executed).all() and not (gap <= room).all():
        raise ValueError(
            f"{_ANOTHER}: their scores differ by {gap.max():.3g}, of {np.abs(executed).max():.3g}."
        )
    _examined.add(what)


_ANOTHER = (
    "The network as its steps describe it is not the one that runs, so that a verifier would speak "
    "of another one. Some layer does something else than its `step` says, two layers share one "
    "name, or a loop hands on what it did not compute"
)


@jit
def _scores(frozen: FrozenNet, network: Network, x: Any) -> Any:
    return raw_logits(frozen, x).values, run(chain_of(network), x)


def chain_of(network: Network) -> Chain:
    """The operations of a network from image to scores.

    Args:
        network: the network; its arrays, which may be traced, have the precision to compute with.
    """
    return _Lowering(network).chain(network.steps, network.input_shape)


class _Lowering:
    def __init__(self, network: Network) -> None:
        self.network, self.arrays, self.units = network, network.arrays, itertools.count()

    def chain(self, steps: Steps, before: Shape) -> Chain:
        ops: Chain = ()
        for step in steps:
            ops += _RULES[step.op](self, step, dict(step.options), before)
            before = ops[-1].after if ops else before
        return ops

    def relu(self, shape: Shape) -> Relu:
        return Relu(next(self.units), shape)

    def bias(self, options: dict[str, Any]) -> Any:
        return None if options["bias"] is None else self.arrays[options["bias"]]


def _dense(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    kernel, norm = at.arrays[options["kernel"]], _norm(at, options)
    after = (kernel.shape[1],)
    return (Affine(lambda k, z: z @ k, before, after, kernel, at.bias(options), norm),)


def _norm(at: _Lowering, options: dict[str, Any]) -> Any:
    return at.network.norms[options["layer"]]


def _conv(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    kernel = at.arrays[options["kernel"]]
    place = {name: options[name] for name in ("strides", "pads", "groups")}
    window = (kernel.shape[0], kernel.shape[1])
    sizes = output_size(before[:2], window, place["strides"], place["pads"])  # type: ignore[arg-type]
    fn = functools.partial(convolve, **place)
    after = (*sizes, kernel.shape[3])
    return (Affine(fn, before, after, kernel, at.bias(options), _norm(at, options)),)


def _scale(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    kernel, norm = at.arrays[options["kernel"]], _norm(at, options)
    return (Affine(lambda k, z: z * k, before, before, kernel, at.bias(options), norm),)


def _sum(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    branches = tuple(at.chain(branch, before) for branch in step.branches)
    after = next((branch[-1].after for branch in branches if branch), before)
    return (Parallel(branches, before, after),)


def _views(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    (steps,), views = step.branches, options["views"]
    branches = tuple((_view(view, before), *at.chain(steps, before)) for view in views)
    after, share = branches[0][-1].after, jnp.asarray(1 / len(views), _dtype(at))
    mean = Affine(lambda k, z: z * k, after, after, share, norm=1 / len(views))
    return (Parallel(branches, before, after), mean)


def _dtype(at: _Lowering) -> Any:
    return next(iter(at.arrays.values())).dtype


def _view(view: Any, before: Shape) -> Affine:
    height, width, channels = before
    source = source_of_pixels(view, height=height, width=width).ravel()

    def look(_: Any, z: Any) -> Any:
        seen = z.reshape(-1, height * width, channels)[:, np.maximum(source, 0)]
        return jnp.where((source >= 0)[None, :, None], seen, 0).reshape(-1, *before)

    return Affine(look, before, before)


def _normalize(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    mean, factor = (np.asarray(options[name], np.float64) for name in ("mean", "factor"))
    lead = (1,) * len(before)
    entries = jnp.asarray(factor, _dtype(at)).reshape(*lead, -1)
    offset = jnp.asarray(-mean * factor, _dtype(at))
    norm = float(np.abs(factor).max())
    return (Affine(lambda k, z: z * k, before, before, entries, offset, norm),)


def _average(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    window, strides, pads = (options[name] for name in ("window", "strides", "pads"))
    sizes = output_size(before[:2], window, strides, pads)  # type: ignore[arg-type]

    def pool(share: Any, z: Any) -> Any:
        full = ((0, 0), *pads, (0, 0))
        sides, steps = (1, *window, 1), (1, *strides, 1)
        return jax.lax.reduce_window(z, 0.0, jax.lax.add, sides, steps, full) * share

    axes = zip(window, strides, strict=True)
    norm = math.prod(math.sqrt(-(-k // s) / k) for k, s in axes) * (1 + 1e-12)
    share = jnp.asarray(1 / math.prod(window), _dtype(at))
    return (Affine(pool, before, (*sizes, before[2]), share, norm=norm),)


def _flatten(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    after = (math.prod(before),)
    return (Affine(lambda _, z: z.reshape(-1, *after), before, after),)


def _space_to_depth(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    b, (height, width, channels) = options["block"], before
    after = (height // b, width // b, b * b * channels)

    def move(_: Any, z: Any) -> Any:
        split = z.reshape(-1, height // b, b, width // b, b, channels)
        return split.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *after)

    return (Affine(move, before, after),)


def _translate(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    return (Affine(lambda _, z: z, before, before, offset=at.arrays[options["offset"]]),)


def _shift(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    return (Affine(lambda _, z: shift_channels(z, **options), before, before),)


def _first(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    count = options["count"]
    return (Affine(lambda _, z: z[..., :count], before, (*before[:-1], count)),)


def _relu(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
    return (at.relu(before),)


def _kinked(rule: Callable[..., Chain]) -> "_Rule":
    def apply(at: _Lowering, step: Step, options: dict[str, Any], before: Shape) -> Chain:
        return rule(at.relu, options, before, _dtype(at))

    return apply


_Rule = Callable[[_Lowering, Step, dict[str, Any], Shape], Chain]
_RULES: dict[str | None, _Rule] = {
    "dense": _dense,
    "conv": _conv,
    "scale": _scale,
    "sum": _sum,
    "mean_over_views": _views,
    "normalize": _normalize,
    "average_pool": _average,
    "max_pool": _kinked(max_pool),
    "flatten": _flatten,
    "space_to_depth": _space_to_depth,
    "translate": _translate,
    "channel_shift": _shift,
    "first": _first,
    "relu": _relu,
    "minmax": _kinked(sorted_pairs),
    "abs": _kinked(absolute),
    "beta_abs": _kinked(absolute),
}
