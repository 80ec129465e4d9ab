"""LiResNet and its CHORD form: blocks as one operator, centring, stems, what freezing leaves."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.certification import _certify
from gloro_jax.lipschitz.norms import exact_norm
from gloro_jax.lipschitz.operators import Matrix
from gloro_jax.models import ChordLiResNet, LiResNet
from tests.draws import init, key, normal, uniform

NORMS = gj.PowerIteration(steps=2)
CHORD = ChordLiResNet(depth=2, width=8, num_classes=4, dense_features=12, dense_depth=2)
PLAIN = LiResNet(depth=2, width=8, num_classes=4, dense_features=12)


def net_of(layer, classes=3):
    return gj.GloroNet(nn.Sequential([layer, layers.Flatten()]), num_classes=classes)


def drawn(net, shape, seed=0):
    """Variables away from their symmetric start."""
    x = uniform(seed, (6, *shape))
    variables = jax.jit(lambda k: net.init(k, x, norms=NORMS))(key(seed + 1))

    def noise(leaf):
        return leaf + 0.1 * normal(leaf.size, leaf.shape)

    moved = {k: jax.tree.map(noise, v) for k, v in variables.items() if k != "spectral"}
    return {**variables, **moved}, x


SMALL, LARGE = (9, 7, 4), (16, 16, 12)  # written out, and over the torus


@pytest.mark.parametrize(
    ("kernel_size", "shape"),
    [(k, SMALL) for k in (1, 4, (2, 3))]
    + [pytest.param(k, SMALL, marks=pytest.mark.slow) for k in (2, 3, 5, 6)]
    + [pytest.param(k, LARGE, marks=pytest.mark.slow) for k in (1, 2, 3, 4, 5, 6)],
)
def test_a_block_without_weights_is_the_identity(kernel_size, shape):
    net = net_of(layers.LinearResidual(kernel_size))
    x = normal(0, (2, *shape))
    params = init(net, 0, x, norms=NORMS)["params"]
    kernel = params["body"]["layers_0"]["kernel"]
    params["body"]["layers_0"]["kernel"] = jnp.zeros_like(kernel)
    frozen = gj.freeze(net, {"params": params}, input_shape=shape)
    (operator,) = frozen.operators().values()
    np.testing.assert_array_equal(operator(x), x)
    assert 1 <= frozen.layer_norms()["body/layers_0"] <= 1 + 1e-6


@pytest.mark.parametrize("kernel_size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_block_is_bounded_as_one_operator(kernel_size):
    shape, scale = (5, 6, 4), 0.7
    layer = layers.LinearResidual(kernel_size, scale=scale)
    variables, _ = drawn(net_of(layer), shape)
    own = variables["params"]["body"]["layers_0"]
    frozen = gj.freeze(net_of(layer), variables, input_shape=shape)
    branch = layers.Conv(4, kernel_size, use_bias=False)
    kernel = scale * own["kernel"] * own["gain"][None, None, None]

    def add_branch(v):
        y = jax.lax.conv_general_dilated(
            v[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return v + y[0]

    exact = exact_norm(add_branch, shape)
    alone = gj.freeze(
        net_of(branch),
        {"params": {**variables["params"], "body": {"layers_0": {"kernel": kernel}}}},
        input_shape=shape,
    ).lipschitz
    assert exact * (1 - 1e-6) <= frozen.lipschitz <= exact * (1 + 1e-4)
    assert frozen.lipschitz < 1 + 0.95 * alone


def found_means(before, after):
    """The batch's own means, from the step that the running ones took."""
    return jax.tree.map(lambda old, new: old + (new - old) / 0.1, before, after)


@pytest.mark.slow
def test_training_with_batch_means_is_evaluation_with_those_means():
    net = dataclasses.replace(CHORD, dense_depth=1).build()
    variables, x = drawn(net, (16, 16, 3))

    def train(variables):
        mutable = ["spectral", "centering"]
        return net.apply(variables, x, norms=NORMS, is_training=True, mutable=mutable)

    logits, new = jax.jit(train)(variables)
    means = found_means(variables["centering"], new["centering"])
    evaluated = jax.jit(lambda v: net.apply(v, x, norms=NORMS))({**variables, "centering": means})
    np.testing.assert_allclose(logits.values, evaluated.values, rtol=1e-4, atol=1e-4)
    frozen = gj.freeze(
        net, {"params": variables["params"], "centering": means}, input_shape=(16, 16, 3)
    )
    values = jax.jit(lambda x: frozen(x).values)(x)
    np.testing.assert_allclose(logits.values, values, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_centring_moves_values_and_no_bound():
    net, plain = CHORD.build(), dataclasses.replace(CHORD, is_centered=False).build()
    variables, x = drawn(net, (16, 16, 3))
    centered = gj.freeze(net, variables, input_shape=(16, 16, 3))
    without = gj.freeze(plain, {"params": variables["params"]}, input_shape=(16, 16, 3))
    assert centered.lipschitz == without.lipschitz
    assert not np.allclose(centered(x).values, without(x).values)


def test_a_centred_network_is_not_frozen_without_its_means():
    net = CHORD.build()
    variables, _ = drawn(net, (16, 16, 3))
    with pytest.raises(ValueError, match=r"block1 has no running mean.*variables\['centering'\]"):
        gj.freeze(net, {"params": variables["params"]}, input_shape=(16, 16, 3))


@pytest.mark.slow
def test_the_scale_of_the_head_changes_neither_logits_nor_margins():
    net = CHORD.build()
    variables, x = drawn(net, (16, 16, 3))
    params = variables["params"]
    scales = jnp.array([[10.0, 3.0, 0.1, 1.0]])
    larger = {**params, "head_kernel": params["head_kernel"] * scales}
    ours, theirs = (
        gj.freeze(net, {**variables, "params": p}, input_shape=(16, 16, 3))(x)
        for p in (params, larger)
    )
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.head_distances, theirs.head_distances, rtol=1e-5)
    assert float(ours.head_distances.max()) <= 2 * (1 + 1e-6)


SIZES = {
    (17, 23, 2): (9, 12),
    (28, 28, 1): (14, 14),  # the neck pads
    (32, 32, 3): (16, 16),
    (64, 64, 3): (16, 16),
    (3, 3, 1): (2, 2),
    (224, 224, 3): (112, 112),  # patches of 2 here
}


@pytest.mark.parametrize(
    ("model", "shape", "stem"),
    [
        pytest.param(model, *size, marks=pytest.mark.slow)
        for model in (PLAIN, CHORD)
        for size in SIZES.items()
    ],
)
def test_any_image_size_freezes_to_what_trains(model, shape, stem):
    net = model.build()
    variables, x = drawn(net, shape)
    frozen = gj.freeze(net, variables, input_shape=shape)
    assert frozen.operators()["body/stem"].output_shape[:2] == stem
    trained = jax.jit(lambda v, x: net.apply(v, x, norms=NORMS))(variables, x)
    values = jax.jit(lambda x: frozen(x).values)(x)
    np.testing.assert_allclose(values, trained.values, rtol=1e-4, atol=1e-4)
    assert float(trained.lipschitz) <= frozen.lipschitz * 1.01


@pytest.mark.slow
def test_the_stem_can_be_chosen_and_says_when_it_does_not_fit():
    wide = dataclasses.replace(PLAIN, width=300, stem="patches")
    with pytest.raises(ValueError, match=r"patches of side 10.*images are 8 x 8.*stem '5x5'"):
        drawn(wide.build(), (8, 8, 3))
    seven = dataclasses.replace(PLAIN, stem="7x7").build()
    variables, _ = drawn(seven, (32, 32, 3))
    frozen = gj.freeze(seven, variables, input_shape=(32, 32, 3))
    assert frozen.operators()["body/stem"].output_shape[:2] == (8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 7}, "width must be even and at least 2, got 7"),
        ({"dense_features": 0}, "dense_features must be even and at least 2, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"neck_features": 0}, "neck_features must be at least 1, got 0"),
        ({"dense_depth": 0}, "dense_depth must be at least 1, got 0"),
        ({"neck_features": 5, "is_neck_activated": True}, "neck_features must be even"),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_built(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CHORD, **change).build()


def test_an_image_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"takes images \(batch, H, W, C\), got shape \(2, 8, 8\)"):
        CHORD.build().init(key(0), jnp.zeros((2, 8, 8)), norms=NORMS)


def plain_twin(model):
    """The same layers with kernels as they are: nothing folded, nothing orthonormalised."""
    body = [layers.Normalize((0.5,) * 3, (1.0,) * 3)]
    body += [layers.Conv(model.width, 5, strides=2, padding=2), layers.MinMax()]
    for _ in range(model.depth):
        body += [layers.Conv(model.width, 3), layers.MinMax()]
    body += [layers.Conv(model.width, 4, strides=4, use_bias=False), layers.Flatten()]
    for _ in range(1 + model.dense_depth):
        body += [layers.Dense(model.dense_features), layers.MinMax()]
    return gj.GloroNet(nn.Sequential(body), num_classes=model.num_classes)


def test_a_frozen_chord_network_costs_what_plain_kernels_cost():
    shape, x = (16, 16, 3), jnp.zeros((8, 16, 16, 3))
    programs = []
    model = dataclasses.replace(CHORD, depth=1, dense_depth=1)
    for net in (model.build(), plain_twin(model)):
        variables, _ = drawn(net, shape)
        frozen = gj.freeze(net, variables, input_shape=shape)
        programs.append(_certify.lower(frozen, x, jnp.float32(0.1), is_known=True).compile())
    ours, plain = (program.cost_analysis()["flops"] for program in programs)
    assert ours <= 1.01 * plain
    text = programs[0].as_text()
    assert not any(word in text for word in ("cholesky", "triangular", "potrf", "trsm", "while"))


@pytest.mark.slow
@pytest.mark.parametrize("model", [PLAIN, CHORD], ids=["LiResNet", "CHORD"])
def test_bfloat16_touches_activations_and_nothing_else(model):
    net = dataclasses.replace(model, depth=1, is_centered=True).build()
    variables, x = drawn(net, (16, 16, 3))

    def loss(params, x):
        logits, new = net.apply(
            {**variables, "params": params},
            x,
            norms=NORMS,
            is_training=True,
            mutable=["spectral", "centering"],
        )
        return gj.losses.emma(logits, jnp.zeros(6, int), epsilon=0.1).mean(), (logits, new)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (exact, _)), _ = run(variables["params"], x)
    (_, (rough, new)), gradient = run(variables["params"], x.astype(jnp.bfloat16))
    for tree in (gradient, new, rough):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}
    assert float(rough.lipschitz) == float(exact.lipschitz)
    spread = float(jnp.max(jnp.abs(exact.values)))
    gap = float(jnp.max(jnp.abs(rough.values - exact.values)))
    assert 0 < gap < 0.05 * spread
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_a_config_survives_plain_data():
    for model in (PLAIN, CHORD, gj.models.gloro_2c2f()):
        plain = json.loads(json.dumps(gj.models.as_plain(model)))
        assert gj.models.from_plain_model(plain) == model
    old = json.loads(json.dumps(gj.models.as_plain(gj.models.gloro_2c2f())))
    del old["family"]  # as run folders had it before there were several
    assert gj.models.from_plain_model(old) == gj.models.gloro_2c2f()
    with pytest.raises(ValueError, match=r"family is one of .*got 'ResNet'"):
        gj.models.from_plain_model({"family": "ResNet"})


@pytest.mark.parametrize(
    "mean", [np.full(400, 0.5), np.float32(0.5), np.zeros((1, 1)), np.full(1, 0.5)]
)
def test_a_mean_or_bias_of_another_shape_cannot_stretch_the_image(mean):
    # One channel plus 400 numbers is 400 channels: a map of norm 20 that no bound has seen.
    net = net_of(layers.LinearResidual(1, is_centered=True), classes=2)
    own = {"kernel": np.zeros((1, 1, 1, 1)), "gain": np.ones(1), "bias": np.zeros(1)}
    rows = 4
    params = {
        "body": {"layers_0": own},
        "head_kernel": np.stack([np.ones(rows), -np.ones(rows)], axis=1),
        "head_bias": np.zeros(2),
    }
    variables = {"params": params, "centering": {"body": {"layers_0": {"mean": mean}}}}
    variables = jax.tree.map(lambda a: np.asarray(a, np.float32), variables)
    if np.shape(mean) == (1,):
        gj.freeze(net, variables, input_shape=(2, 2, 1))
        return
    with pytest.raises(ValueError, match=r"one float32 number per channel, \(1,\)"):
        gj.freeze(net, variables, input_shape=(2, 2, 1))


def test_a_layer_of_one_s_own_cannot_stretch_by_its_bias_either():
    class Wide(layers.LipschitzLayer):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.ones, (1, 1))
            return self.apply_linear(x, lambda: layers.Linear(Matrix(kernel), jnp.zeros(400)))

    net = gj.GloroNet(Wide(), num_classes=2)
    with pytest.raises(ValueError, match=r"one entry per output, \(1,\); got \(400,\)"):
        init(net, 0, jnp.ones((2, 1)), norms=NORMS)


def test_kernels_are_bounded_in_the_precision_they_run_in():
    net = gj.GloroNet(layers.Dense(8), num_classes=2)
    variables = init(net, 0, jnp.ones((2, 8)), norms=NORMS)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda p: jnp.asarray(np.asarray(p, np.float64) * (1 + 2e-8)), variables["params"]
        )
        frozen = gj.freeze(net, {"params": wide}, input_shape=(8,))
    assert {a.dtype for a in frozen.arrays().values()} == {np.dtype("float32")}
