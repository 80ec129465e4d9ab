"""Our numbers against the TensorFlow reference's; how they were made: tests/golden/README.md."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.lipschitz.norms import exact_norm
from gloro_jax.lipschitz.operators import Convolution, Matrix


def _minmax():
    return layers.MinMax(pairing="adjacent", order="min_max")


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "gloro_tf.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def net():
    body = nn.Sequential([
        layers.Conv(8, 4, strides=2, padding="SAME"), _minmax(),
        layers.Conv(12, 3, padding="VALID"), _minmax(),
        layers.AveragePool(2), layers.Flatten(),
        layers.Dense(20), _minmax(),
    ])  # fmt: skip
    return gj.GloroNet(body, num_classes=9)


@pytest.fixture(scope="module")
def params(golden):
    weights = {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}

    def pair(name):
        return {"kernel": weights[f"{name}/kernel:0"], "bias": weights[f"{name}/bias:0"]}

    body = {
        "layers_0": pair("1/conv2d"),
        "layers_2": pair("3/conv2d_1"),
        "layers_6": pair("7/dense"),
    }
    head = pair("9/dense_1")
    return {"body": body, "head_kernel": head["kernel"], "head_bias": head["bias"]}


@pytest.fixture(scope="module")
def converged(net, params, golden):
    spectral = gj.init_spectral(
        net, {"params": params}, key=jax.random.key(0), input_shape=(14, 14, 2)
    )
    norms = gj.PowerIteration(steps=500)
    return net.apply(spectral, jnp.asarray(golden["x"]), norms=norms)


def test_logits(converged, golden):
    np.testing.assert_allclose(
        converged.values, golden["logits_with_bottom"][:, :-1], rtol=1e-5, atol=1e-5
    )


def test_converged_lipschitz_constants(converged, golden):
    assert float(converged.lipschitz) == pytest.approx(float(golden["sub_lipschitz"]), rel=1e-4)
    pairs = float(converged.lipschitz) * np.asarray(converged.head_distances)
    expected = golden["lipschitz_constant"] + np.eye(9)  # the reference marks the diagonal by -1
    np.testing.assert_allclose(pairs, expected, rtol=1e-4, atol=1e-6)


def test_bottom_logit(converged, golden):
    bottom = gj.bottom_logit(converged, epsilon=float(golden["eps"]))
    np.testing.assert_allclose(bottom, golden["logits_with_bottom"][:, -1], rtol=1e-4, atol=1e-4)


def test_certified_radius(converged, golden):
    # The reference's K, as if it were a bound, to compare the formula and nothing else.
    as_bound = gj.GloroLogits(
        converged.values, gj.UpperBound(float(golden["sub_lipschitz"])), converged.head_distances
    )
    np.testing.assert_allclose(
        gj.certified_radius(as_bound), golden["certified_radius"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("crossentropy", gj.losses.gloro_cross_entropy),
        ("trades_kl.2", lambda *a, **k: gj.losses.trades_kl(*a, **k, weight=2.0)),
        ("trades_ce.2", lambda *a, **k: gj.losses.trades_ce(*a, **k, weight=2.0)),
    ],
)
def test_losses_with_the_references_constant(converged, golden, name, loss):
    logits = gj.GloroLogits(
        converged.values,
        gj.Estimate(jnp.float32(golden["sub_lipschitz"])),
        converged.head_distances,
    )
    mean = loss(logits, jnp.asarray(golden["y"]), epsilon=float(golden["eps"])).mean()
    assert float(mean) == pytest.approx(float(golden[f"loss/{name}"]), rel=1e-5)


def test_the_guaranteed_constant_is_above_the_exact_one_and_within_two_percent(net, params, golden):
    frozen = gj.freeze(net, {"params": params}, input_shape=(14, 14, 2))
    body = params["body"]
    operators = [
        Convolution(body["layers_0"]["kernel"], (14, 14), (2, 2), ((1, 1), (1, 1))),
        Convolution(body["layers_2"]["kernel"], (7, 7), (1, 1), ((0, 0), (0, 0))),
        Matrix(body["layers_6"]["kernel"]),
    ]
    exact = 0.5  # average pooling of disjoint 2 x 2 windows
    for operator in operators:
        exact *= exact_norm(lambda v, op=operator: op(v[None])[0], operator.input_shape)
    assert exact <= frozen.lipschitz <= 1.02 * exact
    assert frozen.lipschitz >= float(golden["sub_lipschitz"])
