"""Memory that others write to, numbers of other types, and networks that freezing would change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.ensembles import Compositional
from gloro_jax.guarantees import TopK, set_certificate
from gloro_jax.guarantees.kinds import Guarantee
from gloro_jax.layers import LipschitzLayer
from gloro_jax.lipschitz.norms import bound_number
from gloro_jax.program.same import is_same
from gloro_jax.verifiers import Crown, Smoothing
from tests.draws import init

NORMS = gj.PowerIteration(steps=1)
HEAD = {
    "head_kernel": np.eye(4, 2, dtype=np.float32) * np.float32([1, 0]),
    "head_bias": np.float32([0, 0.5]),
}
ZERO = np.zeros((1, 4), np.float32)


class Own(LipschitzLayer):
    fn: object

    def __call__(self, x):
        return self.fn(x)


def freeze(fn):
    net = gj.GloroNet(nn.Sequential([Own(fn)]), 2)
    return gj.freeze(net, {"params": HEAD}, input_shape=(4,))


def aligned(count):
    """Memory that JAX takes as it is, where NumPy may have put it elsewhere."""
    raw = np.empty(4 * count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * count].view(np.float32)


@pytest.mark.parametrize("share", [jax.device_put, jnp.from_dlpack])
def test_memory_that_a_function_closes_over_changes_no_certificate(share):
    memory = aligned(4)
    memory[...] = 1
    weight = share(memory)
    frozen = freeze(lambda x: x.apply(lambda v: v * weight[None], lipschitz=1.0))
    memory[...] = 100
    assert float(weight[0]) == 100  # it is the same memory
    assert gj.certify(frozen, ZERO, epsilon=0.4).is_certified[0]
    moved = ZERO + np.float32([0.3, 0, 0, 0])
    assert frozen(moved).prediction[0] == frozen(ZERO).prediction[0] == 1


def test_an_array_that_was_donated_after_freezing_is_still_there():
    weight = jnp.ones(4)
    frozen = freeze(lambda x: x.apply(lambda v: v * weight[None], lipschitz=1.0))
    weight.delete()
    assert gj.certify(frozen, ZERO, epsilon=0.4).is_certified[0]


def test_keys_that_a_function_closes_over_are_compared():
    def with_key(seed):
        key = jax.random.key(seed)
        return lambda x: x.apply(lambda v: v + jax.random.normal(key, (4,))[None], lipschitz=1.0)

    some = [freeze(with_key(seed)) for seed in (0, 0, 1)]
    for frozen in some:
        gj.certify(frozen, ZERO, epsilon=0.1)
    assert some[0].program == some[1].program != some[2].program


def test_how_an_equation_draws_belongs_to_it():
    def traced(is_partitionable):
        with jax.threefry_partitionable(is_partitionable):
            return jax.make_jaxpr(lambda k: jax.random.bits(k, (4,)))(jax.random.key(0)).jaxpr

    assert is_same(traced(True), traced(True))
    assert not is_same(traced(True), traced(False))


@pytest.mark.parametrize(("dtype", "constant"), [(jnp.float16, 1e-8), (jnp.bfloat16, 1.0004)])
@pytest.mark.parametrize("is_traced", [False, True])
def test_radii_and_sets_hold_for_distances_of_any_precision(dtype, constant, is_traced, untyped):
    def judged(constant):
        distances = jnp.ones((2, 2), dtype) - jnp.eye(2, dtype=dtype)
        logits = gj.GloroLogits(jnp.float32([0, 0.5]), gj.UpperBound(constant), distances)
        return gj.certified_radius(logits), set_certificate(logits, TopK(1), epsilon=0.1).radius

    radii = jax.jit(judged)(constant) if is_traced else judged(constant)
    for radius in radii:
        assert 0.999 * 0.5 / constant <= float(radius) <= 0.5 / float(np.float32(constant))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.complex64])
@pytest.mark.parametrize("name", ["values", "head_distances"])
def test_scores_and_distances_that_are_no_floats_are_refused(dtype, name):
    parts = {
        "values": jnp.float32([0, 0.5]),
        "head_distances": jnp.float32([[0, 1], [1, 0]]),
    }
    parts[name] = parts[name].astype(dtype)
    with pytest.raises(TypeError, match=f"{name} of GloroLogits are arrays of floating-point"):
        gj.certified_radius(gj.GloroLogits(lipschitz=gj.UpperBound(0.5), **parts))


@pytest.mark.parametrize("value", [2**53 + 1, np.int64(2**53 + 1), np.uint64(2**63 + 1), 1.5])
def test_a_bound_as_a_float_is_not_below_it(value):
    assert int(bound_number(value, name="K")) >= int(value)


def test_a_bound_made_of_an_array_is_used_inside_a_layer(untyped):
    bound = gj.UpperBound(jnp.float32(2))
    assert freeze(lambda x: x.apply(lambda v: 2 * v, lipschitz=bound)).lipschitz == 2


def members():
    """A gate that is always open, and a network that changes its mind at 0.5."""
    net = gj.GloroNet(nn.Sequential([layers.Dense(4)]), 2)
    body = {"layers_0": {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}}
    made = []
    for bias in ([0, 9], [0, 0.5]):
        params = {"body": body, **HEAD, "head_bias": np.float32(bias)}
        made.append(gj.freeze(net, {"params": params}, input_shape=(4,)))
    return made


def test_a_core_that_writes_to_its_images_changes_no_other_member():
    gate, network = members()

    def core(x):
        x -= 0.5
        x /= 0.25
        return np.zeros((len(x), 2))

    x = np.full((1, 4), 0.2, np.float32)
    found = Compositional(core, network, gate).certify(x, epsilon=0.1)
    assert (x == np.float32(0.2)).all()
    assert found.is_gated[0]
    assert found.radius[0] == gj.certify(network, x, epsilon=0.1).radius[0] < 0.31


def test_what_is_proved_of_a_smoothed_classifier_is_nothing_of_a_composition(untyped):
    gate, network = members()
    both = Compositional(network, network, gate)
    args = {"norm": "l2", "radius": 0.1}
    assert both.verify(ZERO, np.array([1]), Crown(), **args).is_verified[0]
    with pytest.raises(TypeError, match="Smoothing proves it of smoothed classifiers"):
        both.verify(ZERO, np.array([1]), Smoothing(sigma=0.25, n=10), **args)


def test_a_frozen_network_has_no_subclasses():
    with pytest.raises(TypeError, match="cannot be a subclass of FrozenNet"):
        type("Scaled", (gj.FrozenNet,), {"__call__": lambda self, x: None})


class Default(LipschitzLayer):
    @nn.compact
    def __call__(self, x):
        factor = self.get_variable("calibration", "temperature", 1.0)
        return x.apply(lambda v: v * factor, lipschitz=10.0)


class Guarded(LipschitzLayer):
    @nn.compact
    def __call__(self, x):
        if not self.has_variable("batch_stats", "mean"):
            return x
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(4)).value
        return x.apply(lambda v: v - mean[None], lipschitz=1.0)


class ByRule(LipschitzLayer):
    def __call__(self, x):
        factor = 10.0 if isinstance(x.rule, gj.PowerIteration) else 1.0
        return x.apply(lambda v: v * factor, lipschitz=10.0)


class IfThere(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = layers.Dense(4, name="dense")
        is_there = self.is_initializing() or self.has_variable("params", "dense")
        return dense(x) if is_there else x


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        (Default(), {"calibration": {"body": {"layers_0": {"temperature": jnp.float32(10)}}}}),
        (Guarded(), {"batch_stats": {"body": {"layers_0": {"mean": jnp.float32([-5, 0, 0, 0])}}}}),
        (ByRule(), {}),
        (IfThere(), {}),
        (layers.Residual(IfThere()), {}),
    ],
    ids=["default", "guard", "rule", "weights", "weights in a residual"],
)
def test_a_network_that_freezing_would_change_does_not_freeze(layer, more):
    net = gj.GloroNet(nn.Sequential([layer]), 2)
    variables = init(net, 0, jnp.asarray(ZERO), norms=NORMS)
    variables = jax.tree.map(lambda a: 3 * a, variables) | more
    with pytest.raises(ValueError, match="is not the one that these variables make"):
        gj.freeze(net, variables, input_shape=(4,))


def test_a_network_of_ones_own_that_freezing_leaves_as_it_is_freezes():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = layers.Dense(4)
            return dense(layers.MinMax()(dense(x)))  # one layer twice

    net = gj.GloroNet(nn.Sequential([Both(), layers.Residual(layers.Dense(4))]), 2)
    variables = init(net, 0, jnp.asarray(ZERO), norms=NORMS)
    frozen = gj.freeze(net, variables, input_shape=(4,))
    x = np.float32([[0.3, -1, 2, 0.1]])
    np.testing.assert_allclose(
        frozen(x).values,
        net.apply(variables, jnp.asarray(x), norms=NORMS).values,
        rtol=1e-5,
        atol=1e-6,
    )


def test_boxed_weights_freeze_as_the_same_without_their_boxes():
    net = gj.GloroNet(nn.Sequential([layers.Dense(4)]), 2)
    variables = init(net, 0, jnp.asarray(ZERO), norms=NORMS)
    boxed = jax.tree.map(lambda a: nn.Partitioned(a, names=(None,) * a.ndim), variables)
    a, b = (gj.freeze(net, given, input_shape=(4,)) for given in (variables, boxed))
    assert a.digest == b.digest


def test_a_guarantee_whose_sets_could_change_is_refused():
    class Mine(Guarantee):
        def check(self, num_classes, *, is_covering=False): ...

        def largest(self, num_classes):
            return 1

        def admits(self, top, num_classes):
            return jnp.ones(top.shape, bool)

        def plain(self):
            return {}

    with pytest.raises(TypeError, match="is a frozen dataclass, and Mine is none"):
        gj.certify(members()[1], ZERO, epsilon=0.1, guarantee=Mine())


def test_images_on_a_mesh_with_explicit_axes_certify():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    x = np.linspace(0, 0.4, 16, dtype=np.float32).reshape(4, 4)
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    network = members()[1]
    found = gj.certify(network, spread, epsilon=0.1)
    np.testing.assert_array_equal(found.radius, gj.certify(network, x, epsilon=0.1).radius)
    with pytest.raises(TypeError, match="automatic"):
        jax.jit(lambda f, x: gj.certify(f, x, epsilon=0.1).radius)(network, spread)
