"""The locks: what must not certify does not trace, or raises, or is not certified."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.frozen_net import raw_logits
from gloro_jax.layers.base import Collect, Frozen
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.operators import Matrix, Operator
from gloro_jax.pytrees import pytree_dataclass
from tests.draws import init, key, uniform


def as_users_call(fn):
    """`fn` without the type hook that the test suite wraps around it."""
    return getattr(fn, "__wrapped__", fn)


NORMS = gj.PowerIteration(steps=2)
X = jnp.ones((2, 6, 6, 2))


class Tanh(nn.Module):
    def __call__(self, x):
        return jnp.tanh(x)


class Branching(nn.Module):
    def __call__(self, x):
        return x if x else x


class Dropping(nn.Module):
    def __call__(self, x):
        return jnp.ones((2, 3))


FOREIGN = {
    "nn.Dense": nn.Dense(3),
    "nn.Conv": nn.Conv(3, (3, 3)),
    "nn.BatchNorm": nn.BatchNorm(use_running_average=True),
    "nn.LayerNorm": nn.LayerNorm(),
    "nn.GroupNorm": nn.GroupNorm(1),
    "jnp.tanh": jnp.tanh,
    "jax.nn.gelu": jax.nn.gelu,
    "module with jnp.tanh": Tanh(),
    "if x": Branching(),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_a_foreign_layer_fails_while_tracing_and_teaches(name, mode):
    body = nn.Sequential([layers.Conv(4, 3), FOREIGN[name], layers.Flatten()])
    net = gj.GloroNet(body, num_classes=3)

    def init(key):
        return net.init(key, X, norms=NORMS)

    with pytest.raises(TypeError, match=r"x\.apply\(fn, lipschitz=c\)"):
        (jax.jit(init) if mode == "jit" else init)(key(0))


def test_a_body_that_drops_the_bound_is_refused():
    with pytest.raises(TypeError, match="some layer in it dropped the bound"):
        gj.GloroNet(Dropping(), num_classes=3).init(key(0), X, norms=NORMS)


@pytest.mark.parametrize("norms", [NORMS, Collect()], ids=str)
def test_estimates_never_certify(small_net, norms):
    net, variables, x = small_net
    logits = net.apply(variables, x, norms=norms)
    assert isinstance(logits.lipschitz, gj.Estimate)
    with pytest.raises(TypeError, match="needs an UpperBound"):
        gj.certified_radius(logits)
    with pytest.raises(TypeError, match="certify takes a FrozenNet"):
        as_users_call(gj.certify)(logits, x, epsilon=0.1)


def test_an_upper_bound_from_training_parameters_stays_an_estimate():
    class Declared(layers.LipschitzLayer):
        def __call__(self, x):
            return x.apply(lambda v: v, lipschitz=gj.UpperBound(1.0))

    body = nn.Sequential([Declared(), layers.Flatten()])
    net = gj.GloroNet(body, num_classes=2)
    variables = init(net, 0, X, norms=NORMS)
    assert isinstance(net.apply(variables, X, norms=NORMS).lipschitz, gj.Estimate)


def test_the_frozen_rule_without_frozen_operators_is_an_error(small_net):
    net, variables, x = small_net
    with pytest.raises(ValueError, match="no frozen operator"):
        net.apply(variables, x, norms=Frozen())


FORGERIES = {
    "all halved": lambda leaf: leaf * 0.5 if leaf.dtype == jnp.float32 else leaf,
    "K to zero": lambda leaf: leaf * 0 if leaf.shape == () else leaf,
    "one bit of one weight": lambda leaf: (
        leaf.at[0, 0].set(jnp.nextafter(leaf[0, 0], jnp.inf)) if leaf.ndim == 2 else leaf
    ),
    "digest": lambda leaf: leaf + 1 if leaf.dtype == jnp.uint32 else leaf,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_tree_is_refused_outside_jit(small_frozen, small_net, name):
    _, _, x = small_net
    forged = jax.tree.map(FORGERIES[name], small_frozen)
    with pytest.raises(ValueError, match="digest of this FrozenNet does not match"):
        gj.certify(forged, x, epsilon=0.1)
    with pytest.raises(ValueError, match="digest of this FrozenNet does not match"):
        forged(x)
    with pytest.raises(ValueError, match="digest of this FrozenNet does not match"):
        jax.jit(lambda x: gj.certify(forged, x, epsilon=0.1))(x)


def test_an_honest_tree_passes_through_tree_map_and_jit(small_frozen, small_net):
    _, _, x = small_net
    same = jax.tree.map(lambda leaf: leaf, small_frozen)
    expected = gj.certify(small_frozen, x, epsilon=0.1)
    for certificate in (
        gj.certify(same, x, epsilon=0.1),
        jax.jit(lambda f, x: gj.certify(f, x, epsilon=0.1))(small_frozen, x),
    ):
        np.testing.assert_array_equal(certificate.prediction, expected.prediction)
        np.testing.assert_allclose(certificate.radius, expected.radius, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ["minmax", "relu"])
def test_a_pixel_that_is_not_finite_is_not_certified(bad, activation):
    from gloro_jax.models import GloroCNN

    net = GloroCNN(convs=((4, 3, 1),), dense=(6,), num_classes=3, activation=activation).build()
    x = uniform(0, (3, 6, 6, 1))
    frozen = gj.freeze(net, init(net, 1, x, norms=NORMS), input_shape=(6, 6, 1))
    certificate = gj.certify(frozen, x.at[1, 2, 2, 0].set(bad), epsilon=1e-6)
    assert certificate.is_certified[jnp.asarray([0, 2])].all()
    assert not certificate.is_certified[1]
    assert certificate.radius[1] == 0


def test_an_infinite_pixel_that_an_activation_swallows_is_not_certified():
    body = nn.Sequential([layers.Flatten(), layers.Dense(4), layers.ReLU()])
    net, x = gj.GloroNet(body, num_classes=2), jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(jnp.inf)
    params = {
        "body": {"layers_1": {"kernel": -jnp.ones((4, 4)), "bias": jnp.zeros(4)}},
        "head_kernel": jnp.eye(4)[:, :2],
        "head_bias": jnp.asarray([1.0, 0.0]),
    }
    frozen = gj.freeze(net, {"params": params}, input_shape=(2, 2, 1))
    assert jnp.isfinite(raw_logits(frozen, x).values).all()  # -inf became 0
    assert jnp.isnan(frozen(x).values).all()
    certificate = gj.certify(frozen, x, epsilon=1e-6)
    assert not certificate.is_certified[0]
    assert certificate.radius[0] == 0


def test_tied_logits_of_a_zero_network_are_not_certified(small_net):
    net, variables, x = small_net
    zero = {"params": jax.tree.map(jnp.zeros_like, variables["params"])}
    frozen = gj.freeze(net, zero, input_shape=(8, 8, 1))
    assert frozen.lipschitz == 0
    certificate = gj.certify(frozen, x, epsilon=1e-6)
    assert not certificate.is_certified.any()
    assert not certificate.radius.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", range(8))
def test_one_weight_that_is_not_finite_does_not_freeze(small_net, bad, which):
    net, variables, _ = small_net
    leaves, structure = jax.tree.flatten(variables["params"])
    leaves[which] = leaves[which].at[(0,) * leaves[which].ndim].set(bad)
    params = jax.tree.unflatten(structure, leaves)
    with pytest.raises(ValueError, match=r"NaN or infinite entries"):
        gj.freeze(net, {"params": params}, input_shape=(8, 8, 1))


def test_a_shared_layer_at_two_image_sizes_is_refused():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv = layers.Conv(2, 3, name="conv")
            return layers.Flatten(name="flat")(conv(layers.AveragePool(2, name="pool")(conv(x))))

    net = gj.GloroNet(Shared(), num_classes=2)
    with pytest.raises(ValueError, match="Another image size needs fresh vectors"):
        init(net, 0, X, norms=NORMS)
    with pytest.raises(ValueError, match="two image sizes"):
        init(net, 0, X, norms=Collect())


def test_a_body_changed_after_freezing_is_refused_also_where_its_program_is_compiled():
    class Tenfold(layers.LipschitzLayer):
        def __call__(self, x):
            return x.apply(lambda v: 10 * v, lipschitz=10.0)

    parts = [layers.Flatten(), layers.Dense(6)]
    net, x = gj.GloroNet(nn.Sequential(parts), num_classes=3), jnp.ones((2, 2, 2, 1))
    frozen = gj.freeze(net, init(net, 0, x, norms=NORMS), input_shape=(2, 2, 1))
    before = gj.certify(frozen, x, epsilon=0.1)
    in_jit = jax.jit(lambda x: gj.certify(frozen, x, epsilon=0.1))
    in_jit(x)
    parts.append(Tenfold())
    for use in (frozen, lambda x: gj.certify(frozen, x, epsilon=0.1)):
        with pytest.raises(ValueError, match="changed after it was frozen"):
            use(x)
    # A program that is compiled already goes on answering for what was frozen.
    np.testing.assert_allclose(in_jit(x).radius, before.radius, rtol=1e-5)
    parts.pop()
    np.testing.assert_array_equal(gj.certify(frozen, x, epsilon=0.1).radius, before.radius)
    with pytest.raises(AttributeError):
        frozen.input_shape = (4, 1, 1)


@pytest.mark.parametrize(
    "fn",
    [jax.nn.gelu, jnp.square, jnp.tanh, lambda a: 2 * a],
    ids=str.split("gelu square tanh double"),
)
def test_a_function_mapped_over_the_tree_of_a_bounded_certifies_nothing(fn):
    class Mapped(nn.Module):
        def __call__(self, x):
            return jax.tree.map(fn, x)

    body = nn.Sequential([layers.Flatten(), layers.Dense(6), Mapped()])
    net, x = gj.GloroNet(body, num_classes=3), jnp.ones((2, 2, 2, 1))
    variables = init(net, 0, x, norms=NORMS)
    with pytest.raises(ValueError, match=r"jax\.tree\.map was applied to a Bounded"):
        gj.freeze(net, variables, input_shape=(2, 2, 1))


@pytest.mark.parametrize("what", ["array", "number", "steps"])
def test_a_network_frozen_twice_with_another_constant_in_it_is_compiled_twice(what):
    held = {"array": np.float32([[1, 1]]), "number": 1.0, "steps": [1]}

    class Layer(layers.LipschitzLayer):
        def __call__(self, x):
            for _ in held["steps"]:
                x = x.apply(
                    lambda v: held["number"] * v * jnp.asarray(held["array"]), lipschitz=100.0
                )
            return x

    net, x = gj.GloroNet(Layer(), num_classes=2), jnp.asarray([[0.5, 0.25]])
    params = {"head_kernel": np.eye(2, dtype=np.float32), "head_bias": np.zeros(2, np.float32)}

    def frozen():
        return gj.freeze(net, {"params": params}, input_shape=(2,))

    before, same = frozen(), frozen()
    assert before._static == same._static
    np.testing.assert_array_equal(before(x).values, [[0.5, 0.25]])
    held[what] = {"array": np.float32([[1, 4]]), "number": 7.0, "steps": []}[what]
    after = frozen()
    assert before._static != after._static
    expected = {"array": [[0.5, 1.0]], "number": [[3.5, 1.75]], "steps": [[0.5, 0.25]]}[what]
    np.testing.assert_array_equal(after(x).values, expected)
    assert gj.certify(after, x, epsilon=1e-6).prediction[0] == np.argmax(expected)
    np.testing.assert_array_equal(before(x).values, [[0.5, 0.25]])


def test_a_layer_that_changes_its_mind_runs_as_it_was_frozen():
    factor = [1.0]

    class Moody(layers.LipschitzLayer):
        def __call__(self, x):
            return x.apply(lambda v: factor[0] * v, lipschitz=factor[0])

    net, x = gj.GloroNet(nn.Sequential([layers.Flatten(), Moody()]), 2), jnp.ones((1, 2, 2, 1))
    frozen = gj.freeze(net, init(net, 0, x, norms=NORMS), input_shape=(2, 2, 1))
    before = frozen(x)
    factor[0] = 100.0  # nothing that the network's fields say
    for count in (1, 3):
        again = frozen(jnp.ones((count, 2, 2, 1)))
        np.testing.assert_allclose(again.values[0], before.values[0], rtol=1e-6)
        assert float(again.lipschitz) == float(before.lipschitz)


KERNEL = np.diag([3.0, 1.0, 1.0, 1.0]).astype(np.float32)


def start():
    """A direction that power iteration leaves slowly: it finds 1.5 where the truth is 3."""
    return jnp.asarray([0.1, 1.0, 1.0, 1.0])


def estimated(x):
    def stretch(v):
        return v @ jnp.asarray(KERNEL)

    return x.apply(stretch, lipschitz=gj.power_iteration(stretch, start(), steps=1))


@pytest.mark.parametrize("nested", [False, True])
def test_an_estimate_given_to_apply_does_not_freeze_and_names_the_layer(nested):
    class Estimating(layers.LipschitzLayer):
        def __call__(self, x):
            return estimated(x)

    inner = layers.Residual(Estimating()) if nested else Estimating()
    body = nn.Sequential([layers.Dense(4), inner])
    net, x = gj.GloroNet(body, num_classes=2), jnp.ones((1, 4))
    variables = init(net, 0, x, norms=NORMS)
    with pytest.raises(TypeError, match=r"layers_1.*Estimating.* gives Bounded.apply an Estimate"):
        gj.freeze(net, variables, input_shape=(4,))
    logits = net.apply(variables, x, norms=NORMS)
    assert isinstance(logits.lipschitz, gj.Estimate)


@pytree_dataclass()
class Own(Operator):
    kernel: object
    kernel_ndim = 2

    @property
    def input_shape(self):
        return (4,)

    def __call__(self, values, *, precision=None):
        return jnp.matmul(values, self.kernel, precision=precision)

    def norm(self):
        return NORM_OF_OWN[0](np.asarray(self.kernel))


NORM_OF_OWN = {0: gj.matrix_norm}


@pytest.mark.parametrize(
    ("norm", "error", "message"),
    [
        (lambda k: gj.power_iteration(lambda v: v @ k, start(), steps=1), TypeError, "UpperBound"),
        (
            lambda k: float(np.linalg.norm(k, 2)),
            TypeError,
            "Own.norm.. must return a gj.UpperBound",
        ),
        (lambda k: np.linalg.norm(k, 2), TypeError, "must return a gj.UpperBound"),
        (lambda k: gj.UpperBound(-3.0), ValueError, "at least 0"),
        (lambda k: jax.tree.map(lambda _: np.nan, gj.UpperBound(3.0)), ValueError, "at least 0"),
        (lambda k: gj.UpperBound(1.53), ValueError, "stretched by 2.99"),
        (lambda k: gj.UpperBound(2.99), ValueError, "no upper bound"),
    ],
)
def test_an_operator_of_ones_own_returns_a_true_upper_bound_or_does_not_freeze(
    norm, error, message, monkeypatch
):
    class Layer(layers.LipschitzLayer):
        @nn.compact
        def __call__(self, x):
            def make():
                return layers.Linear(Own(self.param("kernel", lambda _: jnp.asarray(KERNEL))))

            return self.apply_linear(x, make)

    net, x = gj.GloroNet(Layer(), num_classes=2), jnp.ones((1, 4))
    variables = init(net, 0, x, norms=NORMS)
    honest = gj.freeze(net, variables, input_shape=(4,))
    assert 3.0 <= honest.lipschitz < 3.0001
    assert gj.certify(honest, np.float32([[1, 0, 0, 0]]), epsilon=1e-6).is_certified[0]
    monkeypatch.setitem(NORM_OF_OWN, 0, norm)
    with pytest.raises(error, match=message):
        gj.freeze(net, variables, input_shape=(4,))


def test_a_layer_with_two_operators_is_refused():
    class Twice(layers.LipschitzLayer):
        @nn.compact
        def __call__(self, x):
            for name in ("a", "b"):
                kernel = self.param(name, nn.initializers.orthogonal(), (4, 4), jnp.float32)
                x = self.apply_linear(x, lambda k=kernel: layers.Linear(Matrix(k)))
            return x

    net = gj.GloroNet(Twice(), num_classes=2)
    params = {"body": {"a": jnp.eye(4), "b": 2 * jnp.eye(4)}}
    params |= {"head_kernel": jnp.eye(4)[:, :2], "head_bias": jnp.zeros(2)}
    with pytest.raises(ValueError, match="one layer per operator"):
        gj.freeze(net, {"params": params}, input_shape=(4,))


def test_tiny_and_huge_declared_constants_are_not_lost_in_conversion():
    x = Bounded.enter(X, kind="upper", rule=None, is_training=False, dtype=jnp.float32)
    with jax.enable_x64(True):
        wide = Bounded.enter(X, kind="upper", rule=None, is_training=False, dtype=jnp.float64)
        assert float(wide.apply(lambda v: v, lipschitz=1e-320).leave()[1]) > 1e-310
        assert float(wide.apply(lambda v: v, lipschitz=2**53 + 1).leave()[1]) > 2**53
    assert float(x.apply(lambda v: v, lipschitz=1e-320).leave()[1]) > 0


def test_a_layer_shared_at_one_size_counts_twice():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = layers.Dense(4, name="dense")
            return dense(dense(x))

    net, x = gj.GloroNet(Shared(), num_classes=2), jnp.ones((2, 4))
    variables = init(net, 0, x, norms=NORMS)
    variables = {"params": jax.tree.map(lambda p: 3 * p, variables["params"])}
    assert gj.freeze(net, variables, input_shape=(4,)).lipschitz == pytest.approx(9.0, rel=1e-5)
