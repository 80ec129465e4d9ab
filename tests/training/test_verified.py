"""Training against what a verifier proves: the loss, its bounds, and the network that comes out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.models import GloroCNN
from gloro_jax.network import network_of
from gloro_jax.training.verified import is_verified, make_margins, verified_loss
from gloro_jax.verifiers import Crown, IntervalBounds

MODEL = GloroCNN(convs=((4, 3, 2),), dense=(8,), num_classes=3, activation="relu")
CONFIG = gj.training.TrainConfig(
    epsilon=0.05, norm="linf", loss="ibp", epochs=4, batch_size=28, learning_rate=1e-2,
    trades_weight=0.5, epsilon_schedule="[0.1]-[50%:1.1]",
)  # fmt: skip


def test_the_loss_is_its_closed_form():
    rng = np.random.default_rng(0)
    values, margins = rng.normal(size=(2, 5, 3))
    labels = np.array([0, 1, 2, 0, 1])
    margins[np.arange(5), labels] = 0

    def cross_entropy(scores):
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return -np.log(shifted[np.arange(5), labels] / shifted.sum(axis=1))

    wanted = 0.3 * cross_entropy(values) + 0.7 * cross_entropy(-margins)
    found = verified_loss(values, margins, labels, weight=0.7)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    behind = np.where(np.arange(3) == labels[:, None], 1, margins) > 0
    np.testing.assert_array_equal(is_verified(margins, labels), behind.all(axis=1))


@pytest.mark.parametrize("loss", [pytest.param("ibp", marks=pytest.mark.slow), "crown_ibp"])
def test_bounds_in_a_step_are_those_of_the_frozen_network(loss, tiny_data):
    """Interval bounds equal the verifier's; lines through them lie below those of Crown."""
    net, shape = MODEL.build(), tiny_data.input_shape
    variables = net.init(
        jax.random.key(3), jnp.zeros((1, *shape)), norms=gj.PowerIteration(steps=1)
    )
    x, labels = np.asarray(tiny_data.test.images[:6]), np.asarray(tiny_data.test.labels[:6])
    margins_of = make_margins(net, dataclasses.replace(CONFIG, loss=loss), input_shape=shape)
    network = network_of(gj.freeze(net, variables, input_shape=shape))
    radius = np.full(6, 0.03, np.float32)
    boxes, _ = IntervalBounds().hint(network, x, radius, labels, norm="linf", box=(0.0, 1.0))
    lines, _ = Crown().hint(network, x, radius, labels, norm="linf", box=(0.0, 1.0))
    found = [np.asarray(margins_of(variables, x, labels, radius=0.03, share=s)) for s in (1.0, 0.0)]
    np.testing.assert_allclose(found[0], boxes, rtol=1e-4, atol=1e-5)
    assert (found[1] <= np.asarray(lines) + 1e-5).all()
    if loss == "crown_ibp":
        assert not np.allclose(found[0], found[1])


def test_it_learns_to_be_verified(tiny_data, tmp_path):
    result = gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    test = tiny_data.test
    x, labels = np.asarray(test.images), np.asarray(test.labels).astype(int)
    held = IntervalBounds().verify(
        result.frozen, x, labels, norm="linf", radius=CONFIG.epsilon, box=(0.0, 1.0)
    )
    assert held.is_verified.mean() > 0.5
    estimate = result.history[-1]["validation"]["vra_estimate"]
    assert 0.5 < estimate <= result.history[-1]["validation"]["clean"]


def test_smooth_layers_are_refused_before_training(tiny_data):
    from flax import linen as nn

    from gloro_jax import layers

    body = nn.Sequential([layers.Flatten(), layers.Dense(4), layers.SmoothAbs()])
    with pytest.raises(ValueError, match="loss='ibp' has no rule for a layer that applies"):
        make_margins(gj.GloroNet(body, 3), CONFIG, input_shape=tiny_data.input_shape)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": "emma"}, "norm=linf goes with loss ibp or crown_ibp"),
        ({"trades_weight": 1.5}, "share of the worst case in loss=ibp, at most 1"),
        ({"trades_schedule": "[0.5]-[50%:2.5]"}, "at most 2 here, not 2.5"),
        ({"compute": "bfloat16"}, "does not go with loss=ibp"),
        ({"augmentation": gj.data.Augmentation(noise=0.1)}, "between 0 and 1 that loss=ibp"),
    ],
)
def test_config_says_what_does_not_go_together(changes, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(CONFIG, **changes)


def test_a_radius_in_steps_of_a_pixel_is_refused(tiny_data, tmp_path):
    large = dataclasses.replace(CONFIG, epsilon=2.0)
    with pytest.raises(ValueError, match="never further apart than 1 in linf"):
        gj.training.fit(MODEL, tiny_data, large, run=tmp_path / "run")


def test_noise_is_gaussian_of_its_deviation_and_hangs_on_the_key_alone():
    from gloro_jax.data.augment import Augmentation, augmented

    images = np.full((64, 6, 6, 1), 0.5, np.float32)
    config = Augmentation(noise=0.25)
    index = np.arange(64, dtype=np.int32)
    a, b = (augmented(images, index, config=config, key=jax.random.key(0), step=3) for _ in "ab")
    np.testing.assert_array_equal(a, b)
    assert abs(float(np.std(a)) - 0.25) < 0.02
    assert float(np.max(a)) > 1  # not clipped: the theorem is about the whole normal distribution
    with pytest.raises(ValueError, match="noise is a standard deviation"):
        Augmentation(noise=-1.0)
