"""Lower-bound search: exact where the truth is known, never above the bound, and an alarm."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.evaluation import tightness
from gloro_jax.evaluation.tightness import layer_norms
from tests.broken import with_too_small_a_bound
from tests.draws import uniform


@pytest.fixture(scope="module")
def linear_net():
    """Without an activation the steepest pair of classes has a slope known from an SVD."""
    net = gj.GloroNet(nn.Sequential([layers.Flatten(), layers.Dense(6)]), num_classes=3)
    x = uniform(0, (40, 3, 3, 1))
    variables = net.init(jax.random.key(1), x, norms=gj.PowerIteration(steps=5))
    frozen = gj.freeze(net, variables, input_shape=(3, 3, 1))
    return frozen, np.asarray(x)


def test_on_a_linear_network_the_search_finds_the_true_slope(linear_net):
    frozen, images = linear_net
    logits = jax.vmap(lambda v: frozen(v.reshape(1, 3, 3, 1)).values[0])
    matrix = np.asarray(logits(np.eye(9, dtype=np.float32)) - logits(np.zeros((9, 9), np.float32)))
    found = tightness(frozen, images, steps=300)
    i, j = found.classes
    truth = np.linalg.norm(matrix[:, i] - matrix[:, j])
    assert found.lower == pytest.approx(truth, rel=1e-3)
    upper = frozen.lipschitz * float(frozen(images[:1]).head_distances[i, j])
    assert found.upper == pytest.approx(upper, rel=1e-5)
    assert found.ratio <= 1
    assert not found.is_alarm


def test_a_bound_that_is_too_small_raises_the_alarm(linear_net):
    frozen, images = linear_net
    honest = tightness(frozen, images, steps=100)
    broken = with_too_small_a_bound(frozen, factor=1.2 / honest.ratio, layer="body/layers_1")
    assert tightness(broken, images, steps=100).is_alarm


def test_a_convolutional_network_is_never_exceeded(small_frozen, small_net):
    images = np.asarray(small_net[2])
    found = tightness(small_frozen, images, steps=200)
    assert 0.05 < found.ratio <= 1
    again = tightness(small_frozen, images, steps=200)
    assert (again.lower, again.classes) == (found.lower, found.classes)


def test_estimates_come_from_the_vectors_that_training_left(small_net, small_frozen):
    net, variables, x = small_net
    spectral = variables["spectral"]

    @jax.jit
    def turn(spectral):
        return net.apply(
            {**variables, "spectral": spectral}, x, norms=gj.PowerIteration(steps=5),
            mutable=["spectral"],
        )[1]["spectral"]  # fmt: skip

    for _ in range(60):
        spectral = turn(spectral)
    norms = layer_norms(small_frozen, spectral, steps=5)
    assert norms.keys() == small_frozen.layer_norms().keys()
    for pair in norms.values():
        assert pair["guaranteed"] * 0.99 < pair["estimate"] <= pair["guaranteed"] * (1 + 1e-6)
    fresh = layer_norms(small_frozen, variables["spectral"], steps=1)
    assert min(p["estimate"] / p["guaranteed"] for p in fresh.values()) < 0.999
