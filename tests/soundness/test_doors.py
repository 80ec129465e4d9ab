"""Ways around the doors of a Bounded, each beside an honest twin that does certify.

Every hostile body here certified with too small a constant before `freeze` looked at the program,
or is a sibling of one that did.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.lipschitz.norms import UpperBound

NORMS = gj.PowerIteration(steps=1)
FEATURES = 4


class Layer(layers.LipschitzLayer):
    """A layer of one's own from a function of its input."""

    fn: object

    def __call__(self, x):
        return self.fn(x)


def frozen_with(*parts, shape=(2, 2, 1), classes=2):
    """A net of the given layers, Flatten first; its head reads the features as they are."""
    own = [part if isinstance(part, nn.Module) else Layer(part) for part in parts]
    body = nn.Sequential([layers.Flatten(), *own])
    net = gj.GloroNet(body, num_classes=classes)
    head = np.random.default_rng(0).standard_normal((4, classes)).astype(np.float32)
    params = {"head_kernel": head, "head_bias": np.zeros(classes, np.float32)}
    return gj.freeze(net, {"params": params}, input_shape=shape)


def times(c):
    return lambda x: x.apply(lambda v: c * v, lipschitz=float(c))


def mapped(fn):
    return lambda x: jax.tree.map(fn, x)


def mapped_pair(fn, *, factor=50.0):
    """`fn` over the leaves of an activation and of a steeper branch from it."""
    return lambda x: jax.tree.map(fn, times(factor)(x), x)


def by_shape(a):
    return 100 * a if a.ndim else a


def steeper_if_large(a):
    return (a.reshape(-1) * 100).reshape(a.shape) if a.size > 1 else a


def bfloat_and_back(a):
    return a.astype(jnp.bfloat16).astype(jnp.float32) if a.ndim else a


def kept_in_a_list(x):
    kept = []

    def keep(v):
        kept.append(v)
        return v

    return x.apply(keep, lipschitz=1.0).apply(lambda v: v + 49 * kept[0], lipschitz=1.0)


def kept_from_leaves(x):
    value = jax.tree.leaves(x)[0]
    return times(1)(x).apply(lambda v: v + 49 * value, lipschitz=1.0)


def kept_through_jit(x):
    value = jax.tree.leaves(x)[0]
    return x.apply(jax.jit(lambda v: v + 49 * value), lipschitz=1.0)


def kept_and_used_outside(x):
    kept = []

    def keep(v):
        kept.append(v)
        return v

    return dataclasses.replace(x.apply(keep, lipschitz=1.0), _value=50 * kept[0])


HELD = []


def kept_on_the_host(x):
    def store(v):
        HELD.append(np.array(v))
        return v

    def recall(v):
        return np.asarray(v) + 49 * HELD[-1][:1]

    def through(fn):
        def call(v):
            out = jax.ShapeDtypeStruct(v.shape, v.dtype)
            return jax.pure_callback(fn, out, v, vmap_method="sequential")

        return call

    return x.apply(through(store), lipschitz=1.0).apply(through(recall), lipschitz=1.0)


def larger_value(a, b):
    return jnp.maximum(a, b) if a.ndim else b


def swapped(x):
    """The value of one branch with the bound of another, without a single equation."""
    steep = times(50)(x)
    return jax.tree.map(lambda a, b: a if a.ndim else b, steep, x)


def replaced_bound(x):
    return dataclasses.replace(times(50)(x), _lipschitz=x._lipschitz)


def entered_again(x):
    steep = times(50)(x)
    value = jax.tree.leaves(steep)[0]
    return gj.Bounded.enter(value, kind="upper", rule=x.rule, is_training=False, dtype=jnp.float32)


def entered_again_among_doors(x):
    again = entered_again(x)
    return dataclasses.replace(again, doors=x.doors).apply(lambda v: v, lipschitz=1.0)


def in_a_scan(x):
    def turn(carry, _):
        return jax.tree.map(by_shape, carry), None

    return jax.lax.scan(turn, x, None, length=2)[0]


def in_remat(x):
    return jax.checkpoint(lambda x: jax.tree.map(by_shape, x))(x)


def in_jit(x):
    return jax.jit(lambda x: jax.tree.map(by_shape, x))(x)


def in_a_condition(x):
    return jax.lax.cond(True, lambda x: times(50)(x), lambda x: x, x)


def axes_of(x, *axes):
    """Axes for the value, the bound and the seal of an activation."""
    each = iter(axes)
    return jax.tree.map(lambda _: next(each), x)


def copies_by_vmap(x):
    """Four copies side by side, each with constant 1: together they have 2."""
    signs = jnp.asarray([1.0, -1.0, 1.0, 1.0])
    axes = axes_of(x, 1, None, 0)
    one = lambda s: x.apply(lambda v: s * v, lipschitz=1.0)  # noqa: E731
    wide = jax.vmap(one, out_axes=axes)(signs)
    return wide.apply(lambda v: v.reshape(v.shape[0], -1)[:, :4], lipschitz=1.0)


def copies_by_matrices(x):
    """The same, where not even a transposition is left outside the door."""
    matrices = jnp.stack([jnp.eye(4)] * 4)
    axes = axes_of(x, 1, None, 0)
    one = lambda m: x.apply(lambda v: v @ m, lipschitz=1.0)  # noqa: E731
    wide = jax.vmap(one, out_axes=axes)(matrices)
    return wide.apply(lambda v: v.reshape(v.shape[0], -1)[:, :4], lipschitz=1.0)


def summed_copies(x):
    """Four times the activation: psum of what is not mapped."""

    def one(_):
        return x.apply(lambda v: jax.lax.psum(v, "copy"), lipschitz=1.0)

    return jax.vmap(one, out_axes=None, axis_name="copy")(jnp.ones(4))


def summed_over_vmap(x):
    """Every entry gets the sum of all: constant 4, and psum hides it from the function."""
    axes = jax.tree.map(lambda a: 1 if a.ndim else None, x)

    def one(x):
        return x.apply(lambda v: jax.lax.psum(v, "entry"), lipschitz=1.0)

    return jax.vmap(one, in_axes=(axes,), out_axes=axes, axis_name="entry")(x)


def reduced_after_vmap(x):
    stacked = jax.vmap(lambda s: x.apply(lambda v: s * v, lipschitz=1.0), out_axes=0)(jnp.ones(4))
    return jax.tree.map(lambda a: a.sum(0) if a.ndim > 2 else a[0] if a.ndim else a, stacked)


def constant_from_the_bound(x):
    bound = jax.tree.leaves(x)[1]
    return x.apply(lambda v: 50 * v, lipschitz=UpperBound(bound))


def constant_from_the_value(x):
    return x.apply(lambda v: 50 * v, lipschitz=UpperBound(jnp.max(jax.tree.leaves(x)[0])))


HOSTILE = {
    "map: hard_tanh": mapped(jax.nn.hard_tanh),
    "map: by ndim": mapped(by_shape),
    "map: by dtype": mapped(lambda a: 100 * a if a.shape else a),
    "map: a cast of the value alone": mapped(bfloat_and_back),
    "map: a reshape and a product": mapped(steeper_if_large),
    "map: of two branches, minimum": mapped_pair(jnp.minimum),
    "map: of two branches, maximum of values": mapped_pair(larger_value),
    "map: of two branches, none of them touched": swapped,
    "map: order of features": mapped(lambda a: a[:, ::-1] if a.ndim else a),
    "map: order of the batch": mapped(lambda a: a[::-1] if a.ndim else a),
    "map: a constant activation": mapped(lambda a: jnp.ones_like(a) if a.ndim else a),
    "map: in scan": in_a_scan,
    "map: in remat": in_remat,
    "map: in jit": in_jit,
    "branches of cond": in_a_condition,
    "kept: in a list": kept_in_a_list,
    "kept: the leaves of another": kept_from_leaves,
    "kept: inside a jit": kept_through_jit,
    "kept: and used outside": kept_and_used_outside,
    "kept: on the host": kept_on_the_host,
    "parts: another bound": replaced_bound,
    "parts: entered again": entered_again,
    "parts: entered again, with doors": entered_again_among_doors,
    "vmap: copies": copies_by_vmap,
    "vmap: copies by matrices": copies_by_matrices,
    "vmap: psum": summed_over_vmap,
    "vmap: psum of copies": summed_copies,
    "vmap: reduced": reduced_after_vmap,
    "constant: the bound itself": constant_from_the_bound,
    "constant: from the value": constant_from_the_value,
    "batch: reordered by a function": lambda x: x.apply(lambda v: v[::-1], lipschitz=1.0),
    "batch: mean taken off by a function": lambda x: x.apply(
        lambda v: v - v.mean(0, keepdims=True), lipschitz=1.0
    ),
    "batch: sorted by a function": lambda x: x.apply(lambda v: jnp.sort(v, axis=0), lipschitz=1.0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_way_around_the_doors_does_not_freeze_and_the_error_teaches(name):
    with pytest.raises((TypeError, ValueError), match=r"Bounded\.(apply|add)"):
        frozen_with(HOSTILE[name])


def residual_by_hand(x):
    return gj.Bounded.add(x, times(49)(x))


def scanned(x):
    return jax.lax.scan(lambda c, _: (times(2)(c), None), x, None, length=3)[0]


def checkpointed(x):
    return jax.checkpoint(lambda x: times(2)(x))(x)


def jitted(x):
    return jax.jit(lambda x: times(2)(x))(x)


# name: (function, the constant that is true)
HONEST = {
    "apply": (times(50), 50),
    "identity": (lambda x: x.apply(lambda v: v, lipschitz=1.0), 1),
    "a map that changes nothing": (mapped(lambda a: a), 1),
    "Bounded.add": (residual_by_hand, 50),
    "twice the same branch": (lambda x: gj.Bounded.add(x, x), 2),
    "scan": (scanned, 8),
    "remat": (checkpointed, 2),
    "jit": (jitted, 2),
    "a function that uses vmap inside": (
        lambda x: x.apply(jax.vmap(lambda row: 2 * row), lipschitz=2.0), 2),
    "a closure over an array": (
        lambda x: x.apply(lambda v: v * jnp.arange(4.0)[None], lipschitz=3.0), 3),
    "an UpperBound": (lambda x: x.apply(lambda v: 2 * v, lipschitz=UpperBound(np.float32(2))), 2),
    "an UpperBound that is computed": (
        lambda x: x.apply(lambda v: 2 * v, lipschitz=UpperBound(jnp.sum(jnp.ones(2)))), 2),
    "a custom gradient": (lambda x: x.apply(jax.nn.relu, lipschitz=1.0), 1),
    "sorting features": (lambda x: x.apply(lambda v: jnp.sort(v, axis=-1), lipschitz=1.0), 1),
    "a reshape by the outer batch": (
        lambda x: x.apply(lambda v: 2 * v.reshape(x.shape[0], -1), lipschitz=2.0), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_its_honest_twin_freezes_with_the_true_constant_and_certifies(name):
    fn, constant = HONEST[name]
    frozen = frozen_with(fn)
    assert frozen.lipschitz == pytest.approx(constant, rel=1e-6)
    assert frozen.lipschitz >= constant * (1 - 1e-12)
    x = np.random.default_rng(0).uniform(size=(5, 2, 2, 1)).astype(np.float32)
    certificate = gj.certify(frozen, x, epsilon=1e-6)
    assert certificate.is_certified.any()
    at_once = np.asarray(frozen(x).values)
    one_by_one = np.concatenate([np.asarray(frozen(image[None]).values) for image in x])
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-5, atol=1e-6)
