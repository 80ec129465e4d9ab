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
from gloro_jax import certificates, layers
from tests.certificates import forge
from tests.soundness.demonstrations import (
    SIZE,
    counterexample,
    opponent,
    opponent_kernel,
    reference_power_iteration,
    reference_radius,
    sharpening,
)

SAME = {"image_size": (SIZE, SIZE), "strides": 1, "padding": "SAME"}


@pytest.fixture(scope="module", params=[opponent, sharpening])
def demonstration(request):
    return request.param()


def test_an_all_ones_start_never_sees_a_colour_opponent_filter():
    # hukkai/liresnet starts its power iteration there, and takes 500 steps to validate.
    kernel = opponent_kernel()
    estimate = reference_power_iteration(kernel, steps=500)
    assert estimate == pytest.approx(0.4912, abs=1e-3)
    assert np.sqrt(2) * (1 - 1e-9) <= float(gj.conv_norm(kernel, **SAME)) <= np.sqrt(2) * 1.001


def test_the_certificate_they_grant_is_false_and_ours_refuses(demonstration, tmp_path):
    frozen, image, epsilon = demonstration.frozen, demonstration.image, demonstration.epsilon
    granted, _ = reference_radius(demonstration, steps=500)
    assert epsilon < granted

    found = counterexample(demonstration)
    assert found.squared_distance <= Fraction(epsilon) ** 2
    assert found.prediction != int(frozen(image).prediction[0])

    certificate = gj.certify(frozen, image, epsilon=epsilon)
    assert not certificate.is_certified[0]
    ours = float(certificate.radius[0])
    assert found.squared_distance > Fraction(ours) ** 2
    written = certificates.write(
        frozen, image, np.zeros(1, int), epsilon=epsilon, out=tmp_path / "c"
    )
    assert not written.is_certified[0]
    assert abs(written.radii[0] - ours) < 1e-4 * ours
    certificates.check(written.path)


def test_their_certificate_as_a_file_is_refused(demonstration, tmp_path):
    # The same file with their estimates as norms and the radius that follows from them.
    options = {"epsilon": demonstration.epsilon, "out": tmp_path / "c"}
    written = certificates.write(
        demonstration.frozen, demonstration.image, np.zeros(1, int), **options
    )
    radius, estimate = reference_radius(demonstration, steps=500)
    header, arrays = forge.read(written.path)
    layers_count = len(demonstration.kernels)
    for claim in header["norms"].values():
        claim["upper"] = estimate ** (1 / layers_count)
    header["lipschitz"] = estimate * (1 + 1e-9)
    arrays["needed"] *= estimate / written.lipschitz
    arrays["radius"][:], arrays["is_certified"][:] = radius, 1
    path = forge.seal(tmp_path / "theirs", header, arrays)
    with pytest.raises(certificates.Refused, match=r"norm claimed of .* is not proved"):
        certificates.check(path)


def test_five_hundred_steps_do_not_see_a_small_spectral_gap():
    # Ten LiResNet-like blocks I + 0.01 high-pass: the product is 2.4 % too low.
    kernel = sharpening().kernels[0]
    assert reference_power_iteration(kernel, steps=500) ** 10 < 1.09
    assert 1.1036 < float(gj.conv_norm(kernel, **SAME)) ** 10 < 1.1038


def test_a_kernel_of_1e_16_has_norm_zero_there_and_not_here():
    # Demonstration C: a norm of 0 certifies every point at every radius.
    kernel = opponent_kernel()
    tiny = (1e-16 * kernel).astype(np.float32)
    assert reference_power_iteration(tiny, steps=500) == 0.0
    plain, small = (float(gj.conv_norm(k, **SAME)) for k in (kernel, tiny))
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
