"""Activations: closed forms, and the slopes that their docstrings promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gloro_jax.activations import minmax, smooth_abs, smooth_minmax
from tests.draws import normal


def test_minmax_sorts_the_pairs_it_says():
    x = jnp.asarray([1.0, 2.0, 4.0, -3.0])
    np.testing.assert_array_equal(minmax(x), [4, 2, 1, -3])
    np.testing.assert_array_equal(minmax(x, order="min_max"), [1, -3, 4, 2])
    np.testing.assert_array_equal(minmax(x, pairing="adjacent"), [2, 1, 4, -3])
    np.testing.assert_array_equal(minmax(x, pairing="adjacent", order="min_max"), [1, 2, -3, 4])


@pytest.mark.parametrize("pairing", ["halves", "adjacent"])
def test_minmax_preserves_the_norm_of_gradients(pairing):
    for x in (normal(0, (8,)), jnp.zeros(8)):  # at ties, too
        jacobian = jax.jacobian(lambda v: minmax(v, pairing=pairing))(x)
        np.testing.assert_allclose(jacobian @ jacobian.T, np.eye(8), atol=1e-6)


def test_minmax_loses_no_nan():
    for pair in ([jnp.nan, 1.0], [1.0, jnp.nan]):
        assert jnp.isnan(minmax(jnp.asarray(pair))).any()


def test_smooth_minmax_has_the_eigenvalues_of_its_proof():
    a, b, c = 0.7, -0.2, 0.3
    jacobian = jax.jacobian(lambda v: smooth_minmax(v, softness=c))(jnp.asarray([a, b]))
    r = (a - b) / np.hypot(a - b, c)
    np.testing.assert_allclose(jacobian, np.asarray(jacobian).T, atol=1e-6)
    np.testing.assert_allclose(np.linalg.eigvalsh(jacobian), [r, 1.0], rtol=1e-5)


@pytest.mark.parametrize("fn", [smooth_minmax, smooth_abs])
def test_smooth_activations_approach_their_piecewise_linear_limits(fn):
    x = normal(0, (100, 4))
    limit = minmax(x) if fn is smooth_minmax else jnp.abs(x)
    np.testing.assert_allclose(fn(x, softness=1e-4), limit, atol=2e-4)
    gradient = jax.grad(lambda v: fn(v, softness=0.1).sum())(jnp.zeros(4))
    assert jnp.isfinite(gradient).all()


def test_odd_channels_and_softness_zero_are_refused():
    with pytest.raises(ValueError, match="got 3 channels"):
        minmax(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="softness must be positive"):
        smooth_abs(jnp.ones(2), softness=0.0)
