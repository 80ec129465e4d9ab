"""Published unsoundness, reproduced: power iteration certifies, an attack flips, we refuse.

Each counterexample is checked in exact rational arithmetic: a float32 image in [0, 1], at an exact
distance of at most epsilon, with another prediction.
"""

from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.evaluation import attack

SIZE = 16


def reference_power_iteration(kernel, *, steps):
    """The reference's procedure: an all-ones start, float32, the norm guarded by an epsilon."""
    v = jnp.ones((1, SIZE, SIZE, kernel.shape[2]), jnp.float32)

    def conv(v):
        return jax.lax.conv_general_dilated(
            v, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    transpose = jax.linear_transpose(conv, v)

    @jax.jit
    def one(v):
        (back,) = transpose(conv(v))
        return back / jnp.maximum(jnp.linalg.norm(back.ravel()), 1e-12)

    for _ in range(steps):
        v = one(v)
    return float(jnp.linalg.norm(conv(v).ravel()))


@pytest.fixture(scope="module")
def opponent_kernel():
    """A colour-opponent filter R - G beside blurs: an all-ones vector never sees it."""
    kernel = np.zeros((3, 3, 3, 4), np.float32)
    kernel[1, 1, 0, 0], kernel[1, 1, 1, 0] = 1, -1
    blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
    kernel[:, :, :, 1] = 0.25 * blur[:, :, None]
    kernel[:, :, :, 3] = 0.25 * (np.outer([1, 2, 1], [-1, 0, 1]) / 8)[:, :, None]
    return kernel


@pytest.fixture(scope="module")
def opponent(opponent_kernel):
    body = nn.Sequential([layers.Conv(4, 3), layers.MinMax(), layers.Flatten()])
    head = np.zeros((SIZE, SIZE, 4, 2), np.float32)
    head[:, :, 0, 0], head[:, :, 0, 1] = 0.5 / SIZE, -0.5 / SIZE
    params = {
        "body": {"layers_0": {"kernel": opponent_kernel, "bias": np.float32([0, 0, -4, -4])}},
        "head_kernel": head.reshape(-1, 2),
        "head_bias": np.zeros(2, np.float32),
    }
    net = gj.GloroNet(body, num_classes=2)
    frozen = gj.freeze(net, {"params": params}, input_shape=(SIZE, SIZE, 3))
    pixels = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3))
    image = np.round(255 * np.clip(0.5 + 0.05 * pixels, 0, 1))
    image[..., 0] += 4
    return frozen, (image / 255).astype(np.float32)


def test_an_all_ones_start_never_sees_a_colour_opponent_filter(opponent_kernel):
    estimate = reference_power_iteration(opponent_kernel, steps=500)
    assert estimate == pytest.approx(0.4912, abs=1e-3)
    bound = gj.conv_norm(opponent_kernel, image_size=(SIZE, SIZE), strides=1, padding="SAME")
    assert np.sqrt(2) * (1 - 1e-9) <= float(bound) <= np.sqrt(2) * 1.001


def test_the_certificate_it_grants_is_false_and_ours_refuses(opponent, opponent_kernel):
    frozen, image = opponent
    logits = frozen(image)
    false_k = reference_power_iteration(opponent_kernel, steps=500)
    as_reference = gj.GloroLogits(logits.values, gj.UpperBound(false_k), logits.head_distances)
    granted, ours = gj.certified_radius(as_reference)[0], gj.certified_radius(logits)[0]
    epsilon = float(1.2 * ours)
    assert epsilon < granted

    found = attack(frozen, image, radii=epsilon, steps=100, restarts=1)
    assert found.successes == 1
    exact = sum(
        (Fraction(float(a)) - Fraction(float(b))) ** 2
        for a, b in zip(found.examples.ravel(), image.ravel(), strict=True)
    )
    assert exact <= Fraction(epsilon) ** 2
    assert found.predictions[0] != np.asarray(logits.prediction)[0]
    assert not gj.certify(frozen, image, epsilon=epsilon).is_certified[0]
    assert attack(frozen, image, radii=float(ours), steps=100).successes == 0


def test_five_hundred_steps_do_not_see_a_small_spectral_gap():
    # Ten LiResNet-like blocks I + 0.01 high-pass: the product is 2.4 % too low.
    high_pass = np.asarray([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 8
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[1, 1] = np.eye(4)
    kernel[:, :, 0, 0] += (0.01 * high_pass).astype(np.float32)
    estimate = reference_power_iteration(kernel, steps=500) ** 10
    bound = float(gj.conv_norm(kernel, image_size=(SIZE, SIZE), strides=1, padding="SAME")) ** 10
    assert estimate < 1.09
    assert 1.1036 < bound < 1.1038


def test_a_kernel_of_1e_16_has_norm_zero_there_and_not_here(opponent_kernel):
    tiny = (1e-16 * opponent_kernel).astype(np.float32)
    assert reference_power_iteration(tiny, steps=50) < 1e-20
    options = {"image_size": (SIZE, SIZE), "strides": 1, "padding": "SAME"}
    plain, small = (float(gj.conv_norm(k, **options)) for k in (opponent_kernel, tiny))
    assert small == pytest.approx(1e-16 * plain, rel=1e-6)


def test_overlapping_max_pooling_has_constant_three():
    # The reference returns 1 for any max-pooling. One bright pixel moves nine outputs.
    x = jnp.zeros((1, 7, 7, 1))
    pooled = jax.lax.reduce_window(
        x.at[0, 3, 3, 0].set(1.0), -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
    assert float(jnp.linalg.norm(pooled.ravel())) == 3.0
    body = nn.Sequential([layers.MaxPool(3, strides=1), layers.Flatten()])
    with pytest.raises(ValueError, match="not 1-Lipschitz"):
        gj.GloroNet(body, 2).init(jax.random.key(0), x, norms=gj.PowerIteration(steps=1))


def test_the_reshaped_kernel_is_not_the_operator():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    reshaped = np.linalg.norm(kernel.reshape(-1, 4), ord=2)
    assert reshaped < 0.8 * float(
        gj.conv_norm(kernel, image_size=(8, 8), strides=1, padding="SAME")
    )
