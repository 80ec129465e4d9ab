"""Activations and max pooling, made of ReLUs: max(a, b) = b + relu(a - b)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gloro_jax.activations import minmax, pairs, unpair
from gloro_jax.lipschitz.geometry import output_size, tap_table
from gloro_jax.verifiers.bounds.operations import Affine, Chain, Kinked, Parallel, Relu, Shape

NewRelu = Callable[[Shape], Relu]


def sorted_pairs(relu: NewRelu, options: dict[str, Any], before: Shape, dtype: Any) -> Chain:
    """(max, min) of (a, b) is (b, a) + (r, -r) with r = relu(a - b)."""
    pairing, half = options["pairing"], (*before[:-1], before[-1] // 2)
    signs = jnp.asarray([1, -1], dtype)

    def placed(high: Any, low: Any) -> Any:
        is_first = options["order"] == "max_min"
        return unpair(high, low, pairing) if is_first else unpair(low, high, pairing)

    def swap(_: Any, z: Any) -> Any:
        a, b = pairs(z, pairing)
        return placed(b, a)

    def difference(s: Any, z: Any) -> Any:
        a, b = pairs(z, pairing)
        return a * s[0] + b * s[1]

    chain = (
        Affine(difference, before, half, signs, norm=math.sqrt(2) * (1 + 1e-12)),
        relu(half),
        Affine(lambda s, r: placed(s[0] * r, s[1] * r), half, before, signs, norm=1.5),
    )
    exact = functools.partial(minmax, **options)
    both = Parallel(((Affine(swap, before, before),), chain), before, before)
    return (Kinked(exact, lambda low, high: (exact(low), exact(high)), (both,), before, before),)


def absolute(relu: NewRelu, options: dict[str, Any], before: Shape, dtype: Any) -> Chain:
    """|z| is 2 relu(z) - z, here of the first `count` features."""
    count, features = options.get("count", before[-1]), before[-1]
    if count == 0:
        return ()
    some = (*before[:-1], count)
    is_first = (np.arange(features) < count).reshape(*(1,) * len(before), -1)
    keep = jnp.where(is_first, -1, 1).astype(dtype)

    def put(twice: Any, r: Any) -> Any:
        rest = [(0, 0)] * (r.ndim - 1) + [(0, features - count)]
        return jnp.pad(r * twice, rest)

    def exact(z: Any) -> Any:
        return jnp.concatenate([jnp.abs(z[..., :count]), z[..., count:]], axis=-1)

    def box(low: Any, high: Any) -> tuple[Any, Any]:
        least = jnp.maximum(jnp.maximum(low, -high), 0)
        most = jnp.maximum(jnp.abs(low), jnp.abs(high))
        return jnp.where(is_first, least, low), jnp.where(is_first, most, high)

    chain = (
        Affine(lambda _, z: z[..., :count], before, some),
        relu(some),
        Affine(put, some, before, jnp.asarray(2, dtype), norm=2.0),
    )
    negated = Affine(lambda k, z: z * k, before, before, keep)
    return (Kinked(exact, box, (Parallel(((negated,), chain), before, before),), before, before),)


def max_pool(relu: NewRelu, options: dict[str, Any], before: Shape, dtype: Any) -> Chain:
    """Taps are gathered, and the larger half kept until one is left; padding never wins."""
    place = (options["window"], options["strides"], options["pads"])
    table, (height, width, channels) = tap_table(before[:2], *place), before  # type: ignore[arg-type]
    table = np.where(table < 0, table.max(axis=1, keepdims=True), table)
    taps = 2 ** math.ceil(math.log2(table.shape[1]))
    table = np.pad(table, ((0, 0), (0, taps - table.shape[1])), mode="edge")
    after = (*output_size(before[:2], *place), channels)  # type: ignore[arg-type]

    def gather(_: Any, z: Any) -> Any:
        return z.reshape(-1, height * width, channels)[:, table]

    def exact(z: Any) -> Any:
        return gather(None, z).max(axis=2).reshape(-1, *after)

    shape = (len(table), taps, channels)
    chain: Chain = (Affine(gather, before, shape, norm=math.sqrt(math.prod(place[0]) + 1)),)
    while shape[1] > 1:
        fold = _fold(relu, shape, dtype)
        chain, shape = (*chain, fold), fold.after
    chain += (Affine(lambda _, z: z.reshape(-1, *after), shape, after),)
    return (Kinked(exact, lambda low, high: (exact(low), exact(high)), chain, before, after),)


def _fold(relu: NewRelu, before: Shape, dtype: Any) -> Parallel:
    """max(a, b) = b + relu(a - b) of the two halves of the taps."""
    half = before[1] // 2
    after = (before[0], half, before[2])
    signs = jnp.asarray([1, -1], dtype)
    second = Affine(lambda _, z: z[:, :, half:], before, after)
    norm = math.sqrt(2) * (1 + 1e-12)
    lead = Affine(
        lambda s, z: z[:, :, :half] * s[0] + z[:, :, half:] * s[1], before, after, signs, norm=norm
    )
    return Parallel(((second,), (lead, relu(after))), before, after)
