"""Our LiResNet with CHORD layers against the PyTorch reference; tests/golden/README.md says how.

The weights come in through `torch_import`, so the layout is tested with the mathematics.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.gloro import run_body
from gloro_jax.layers.base import Frozen
from gloro_jax.lipschitz.norms import Estimate
from gloro_jax.logits import GloroLogits
from gloro_jax.platforms import jit
from gloro_jax.torch_import import from_state_dict, read_state_dict
from tests.draws import normal

FILE = Path(__file__).parent / "golden" / "liresnet_cifar.npz"
DEPTH = range(1, 4)
PARTS = {
    "stem": ["stem"],
    "conv": [f"block{i}" for i in DEPTH],
    "neck": ["neck", "neck_dense"],
    "linear": [f"dense{i}" for i in DEPTH],
}


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def imported():
    return from_state_dict(read_state_dict(FILE))


@pytest.fixture(scope="module")
def frozen(imported):
    return gj.freeze(imported.model.build(), imported.variables, input_shape=imported.input_shape)


def test_the_config_is_read_off_the_shapes(imported, golden):
    depth, width, side, classes, features, dense_depth = golden["config"]
    assert imported.model == gj.models.ChordLiResNet(
        depth=int(depth),
        width=int(width),
        num_classes=int(classes),
        stem="5x5",
        dense_features=int(features),
        dense_depth=int(dense_depth),
    )
    assert imported.input_shape == (side, side, 3)


def test_evaluation_logits_and_features(frozen, golden):
    x = jnp.asarray(golden["x"])
    np.testing.assert_allclose(frozen(x).values, golden["eval/logits"], rtol=0, atol=1e-4)

    def features(frozen, x):
        body = frozen.net.apply({"frozen": frozen._frozen}, x, rule=Frozen(), method=run_body)
        return body.leave()[0]

    np.testing.assert_allclose(jit(features)(frozen, x), golden["eval/features"], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def starts():
    """The reference's start vectors, which it keeps with the weights."""
    state = read_state_dict(FILE)
    blocks = state["conv.init_x"].reshape(3, 16, 16, 16)
    named = {"stem": state["stem.0.init_x"][0]}
    named |= {f"block{i}": block for i, block in zip(DEPTH, blocks, strict=True)}
    return {name: jnp.asarray(start.transpose(1, 2, 0)) for name, start in named.items()}


@pytest.mark.parametrize("part", PARTS)
def test_norms_of_each_part_by_power_iteration_and_from_above(part, frozen, golden, starts):
    expected = float(golden[f"eval/lipschitz/{part}"])
    operators = {name.removeprefix("body/"): op for name, op in frozen.operators().items()}
    estimates = []
    for name in PARTS[part]:
        # The reference: 2,000 rounds from its start vector; an SVD where kernels are orthogonal,
        # whose singular values lie so close together that many more rounds are needed.
        random = normal(0, operators[name].input_shape)
        start, steps = (starts[name], 2000) if name in starts else (random, 20_000)
        estimate = jit(lambda op, v, steps=steps: op.estimate(v, steps=steps).value)
        estimates.append(float(estimate(operators[name], start)))
    assert math.prod(estimates) == pytest.approx(expected, rel=1e-4)
    norms = frozen.layer_norms()
    guaranteed = math.prod(norms[f"body/{name}"] for name in PARTS[part])
    assert 1 - 1e-6 <= guaranteed / expected <= 1.001
    assert guaranteed >= math.prod(estimates) * (1 - 1e-6)


def test_the_whole_constant(frozen, golden):
    assert 1 - 1e-6 <= frozen.lipschitz / float(golden["eval/lipschitz"]) <= 1.001


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("emma", gj.losses.emma),
        ("margin", gj.losses.margin),
        ("trades", lambda *a, **k: gj.losses.trades_kl(*a, weight=1.0, **k)),
    ],
)
def test_losses_and_adjusted_logits_with_the_reference_constant(name, loss, frozen, golden):
    logits = frozen(jnp.asarray(golden["x"]))
    lipschitz = Estimate(jnp.float32(golden["eval/lipschitz"]))
    logits = GloroLogits(logits.values, lipschitz, logits.head_distances)
    labels, epsilon = jnp.asarray(golden["y"], jnp.int32), float(golden["eps"])
    mean = jnp.mean(loss(logits, labels, epsilon=epsilon))
    assert float(mean) == pytest.approx(float(golden[f"eval/{name}_loss"]), rel=1e-5)
    if name == "trades":
        adjusted = jnp.concatenate(
            [logits.values, gj.bottom_logit(logits, epsilon=epsilon)[:, None]], axis=1
        )
        np.testing.assert_allclose(adjusted, golden["eval/trades_loss/logits"], atol=1e-4)


@pytest.fixture(scope="module")
def trained(imported, golden, starts):
    """One training-mode pass from the reference's own start vectors: values and gradients."""
    net = imported.model.build()
    variables = gj.init_spectral(
        net, imported.variables, key=jax.random.key(0), input_shape=imported.input_shape
    )
    for name, start in starts.items():
        variables["spectral"]["body"][name]["vector"] = start
    labels = jnp.asarray(golden["y"], jnp.int32)

    def loss(params):
        logits, new = net.apply(
            {**variables, "params": params},
            jnp.asarray(golden["x"]),
            norms=gj.PowerIteration(steps=10),
            is_training=True,
            mutable=["spectral", "centering"],
        )
        losses = gj.losses.emma(logits, labels, epsilon=float(golden["eps"]))
        return losses.mean(), (logits, new["centering"])

    step = jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logits, means)), gradient = step(variables["params"])
    return value, logits, means, gradient


def test_a_training_step_gives_the_reference_loss_logits_and_means(trained, golden):
    value, logits, means, _ = trained
    assert float(value) == pytest.approx(float(golden["train/emma_loss"]), rel=1e-3)
    assert float(logits.lipschitz) == pytest.approx(float(golden["train/lc"]), rel=1e-4)
    own = np.take_along_axis(np.asarray(logits.values), golden["y"][:, None], axis=1)
    np.testing.assert_allclose(
        logits.values - own, golden["train/logits"], rtol=1e-3, atol=1e-4
    )  # theirs are less the label's
    after = np.stack([means["body"][f"block{i}"]["mean"] for i in DEPTH])
    np.testing.assert_allclose(after, golden["train/after/conv.running_mean"], rtol=1e-3, atol=1e-6)


def test_a_training_step_gives_the_reference_gradients(trained, golden, imported):
    gradient = trained[3]
    # In our layout, through the very function that imports weights.
    given = {
        name.removeprefix("train/grad/"): array
        for name, array in golden.items()
        if name.startswith("train/grad/")
    }
    body = gradient["body"]
    ours = {
        "stem.0.weight": body["stem"]["kernel"].transpose(3, 2, 0, 1),
        "stem.0.bias": body["stem"]["bias"],
        "conv.gamma": np.stack([body[f"block{i}"]["gain"] for i in DEPTH]),
        "conv.bias": np.stack([body[f"block{i}"]["bias"] for i in DEPTH]),
        "conv.weights": np.stack([body[f"block{i}"]["kernel"] for i in DEPTH]),
        "neck.kernel": body["neck"]["kernel"].transpose(3, 2, 0, 1),
        "neck.weight": body["neck_dense"]["kernel"],
        "neck.bias": body["neck_dense"]["bias"],
        "linear.weights": np.stack([body[f"dense{i}"]["kernel"] for i in DEPTH]),
        "linear.gamma": np.stack([body[f"dense{i}"]["gain"] for i in DEPTH]),
        "linear.bias": np.stack([body[f"dense{i}"]["bias"] for i in DEPTH]),
        "head.weight": gradient["head_kernel"].T,
        "head.bias": gradient["head_bias"],
    }
    for name, array in ours.items():
        norm = float(golden[f"train/grad_norm/{name}"])
        assert np.linalg.norm(array) == pytest.approx(norm, rel=1e-3), name
        if name in given:
            error = np.linalg.norm(array.reshape(given[name].shape) - given[name])
            assert error <= 1e-3 * norm, name
    total = math.sqrt(sum(float(np.sum(np.square(a))) for a in jax.tree.leaves(gradient)))
    assert total == pytest.approx(float(golden["train/grad_norm"]), rel=1e-3)
