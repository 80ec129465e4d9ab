"""What ordinary code of a hostile user won or lost: stacks, names, subclasses, keys, copies."""

import copy
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.ensembles import EntropyGate, Selective, SoftVoting, Voting
from gloro_jax.lipschitz.operators import Convolution, Matrix
from gloro_jax.lipschitz.steps import Step
from gloro_jax.program.same import word_of
from gloro_jax.pytrees import pytree_dataclass
from gloro_jax.verifiers import Crown, IntervalBounds, Lipschitz, Status
from tests.draws import init

NORMS = gj.PowerIteration(steps=1)
HEAD = {"head_kernel": np.eye(2, dtype=np.float32), "head_bias": np.zeros(2, np.float32)}


def net_of(*parts, classes=2):
    return gj.GloroNet(nn.Sequential(list(parts)), classes)


def dense(kernel):
    return {"kernel": np.float32(kernel), "bias": np.zeros(len(kernel[0]), np.float32)}


def deep(axis):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return layers.Dense(4)(x), None

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = dict.fromkeys(("params", "operators", "frozen"), axis) | {"spectral": 0}
            many = nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=4)
            return many()(x, None)[0]

    return net_of(Deep())


def test_layers_stacked_along_another_axis_than_the_first_do_not_freeze():
    for axis, is_refused in ((0, False), (-1, True)):
        net = deep(axis)
        variables = init(net, 0, jnp.ones((1, 4)), norms=NORMS)
        if is_refused:
            with pytest.raises(ValueError, match="stacks them along another axis than the first"):
                gj.freeze(net, variables, input_shape=(4,))
        else:
            assert gj.freeze(net, variables, input_shape=(4,)).lipschitz > 0


def test_weights_changed_on_their_way_to_a_layer_do_not_freeze():
    def doubled(variables):
        return jax.tree.map(lambda leaf: 2 * leaf if leaf.ndim == 2 else leaf, variables)

    changed = nn.map_variables(layers.Dense, "frozen", trans_in_fn=doubled, init=False)
    net = net_of(changed(2))
    variables = init(net, 0, jnp.ones((1, 2)), norms=NORMS)
    with pytest.raises(ValueError, match=r"nn\.map_variables changes them"):
        gj.freeze(net, variables, input_shape=(2,))


@pytree_dataclass()
class Triple(Matrix):
    def __call__(self, values, *, precision=None):
        return 3 * jnp.matmul(values, self.kernel, precision=precision)


@pytree_dataclass(static=("image_size", "strides", "pads", "groups"))
class Around(Convolution):
    def __call__(self, values, *, precision=None):
        wide = jnp.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        return jax.lax.conv_general_dilated(
            wide, self.kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


@pytree_dataclass()
class Turned(Matrix):
    def __call__(self, values, *, precision=None):
        return jnp.matmul(values, self.kernel.T, precision=precision)


def own_net(operator, kernel, x, **fields):
    class Own(layers.LipschitzLayer):
        @nn.compact
        def __call__(self, x):
            def make():
                weights = self.param("kernel", lambda _: jnp.asarray(kernel))
                return layers.Linear(operator(weights, **fields))

            return self.apply_linear(x, make)

    net = net_of(Own(), *([layers.Flatten()] if x.ndim == 4 else []))
    return net, init(net, 0, x, norms=NORMS)


def test_an_operator_that_inherits_a_norm_is_tested_as_it_runs():
    x = jnp.ones((1, 2))
    net, variables = own_net(Triple, np.eye(2, dtype=np.float32), x)
    with pytest.raises(ValueError, match=r"Triple\.norm\(\) says .* stretched by 2.99"):
        gj.freeze(net, variables, input_shape=(2,))
    x = jnp.ones((1, 4, 4, 1))
    kernel = np.full((3, 3, 1, 1), 1 / 9, np.float32)
    fields = {"image_size": (4, 4), "strides": (1, 1), "pads": ((1, 1), (1, 1))}
    net, variables = own_net(Around, kernel, x, **fields)
    with pytest.raises(ValueError, match=r"Around\.norm"):
        gj.freeze(net, variables, input_shape=(4, 4, 1))


def test_an_operator_that_inherits_a_step_is_verified_by_nobody():
    x = jnp.asarray([[1.0, 0.0]])
    net, variables = own_net(Turned, np.float32([[0, 4], [-2, 1]]), x)
    params = {**variables["params"], **HEAD}
    frozen = gj.freeze(net, {"params": params}, input_shape=(2,))
    assert gj.certify(frozen, x, epsilon=0.01).prediction[0] == 0
    with pytest.raises(ValueError, match="as its steps describe it is not the one that runs"):
        Crown().verify(frozen, x, [1], norm="l2", radius=0.01)


def test_a_loop_that_hands_on_the_activation_before_is_verified_by_nobody():
    class Delayed(layers.LipschitzLayer):
        def __call__(self, x):
            def turn(carry, _):
                now, _ = carry
                after = now.apply(jax.nn.relu, lipschitz=1.0, step=Step.of("relu"))
                return (after, now), None

            return jax.lax.scan(turn, (x, jax.tree.map(jnp.zeros_like, x)), None, length=1)[0][1]

    net, x = net_of(layers.Dense(2), Delayed()), jnp.asarray([[1.0, 0.0]])
    params = {"body": {"layers_0": dense([[0, 1], [1, 0]])}, **HEAD}
    frozen = gj.freeze(net, {"params": params}, input_shape=(2,))
    for method in (IntervalBounds(), Lipschitz()):
        with pytest.raises(ValueError, match="is not the one that runs"):
            method.verify(frozen, x, [0], norm="l2", radius=0.5)
    plain = net_of(layers.Dense(2), layers.ReLU())
    twin = gj.freeze(plain, {"params": params}, input_shape=(2,))
    found = Lipschitz().verify(twin, x, [1], norm="l2", radius=0.5)
    assert found.status[0] == Status.VERIFIED


def test_one_digest_for_two_programs_is_compared_with_both():
    fns = {"honest": jax.nn.relu, "lying": lambda v: -jax.nn.relu(-v)}

    def frozen(fn):
        class Own(layers.LipschitzLayer):
            def __call__(self, x):
                return x.apply(fn, lipschitz=1.0, step=Step.of("relu"))

        return gj.freeze(net_of(Own()), {"params": HEAD}, input_shape=(2,))

    honest, lying = (frozen(fns[name]) for name in ("honest", "lying"))
    assert honest.digest == lying.digest
    x = jnp.asarray([[1.0, 0.2]])
    assert Crown().verify(honest, x, [0], norm="l2", radius=0.1).status[0] == Status.VERIFIED
    with pytest.raises(ValueError, match="is not the one that runs"):
        Crown().verify(lying, x, [0], norm="l2", radius=0.1)


def test_names_that_hold_a_slash_do_not_freeze():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.Dense(2, name="a/b")(x)

    net = gj.GloroNet(Named(), 2)
    params = {"body": {"a/b": dense([[0, 1], [1, 0]])}, **HEAD}
    with pytest.raises(ValueError, match="holds a slash"):
        gj.freeze(net, {"params": params}, input_shape=(2,))


def test_radii_of_scores_know_of_overflows_too():
    net = net_of(layers.Dense(1), layers.SmoothAbs(), layers.Dense(1), layers.ReLU())
    params = {
        "body": {
            "layers_0": dense([[1e20]]),
            "layers_2": {"kernel": np.float32([[-1e-20]]), "bias": np.ones(1, np.float32)},
        },
        "head_kernel": np.float32([[1, 0]]),
        "head_bias": np.float32([0, 0.5]),
    }
    frozen = gj.freeze(net, {"params": params}, input_shape=(1,))
    logits = frozen(jnp.asarray([[0.2]]))
    assert gj.certified_radius(logits)[0] == 0
    assert not gj.margins.certified_slack(logits, epsilon=0.1)[0] > 0


def test_memory_that_was_written_to_changes_no_certificate(small_frozen, small_net):
    """NumPy's memory, also behind arrays of JAX that share it: 64 bytes apart they do."""
    x = small_net[2]
    expected = gj.certify(small_frozen, x, epsilon=0.1)

    def aligned(leaf):
        room = np.zeros(np.size(leaf) + 32, leaf.dtype)
        first = (-room.ctypes.data % 64) // room.itemsize
        inside = room[first : first + np.size(leaf)].reshape(leaf.shape)
        inside[...] = leaf
        return inside

    host = jax.tree.map(aligned, small_frozen)
    for loose in (host, jax.device_put(host)):
        first = gj.certify(loose, x, epsilon=0.1)
        numbers = [leaf for leaf in jax.tree.leaves(host) if leaf.dtype == np.float32]
        for leaf in numbers:
            leaf *= 2
        again = gj.certify(loose, x, epsilon=0.1)
        for found in (first, again):
            np.testing.assert_array_equal(found.radius, expected.radius)
        for leaf in numbers:
            leaf /= 2
    before = small_frozen.lipschitz
    inside = jax.tree.leaves(small_frozen, is_leaf=lambda node: isinstance(node, dict))[0]
    inside["lipschitz"] = inside["lipschitz"] * 0.1
    assert small_frozen.lipschitz == before


def test_leaves_in_the_structure_of_another_network_certify_nothing():
    def frozen(std):
        body = nn.Sequential([layers.Normalize((0.0,) * 2, (std,) * 2), layers.Flatten()])
        return gj.freeze(gj.GloroNet(body, 2), {"params": HEAD}, input_shape=(2,))

    one, other, x = frozen(1.0), frozen(0.0625), jnp.asarray([[0.6, 0.5]])
    mixed = jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(one))
    radius = jax.jit(lambda frozen: gj.certify(frozen, x, epsilon=0.01).radius)
    of_scores = jax.jit(lambda frozen: gj.certified_radius(frozen(x)))
    for function in (radius, of_scores):
        assert (function(one) > 0).all()
        assert (function(other) > 0).all()
        assert (function(mixed) == 0).all()


def test_a_copy_that_is_first_looked_at_inside_a_program_certifies(small_frozen, small_net):
    x = small_net[2]
    expected = gj.certify(small_frozen, x, epsilon=0.1).radius
    assert (expected > 0).any()
    for transform in (jax.jit, jax.vmap, lambda function: jax.jit(jax.vmap(function))):
        copied = jax.tree.map(jnp.array, small_frozen)
        found = transform(lambda x, c=copied: gj.certify(c, x, epsilon=0.1).radius)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        outside = gj.certify(copied, x, epsilon=0.1).radius
        np.testing.assert_array_equal(outside, expected)


def test_a_word_tells_programs_apart_and_knows_them_again():
    x, y = jnp.ones((1, 4, 4, 1)), jnp.ones((1, 3, 3, 1))

    def convolved(padding):
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel = y[0][..., None]
        return lambda x: jax.lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=numbers
        )

    functions = [
        convolved([(1, 1), (1, 1)]),
        convolved([(0, 2), (0, 2)]),
        lambda x: x[..., ::-1, :],
        lambda x: x[:, ::-1],
        lambda x: jnp.where(x > 0, x, 0.25 * x),
        lambda x: jnp.where(x > 0, x, 0.5 * x),
        lambda x: jnp.tensordot(x, jnp.eye(4), axes=[[1], [0]]),
        lambda x: jnp.tensordot(x, jnp.eye(4), axes=[[2], [0]]),
    ]
    words = [word_of(jax.make_jaxpr(function)(x)) for function in functions]
    assert len(set(words)) == len(words)
    again = [word_of(jax.make_jaxpr(lambda x, f=f: f(x))(x)) for f in functions]
    assert words == again


def test_two_freezings_of_one_network_share_a_program_and_certify(small_frozen, small_net):
    net, variables, x = small_net
    again = gj.freeze(net, variables, input_shape=small_frozen.input_shape)
    radius = jax.jit(lambda frozen: gj.certify(frozen, x, epsilon=0.1).radius)
    np.testing.assert_array_equal(radius(small_frozen), radius(again))
    assert (radius(again) > 0).any()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int32])
def test_leaves_of_another_type_are_refused_inside_jit(dtype):
    frozen = gj.freeze(net_of(layers.Flatten()), {"params": HEAD}, input_shape=(2,))
    other = jax.tree.map(lambda leaf: leaf.astype(dtype), frozen)
    with pytest.raises(ValueError, match="was altered after"):
        jax.jit(lambda f: gj.certify(f, jnp.ones((1, 2)), epsilon=0.1))(other)


def test_a_number_changed_on_its_way_to_a_layer_does_not_freeze():
    def coarse(variables):
        return jax.tree.map(lambda leaf: jnp.floor(leaf * 4) / 4, variables)

    changed = nn.map_variables(layers.Scale, "frozen", trans_in_fn=coarse)
    for scale, is_refused in ((changed, True), (layers.Scale, False)):
        net = net_of(scale(initial=-0.26), layers.Flatten())
        params = init(net, 0, jnp.ones((1, 2)), norms=NORMS)["params"]
        if is_refused:
            with pytest.raises(ValueError, match=r"nn\.map_variables changes them"):
                gj.freeze(net, {"params": params}, input_shape=(2,))
        else:
            frozen = gj.freeze(net, {"params": params}, input_shape=(2,))
            np.testing.assert_allclose(frozen.lipschitz, 0.26, rtol=1e-5)


def test_what_looks_at_numbers_says_so_inside_jit(small_frozen, small_net):
    x = small_net[2]
    labels = np.zeros(len(x), int)
    with pytest.raises(TypeError, match="Lipschitz looks at numbers on the host"):
        jax.jit(lambda x: Lipschitz().verify(small_frozen, x, labels, norm="l2", radius=0.1))(x)
    with pytest.raises(TypeError, match="Lipschitz looks at numbers on the host"):
        jax.jit(lambda f: Lipschitz().certified_radius(f, np.asarray(x)))(small_frozen)
    with pytest.raises(TypeError, match="read it outside jit"):
        jax.jit(lambda f: f.lipschitz)(small_frozen)


HOSTS = {
    "arrays": lambda f, x, y: f.arrays(),
    "norms": lambda f, x, y: f.layer_norms(),
    "digest": lambda f, x, y: f.digest,
    "soft": lambda f, x, y: SoftVoting([f]).certify(x, epsilon=0.1),
    "vote": lambda f, x, y: Voting([f]).certify(x, epsilon=0.1),
    "gate": lambda f, x, y: EntropyGate(0.5).decision(f, x),
    "select": lambda f, x, y: Selective([f]).predict(x),
    "vra": lambda f, x, y: gj.evaluation.verified_robust_accuracy(f, [(x, y)], epsilon=0.1),
    "attack": lambda f, x, y: gj.evaluation.attack(f, x, radii=0.1),
    "tightness": lambda f, x, y: gj.evaluation.tightness(f, x),
    "write": lambda f, x, y: gj.certificates.write(f, x, y, epsilon=0.1, out="never"),
    "export": lambda f, x, y: gj.export.write(f, out="never"),
}


@pytest.mark.parametrize("ask", HOSTS.values(), ids=HOSTS.keys())
def test_what_reads_numbers_of_a_traced_network_says_so(small_frozen, small_net, ask, untyped):
    with pytest.raises(TypeError, match=r"on the host, so it cannot|on the host: make it outside"):
        jax.jit(lambda f, x: ask(f, x, np.zeros(len(x), int)))(small_frozen, small_net[2])


def test_a_complex_epsilon_is_refused_inside_jit(small_frozen, small_net):
    with pytest.raises(ValueError, match="epsilon is a real number"):
        jax.jit(lambda e: gj.certify(small_frozen, small_net[2], epsilon=e))(0.1 + 5j)


def test_a_network_with_a_call_of_its_own_does_not_freeze():
    class Flipped(gj.GloroNet):
        def __call__(self, x, **options):
            return super().__call__(1 - x, **options)

    net = Flipped(nn.Sequential([layers.Dense(2)]), 2)
    variables = init(net, 0, jnp.ones((1, 2)), norms=NORMS)
    with pytest.raises(TypeError, match="has a __call__ of its own"):
        gj.freeze(net, variables, input_shape=(2,))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_draws_that_hang_on_the_place_in_a_batch_do_not_freeze(impl):
    class Inside(layers.LipschitzLayer):
        def __call__(self, x):
            def fn(v):
                return v + jax.random.normal(jax.random.key(3, impl=impl), (1, 2))

            return x.apply(fn, lipschitz=1.0)

    net = net_of(Inside())
    variables = init(net, 0, jnp.ones((1, 2)), norms=NORMS)
    if impl == "threefry2x32":
        assert gj.freeze(net, variables, input_shape=(2,)).lipschitz >= 1
    else:
        with pytest.raises(TypeError, match="draws with a key of rbg"):
            gj.freeze(net, variables, input_shape=(2,))


@pytest.mark.parametrize(
    "fn",
    [
        lambda v: jnp.linalg.solve(2 * jnp.eye(2), v.T).T,
        lambda v: jax.lax.fori_loop(0, 3, lambda i, w: w * 0.5, v),
        lambda v: jnp.interp(v, jnp.linspace(-3, 3, 5), jnp.linspace(-3, 3, 5)),
        lambda v: 0.5 * v,
    ],
    ids=["solve", "fori_loop", "interp", "scalar"],
)
def test_honest_functions_freeze_and_certify(fn, untyped):
    class Own(layers.LipschitzLayer):
        def __call__(self, x):
            return x.apply(fn, lipschitz=1.0)

    net, x = net_of(Own()), jnp.asarray([[0.5, 0.25]])
    frozen = gj.freeze(net, {"params": HEAD}, input_shape=(2,))
    certificate = gj.certify(frozen, x, epsilon=0.01)
    expected = np.asarray(fn(x))
    np.testing.assert_allclose(frozen(x).values, expected, rtol=1e-5)
    assert certificate.is_certified.all()


@pytest.mark.parametrize("kernel", [1j * np.eye(2), np.eye(2, dtype=np.int64) * (2**40 + 1)])
def test_weights_that_float32_cannot_hold_do_not_freeze(kernel):
    net = net_of(layers.Dense(2))
    params = {"body": {"layers_0": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}, **HEAD}
    with pytest.raises(ValueError, match="holds what float32, which runs, cannot"):
        gj.freeze(net, {"params": params}, input_shape=(2,))


def _halved(leaf):
    return leaf * 0.5 if leaf.dtype == jnp.float32 else leaf


@pytest.mark.parametrize(
    "change",
    [
        _halved,
        lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype),
        lambda leaf: leaf[..., ::-1] if leaf.ndim else leaf,
        lambda leaf: -leaf if leaf.ndim == 4 else leaf,
    ],
    ids=["halved", "rounded", "reversed", "one flipped"],
)
def test_a_frozen_network_that_was_mapped_certifies_nothing_inside_jit(
    small_frozen, small_net, change
):
    x = small_net[2]
    other = jax.tree.map(change, small_frozen)
    programs = [
        lambda frozen: gj.certify(frozen, x, epsilon=1e-3).radius,
        lambda frozen: gj.certified_radius(frozen(x)),
        lambda frozen: gj.certify(frozen, x, epsilon=1e-3, guarantee=gj.guarantees.TopK(2)).radius,
    ]
    for radius in map(jax.jit, programs):
        assert (radius(small_frozen) > 0).any()
        assert (radius(other) == 0).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b: 0.1 * a,
        lambda a, b: (a + b) / 2,
        jnp.maximum,
        lambda a, b: jnp.tanh(a) if a.ndim == 2 else a,
        lambda a, b: 0.1 * a if a.ndim == 0 else a,
        lambda a, b: a[:, ::-1] if a.ndim == 2 else a,
        lambda a, b: a.astype(jnp.bfloat16),
        lambda a, b: a.astype(jnp.bfloat16).astype(a.dtype),
    ],
    ids=["scaled", "mean", "maximum", "by its ndim", "K alone", "reordered", "bfloat16", "rounded"],
)
def test_scores_and_bounds_that_were_mapped_certify_nothing(small_frozen, small_net, change):
    x = small_net[2]
    logits, beside = small_frozen(x), small_frozen(1 - x)
    with pytest.raises(ValueError, match="are not those that the network returned"):
        gj.certified_radius(jax.tree.map(change, logits, beside))

    @jax.jit
    def radii(logits, beside):
        mapped = jax.tree.map(change, logits, beside)
        sets = gj.guarantees.set_certificate(mapped, gj.guarantees.TopK(2), epsilon=0.1)
        return gj.certified_radius(mapped), sets.radius

    assert all((radius == 0).all() for radius in radii(logits, beside))


def test_scores_that_were_replaced_or_made_finite_certify_nothing(small_frozen, small_net):
    logits = small_frozen(small_net[2])
    with pytest.raises(ValueError, match="are not those that the network returned"):
        gj.certified_radius(dataclasses.replace(logits, values=logits.values / 0.1))
    values = logits.values.at[:, 0].set(jnp.inf)
    broken = gj.GloroLogits(values, logits.lipschitz, logits.head_distances).sealed()
    assert (gj.certified_radius(broken) == 0).all()
    with pytest.raises(ValueError, match="are not those that the network returned"):
        gj.certified_radius(jax.tree.map(lambda a: jnp.where(jnp.isfinite(a), a, 0), broken))


def test_scores_and_bounds_as_they_are_certify(small_frozen, small_net):
    x = small_net[2]
    logits, expected = small_frozen(x), gj.certify(small_frozen, x, epsilon=0.1).radius
    assert (expected > 0).any()
    apart = jax.vmap(small_frozen)(x)
    with pytest.raises(ValueError, match=r"If jax\.vmap made them, map this function likewise"):
        gj.certified_radius(apart)
    np.testing.assert_array_equal(
        gj.certify(copy.copy(small_frozen), x, epsilon=0.1).radius, expected
    )
    own = gj.GloroLogits(logits.values, logits.lipschitz, logits.head_distances)
    for radius in (
        gj.certified_radius(logits),
        jax.jit(lambda x: gj.certified_radius(small_frozen(x)))(x),
        jax.vmap(gj.certified_radius)(apart),
        gj.certified_radius(jax.tree.map(lambda leaf: jnp.array(np.array(leaf)), logits)),
        gj.certified_radius(own),
    ):
        np.testing.assert_allclose(radius, expected, rtol=1e-5)
    assert jax.jacrev(small_frozen)(x[:1]).values.shape[0] == 1
