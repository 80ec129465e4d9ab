"""What was examined is what runs: Python's state, arrays and batches cannot change it."""

import copy
import dataclasses
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.lipschitz.steps import Step
from tests.draws import init

NORMS = gj.PowerIteration(steps=1)
UPPER = gj.UpperBound


class Own(layers.LipschitzLayer):
    fn: object

    def __call__(self, x):
        return self.fn(x)


def freeze(*fns):
    """Four numbers through the given functions; the logits are the first of them, and 1/2."""
    body = nn.Sequential([fn if isinstance(fn, nn.Module) else Own(fn) for fn in fns])
    net = gj.GloroNet(body, num_classes=2)
    has_weights = any(isinstance(fn, nn.Module) for fn in fns)
    variables = init(net, 0, jnp.ones((1, 4)), norms=NORMS) if has_weights else {"params": {}}
    head = {"head_kernel": jnp.zeros((4, 2)).at[0, 0].set(1), "head_bias": jnp.asarray([0, 0.5])}
    params = {**variables["params"], **head}
    return gj.freeze(net, {"params": params}, input_shape=(4,))


def slope(frozen, at=0.25, by=0.25):
    """How much the first logit moves, over the distance."""
    x = np.zeros((2, 4), np.float32)
    x[:, 0] = at, at + by
    values = np.asarray(frozen(x).values)[:, 0]
    return abs(float(values[1] - values[0])) / by


def assert_true(frozen):
    assert slope(frozen) <= frozen.lipschitz * (1 + 1e-5)


class Gain:
    def __init__(self, c):
        self.c = c

    def __call__(self, v):
        return self.c * v


def test_a_function_that_was_traced_before_is_traced_again():
    gain = Gain(100.0)
    layer = lambda x: x.apply(gain, lipschitz=gain.c)  # noqa: E731
    assert_true(freeze(layer))
    gain.c = 1.0
    assert slope(freeze(layer)) == pytest.approx(1)


def test_one_function_may_mean_two_things_in_one_network():
    state = {}

    def fn(v):
        return state["c"] * v

    def layer(x):
        state["c"] = 100.0
        x = x.apply(fn, lipschitz=100.0)
        state["c"] = 1.0
        return x.apply(fn, lipschitz=1.0)

    frozen = freeze(layer)
    assert slope(frozen) == pytest.approx(100)
    assert frozen.lipschitz == pytest.approx(100)


def in_a_jit(w):
    return lambda x: x.apply(jax.jit(lambda v: v * w), lipschitz=UPPER(np.abs(w).max()))


def outside(w):
    def layer(x):
        g = jax.jit(lambda: jnp.zeros(4) + w)()
        return x.apply(lambda v: v * g[None], lipschitz=UPPER(jnp.max(g)))

    return layer


def mapped_in_a_jit(w):
    fn = jax.vmap(jax.jit(lambda row: row * jnp.asarray(w)))
    return lambda x: x.apply(fn, lipschitz=UPPER(np.abs(w).max()))


ROW, NUMBER = np.ones((1, 4), np.float32), np.array(1, np.float32)


@pytest.mark.parametrize(
    ("layer", "array"),
    [
        (lambda w: lambda x: x.apply(lambda v: v * w, lipschitz=UPPER(np.abs(w).max())), ROW),
        (lambda w: lambda x: x.apply(lambda v: v * w, lipschitz=UPPER(w)), NUMBER),
        (in_a_jit, ROW),
        (mapped_in_a_jit, ROW[0]),
        (outside, ROW[0]),
    ],
    ids=["plain", "a number", "jit", "vmap of jit", "outside"],
)
def test_arrays_that_the_code_closes_over_are_copied(layer, array):
    array = array.copy()
    frozen = freeze(layer(array))
    array *= 100
    gj.certify(frozen, np.zeros((7, 4), np.float32), epsilon=0.1)  # another size: compiled now
    assert slope(frozen) == pytest.approx(1)
    assert frozen.lipschitz == pytest.approx(1)


@pytest.mark.parametrize("when", ["three examples", "every call"])
def test_arrays_that_change_while_the_network_is_traced_are_copied_in_time(when):
    w = np.ones((1, 4), np.float32)

    def layer(x):
        if when == "every call":
            w[...] *= 2
        else:
            w[...] = 100.0 if x.shape[0] == 3 else 1.0
        return x.apply(lambda v: v * w, lipschitz=float(np.abs(w).max()))

    with pytest.raises(ValueError, match=r"other things with 3 examples|one by one"):
        freeze(layer)


def called_back(x):
    c = jax.pure_callback(lambda: np.float32(1), jax.ShapeDtypeStruct((), jnp.float32))
    return x.apply(lambda v: c * v, lipschitz=UPPER(c))


def random(x):
    c = jax.lax.rng_uniform(jnp.float32(0), jnp.float32(1), ())
    return x.apply(lambda v: c * v, lipschitz=1.0)


def by_reference(x):
    r = jax.new_ref(jnp.float32(1))
    r[...] = jnp.float32(100.0)
    c = r[...]
    return x.apply(lambda v: c * v, lipschitz=UPPER(c))


def kept_in_a_reference(x):
    r = jax.new_ref(jnp.zeros((4,)))

    def keep(v):
        r[...] = v[0]
        return v

    step = Step.of("skip")  # a name does not make it ours
    kept = x.apply(keep, lipschitz=1.0, step=step)
    return kept.apply(lambda v: v - 49 * jax.nn.relu(r[...] - 4)[None], lipschitz=1.0, step=step)


@jax.custom_batching.custom_vmap
def another_in_batches(v):
    return v


@another_in_batches.def_vmap
def _(_, batched, v):
    return 100 * v, True


IMPURE = {
    "the host": called_back,
    "random numbers": random,
    "a reference": by_reference,
    "a reference between doors": kept_in_a_reference,
    "a rule for batches": lambda x: x.apply(another_in_batches, lipschitz=1.0),
}


@pytest.mark.parametrize("name", IMPURE)
def test_what_is_no_function_of_its_input_does_not_freeze(name):
    with pytest.raises(TypeError, match=r"calls back|random numbers|mutable array|for batches"):
        freeze(IMPURE[name])


def test_constants_are_computed_once_by_the_same_arithmetic():
    start = jnp.asarray(np.random.default_rng(1).uniform(0.1, 0.9, 8).astype(np.float32))

    def layer(x):
        a = jax.lax.optimization_barrier(start)
        for _ in range(80):  # chaotic: fused arithmetic ends elsewhere
            a = 3.9 * a * (1 - a) + a * 1e-3 * a
        c = a[1]
        return x.apply(lambda v: c * v, lipschitz=UPPER(c))

    frozen = freeze(layer)
    assert slope(frozen) == pytest.approx(frozen.lipschitz, rel=1e-5)


@pytest.mark.parametrize("softness", [layers.SmoothAbs(), layers.SmoothMinMax()], ids=str)
def test_squares_inside_a_layer_of_ours_cannot_overflow_unseen(softness):
    body = nn.Sequential([layers.Dense(2), softness, layers.Dense(1), layers.ReLU()])
    net = gj.GloroNet(body, num_classes=2)
    params = init(net, 0, jnp.ones((1, 1)), norms=NORMS)["params"]
    inner = dict(params["body"])
    inner["layers_0"] = {"kernel": jnp.asarray([[1e20, -1e20]]), "bias": jnp.zeros(2)}
    inner["layers_2"] = {"kernel": jnp.asarray([[-1e-20], [1e-20]]), "bias": jnp.ones(1)}
    frozen = gj.freeze(net, {"params": {**params, "body": inner}}, input_shape=(1,))
    assert not gj.certify(frozen, np.float32([[0.05], [0.1]]), epsilon=1e-6).is_certified.any()


def naive_softplus(x):
    a = x.apply(lambda v: jnp.log(1 + jnp.exp(v)), lipschitz=1.0)
    b = gj.Bounded.add(x, a.apply(lambda v: -v, lipschitz=1.0))
    return b.apply(lambda v: jax.nn.relu(1 + v), lipschitz=1.0)


def nan_that_is_hidden(x):
    a = x.apply(lambda v: (v - 1) ** 2 / jnp.abs(v - 1), lipschitz=1.0)
    return a.apply(lambda v: jnp.where(v == v, v, 5.0), lipschitz=1.0)


@pytest.mark.parametrize(
    ("layer", "bad", "good"), [(naive_softplus, 88.73, 0.9), (nan_that_is_hidden, 1.0, 0.9)]
)
def test_nan_and_infinity_of_a_function_of_ones_own_cannot_be_hidden(layer, bad, good):
    frozen = freeze(layer)
    x = np.zeros((2, 4), np.float32)
    x[:, 0] = bad, good
    certificate = gj.certify(frozen, x, epsilon=1e-6)
    assert list(certificate.is_certified) == [False, True]
    assert certificate.radius[0] == 0
    assert np.isnan(np.asarray(frozen(x).values)[0]).all()


def test_a_function_that_is_not_finite_at_0_is_refused():
    with pytest.raises(ValueError, match="NaN or infinite where its input is 0"):
        freeze(lambda x: x.apply(lambda v: v * v / jnp.abs(v), lipschitz=1.0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
def test_activations_of_another_type_do_not_freeze_and_inside_a_function_they_may(dtype):
    with pytest.raises(TypeError, match=r"returns .*astype\(jnp.float32\)"):
        freeze(lambda x: x.apply(lambda v: v.astype(dtype), lipschitz=1.0), layers.Dense(4))
    inside = lambda v: v.astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    assert freeze(lambda x: x.apply(inside, lipschitz=1.0)).lipschitz == 1


def test_doors_of_another_pass_are_none():
    def layer(x):
        y = x.apply(lambda v: v, lipschitz=1.0)
        if x.doors is None:
            return y
        z = dataclasses.replace(y, doors=type(x.doors)()).apply(lambda v: 100 * v, lipschitz=100.0)
        return dataclasses.replace(z, doors=x.doors)

    with pytest.raises(ValueError, match=r"outside Bounded\.apply"):
        freeze(layer)


def looped(constants):
    def turn(carry, k):
        return carry.apply(lambda v: k * v, lipschitz=UPPER(k)), None

    return lambda x: jax.lax.scan(turn, x, jnp.asarray(constants))[0]


def test_the_digest_tells_loops_with_other_constants_apart():
    a, b = freeze(looped([1.0, 100.0])), freeze(looped([1.0, 1.0]))
    assert a.lipschitz == pytest.approx(100)
    assert a.steps() != b.steps()
    assert a.digest != b.digest
    assert freeze(looped([1.0, 1.0])).digest == b.digest


def test_the_longest_input_is_under_the_digest():
    frozen = freeze(lambda x: x.apply(lambda v: v * 1e10, lipschitz=1e10))
    leaves, structure = jax.tree.flatten(frozen)
    at = next(i for i, leaf in enumerate(leaves) if leaf is frozen._frozen["longest"])
    leaves[at] = leaves[at] * 1e4
    with pytest.raises(ValueError, match="digest"):
        gj.certify(jax.tree.unflatten(structure, leaves), np.ones((1, 4), np.float32), epsilon=1e-3)


HONEST = {
    "a typed key": lambda x: x.apply(
        lambda v: v + jax.random.normal(jax.random.key(1), v.shape[1:])[None], lipschitz=1.0
    ),
    "a loop without turns": lambda x: jax.lax.scan(
        lambda c, _: (c.apply(lambda v: 2 * v, lipschitz=2.0), 1.0), x, None, length=0
    )[0],
    "a long loop that counts": lambda x: counted(x),
    "a cast inside": lambda x: x.apply(
        lambda v: v.astype(jnp.bfloat16).astype(jnp.float32), lipschitz=1.0
    ),
}


def counted(x, turns=400):
    def turn(_, carry):
        y, number = carry
        return y.apply(lambda v: v + 0, lipschitz=1.0), number + 1.0

    y, number = jax.lax.fori_loop(0, turns, turn, (x, 0.0))
    return y.apply(lambda v: v * (number / turns), lipschitz=1.0)


@pytest.mark.parametrize("name", HONEST)
def test_honest_uses_freeze(name):
    frozen = freeze(HONEST[name])
    assert frozen.lipschitz == 1
    assert slope(frozen, at=0.25, by=0.25) == pytest.approx(1, rel=1e-2)


def test_a_key_that_was_made_outside_may_be_closed_over():
    k = jax.random.key(1)
    frozen = freeze(
        lambda x: x.apply(lambda v: v + jax.random.normal(k, v.shape[1:])[None], lipschitz=1.0)
    )
    assert slope(frozen) == pytest.approx(1, rel=1e-5)


def test_freezing_does_not_depend_on_jit_being_enabled():
    with jax.disable_jit():
        assert freeze(lambda x: x.apply(lambda v: 2 * v, lipschitz=2.0)).lipschitz == 2


def test_branches_on_data_are_refused_by_what_they_are():
    with pytest.raises(ValueError, match="branches or loops by `cond`"):
        freeze(
            lambda x: jax.lax.cond(
                True, lambda x: x.apply(lambda v: v, lipschitz=1.0), lambda x: x, x
            )
        )


def test_a_frozen_net_is_copied_and_not_pickled():
    frozen = freeze(layers.Dense(4))
    twin = copy.deepcopy(frozen)
    assert twin.digest == frozen.digest
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(twin(x).values, frozen(x).values)
    with pytest.raises(TypeError, match=r"gj\.load"):
        pickle.dumps(frozen)
