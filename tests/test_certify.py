"""certify: what compiles, where it can be called, what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.certification import _certify
from gloro_jax.models import gloro_2c2f
from tests.draws import init, key, uniform


class PlainForward(nn.Module):
    """2C2F without any bound, from Flax's own layers."""

    @nn.compact
    def __call__(self, x):
        for features in (16, 32):
            x = nn.Conv(features, (4, 4), (2, 2), precision="highest")(x)
            a, b = jnp.split(x, 2, axis=-1)
            x = jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1)
        x = nn.Dense(100, precision="highest")(x.reshape(len(x), -1))
        a, b = jnp.split(x, 2, axis=-1)
        x = jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1)
        return nn.Dense(10, precision="highest")(x)


def test_no_norm_is_computed_in_the_compiled_program():
    net, x = gloro_2c2f().build(), jnp.zeros((64, 28, 28, 1))
    variables = jax.jit(lambda k: net.init(k, x, norms=gj.PowerIteration(steps=5)))(key(0))
    frozen = gj.freeze(net, variables, input_shape=(28, 28, 1))
    program = _certify.lower(frozen, x, jnp.float32(0.3), is_known=True).compile()
    assert "while" not in program.as_text()

    plain = PlainForward()
    weights = jax.jit(plain.init)(key(0), x)
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    forward = jax.jit(plain.apply, compiler_options=options).lower(weights, x).compile()
    ratio = program.cost_analysis()["flops"] / forward.cost_analysis()["flops"]
    assert ratio <= 1.01


@pytest.fixture
def certificate(small_frozen, small_net):
    return gj.certify(small_frozen, small_net[2], epsilon=0.05)


def assert_same(a, b):
    np.testing.assert_array_equal(a.prediction, b.prediction)
    np.testing.assert_allclose(a.radius, b.radius, rtol=1e-3)
    np.testing.assert_allclose(a.slack, b.slack, rtol=1e-3, atol=1e-4)


def test_it_agrees_with_the_logits(small_frozen, small_net, certificate):
    _, _, x = small_net
    logits = small_frozen(x)
    np.testing.assert_array_equal(certificate.prediction, logits.prediction)
    np.testing.assert_allclose(certificate.radius, gj.certified_radius(logits), rtol=1e-5)
    above = logits.values.max(axis=-1) > gj.bottom_logit(logits, epsilon=0.05)
    np.testing.assert_array_equal(certificate.is_certified, above)
    np.testing.assert_array_equal(certificate.is_certified, certificate.slack > 0)
    assert 0 < certificate.is_certified.mean() < 1


def test_leading_axes_are_batch_axes(small_frozen, small_net, certificate):
    _, _, x = small_net
    stacked = gj.certify(small_frozen, x.reshape(3, 4, 8, 8, 1), epsilon=0.05)
    assert stacked.radius.shape == (3, 4)
    assert_same(jax.tree.map(lambda a: a.ravel(), stacked), certificate)
    one = gj.certify(small_frozen, x[0], epsilon=0.05)
    assert one.radius.shape == ()


def test_it_can_be_called_inside_jit_vmap_and_grad(small_frozen, small_net, certificate):
    _, _, x = small_net
    jitted = jax.jit(lambda f, x, e: gj.certify(f, x, epsilon=e))
    assert_same(jitted(small_frozen, x, 0.05), certificate)
    closure = jax.jit(lambda x: gj.certify(small_frozen, x, epsilon=0.05))
    assert_same(closure(x), certificate)
    assert_same(jax.vmap(lambda im: gj.certify(small_frozen, im, epsilon=0.05))(x), certificate)

    def slack(x):
        return gj.certify(small_frozen, x, epsilon=0.05).slack.sum()

    gradient = jax.grad(slack)(x)
    assert jnp.isfinite(gradient).all()
    assert gradient.any()


def test_a_second_freeze_of_the_same_network_does_not_compile_again(small_net):
    net, variables, x = small_net
    first = gj.freeze(net, variables, input_shape=(8, 8, 1))
    gj.certify(first, x, epsilon=0.1)
    moved = {"params": jax.tree.map(lambda p: p + 0.01, variables["params"])}
    second = gj.freeze(net, moved, input_shape=(8, 8, 1))
    assert first.digest != second.digest
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_spectral_vectors_are_neither_needed_nor_read(small_net, small_frozen):
    net, variables, _ = small_net
    poisoned = {**variables, "spectral": jax.tree.map(lambda v: v * jnp.nan, variables["spectral"])}
    for given in ({"params": variables["params"]}, poisoned):
        assert gj.freeze(net, given, input_shape=(8, 8, 1)).digest == small_frozen.digest


def test_epsilon_is_rounded_up_so_that_the_decision_covers_it(small_frozen, small_net):
    _, _, x = small_net
    radius = float(gj.certify(small_frozen, x, epsilon=0.1).radius[0])
    at_radius = gj.certify(small_frozen, x, epsilon=radius * (1 + 1e-6))
    assert not at_radius.is_certified[0]
    assert gj.certify(small_frozen, x, epsilon=radius * (1 - 1e-5)).is_certified[0]


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), float("inf"), 0, jnp.float32(-1.0)])
def test_a_bad_epsilon_is_refused(small_frozen, small_net, bad):
    with pytest.raises(ValueError, match="epsilon is an l2 radius"):
        gj.certify(small_frozen, small_net[2], epsilon=bad)


def test_a_traced_epsilon_that_is_nan_or_negative_certifies_no_more_than_the_clean_point(
    small_frozen, small_net
):
    _, _, x = small_net
    traced = jax.jit(lambda e: gj.certify(small_frozen, x, epsilon=e).is_certified)
    assert not traced(jnp.float32(jnp.nan)).any()
    assert not traced(jnp.float32(-1.0)).any()
    assert not traced(jnp.float32(0.0)).any()


def test_another_image_size_is_refused(small_frozen, small_net):
    with pytest.raises(ValueError, match=r"made for images of shape \(8, 8, 1\)"):
        gj.certify(small_frozen, jnp.zeros((2, 9, 9, 1)), epsilon=0.1)
    net, variables, _ = small_net
    with pytest.raises(ValueError, match="needs fresh vectors"):
        net.apply(variables, jnp.zeros((2, 10, 10, 1)), norms=gj.PowerIteration(steps=1))


def test_fresh_vectors_serve_another_image_size():
    body = nn.Sequential([layers.Conv(4, 3), layers.AveragePool(4), layers.Flatten()])
    net = gj.GloroNet(body, num_classes=2)
    norms = gj.PowerIteration(steps=2)
    x = jnp.zeros((1, 8, 8, 1))
    variables = init(net, 0, x, norms=norms)
    with pytest.raises(ValueError, match="no power-iteration vector"):
        net.apply({"params": variables["params"]}, x, norms=norms)
    fresh = gj.init_spectral(net, variables, key=key(1), input_shape=(7, 7, 1))
    assert fresh["spectral"]["body"]["layers_0"]["vector"].shape == (7, 7, 1)


def test_freezing_inside_jit_is_refused(small_net):
    net, variables, _ = small_net
    with pytest.raises(TypeError, match="cannot run inside jit"):
        jax.jit(lambda v: gj.freeze(net, v, input_shape=(8, 8, 1)))(variables)


def test_freeze_works_through_scan_and_bounds_every_slice():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return layers.MinMax(name="minmax")(layers.Dense(4, name="dense")(x)), None

    class Body(nn.Module):
        length: int = 3

        @nn.compact
        def __call__(self, x):
            scanned = nn.scan(
                Block,
                variable_axes={"params": 0, "spectral": 0, "operators": 0, "frozen": 0},
                split_rngs={"params": True},
                length=self.length,
            )
            return scanned(name="blocks")(x, None)[0]

    net, x = gj.GloroNet(Body(), num_classes=2), jnp.ones((2, 4))
    norms = gj.PowerIteration(steps=50)
    variables = init(net, 0, x, norms=norms)
    scale = jnp.asarray([1.0, 2.0, 3.0])
    params = jax.tree.map(
        lambda p: p * scale.reshape((3,) + (1,) * (p.ndim - 1)) if len(p) == 3 else p,
        variables["params"],
    )
    frozen = gj.freeze(net, {"params": params}, input_shape=(4,))
    kernels = np.asarray(params["body"]["blocks"]["dense"]["kernel"], np.float64)
    exact = np.prod([np.linalg.norm(k, ord=2) for k in kernels])
    assert exact <= frozen.lipschitz <= exact * (1 + 1e-5)
    assert gj.certify(frozen, np.ones((2, 4), np.float32), epsilon=0.1).radius.shape == (2,)


def test_a_normalised_head_is_blind_to_the_scale_of_its_rows():
    body = nn.Sequential([layers.Flatten(), layers.Dense(6), layers.MinMax()])
    net = gj.GloroNet(body, num_classes=3, is_head_normalized=True)
    x = uniform(0, (5, 4, 4, 1))
    params = init(net, 1, x, norms=gj.PowerIteration(steps=2))["params"]
    scaled = {**params, "head_kernel": 10 * params["head_kernel"]}
    one, ten = (
        gj.certify(gj.freeze(net, {"params": p}, input_shape=(4, 4, 1)), x, epsilon=0.1)
        for p in (params, scaled)
    )
    np.testing.assert_allclose(one.radius, ten.radius, rtol=1e-4)
    np.testing.assert_allclose(one.slack, ten.slack, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one.prediction, ten.prediction)


def test_imported_numpy_weights_freeze_like_jax_ones_and_cannot_change_afterwards(
    small_net, small_frozen
):
    net, variables, x = small_net
    weights = {"params": jax.tree.map(np.array, variables["params"])}
    frozen = gj.freeze(net, weights, input_shape=(8, 8, 1))
    assert frozen.digest == small_frozen.digest
    for array in jax.tree.leaves(weights):
        array *= 100
    np.testing.assert_array_equal(frozen(x).values, small_frozen(x).values)
    assert gj.certify(jax.tree.map(lambda a: a, frozen), x, epsilon=0.1)


def test_standardised_images_and_far_points_are_certified_as_before(small_frozen):
    """Only what looks like pixels of 0 to 255 is refused, where the host sees it."""
    x = np.asarray(uniform(3, (2, 8, 8, 1)))
    for images in (40 * x - 20, 300 * x, -255 * x, np.full_like(x, np.nan)):
        gj.certify(small_frozen, images.astype(np.float32), epsilon=0.1)
    inside = jax.jit(lambda x: gj.certify(small_frozen, x, epsilon=0.1).radius)
    assert inside(np.float32(100) * x).shape == (2,)
