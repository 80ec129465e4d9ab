"""Orthonormalisation: singular values, degenerate matrices, and gradients against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gloro_jax.orthogonal import cholesky, newton_schulz, orthogonalized

METHODS = ["cholesky", "cayley", "newton_schulz"]
SHAPES = [(1, 1), (5, 5), (6, 9), (3, 17), (9, 6)]


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def with_autodiff(matrix):
    """The definition, with the ridge constant in the gradient and nothing else said."""
    gram = matrix @ matrix.T
    ridge = jax.lax.stop_gradient(1e-3 * jnp.mean(jnp.diagonal(gram)))
    lower = jnp.linalg.cholesky(gram + ridge * jnp.eye(len(gram)))
    return jax.scipy.linalg.solve_triangular(lower, matrix, lower=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_cholesky_is_that_of_autodiff(shape):
    with jax.enable_x64(True):
        x, cotangent = jnp.asarray(drawn(shape)), jnp.asarray(drawn(shape, seed=1))
        ours, ours_back = jax.vjp(cholesky, x)
        plain, plain_back = jax.vjp(with_autodiff, x)
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            ours_back(cotangent)[0], plain_back(cotangent)[0], rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("method", ["cayley", "newton_schulz"])
def test_the_other_gradients_are_those_of_finite_differences(method):
    with jax.enable_x64(True):
        x, direction, weight = (jnp.asarray(drawn((4, 7), seed)) for seed in range(3))

        def f(x):
            # Newton-Schulz holds its scale constant, which matters to an unconverged result only.
            return jnp.vdot(weight, orthogonalized(x, method=method))

        step = 1e-5
        slope = (f(x + step * direction) - f(x - step * direction)) / (2 * step)
        assert float(jnp.vdot(jax.grad(f)(x), direction)) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_or_columns_come_out_orthonormal(method, shape):
    with jax.enable_x64(True):
        found = orthogonalized(jnp.asarray(drawn(shape)), method=method)
        values = singular_values(found)
        assert found.shape == shape
        assert values.max() <= 1 + 1e-12
        if method == "cayley":
            np.testing.assert_allclose(values, 1, atol=1e-12)


def test_the_singular_values_of_cholesky_are_s_over_the_root_of_s_squared_plus_the_ridge():
    with jax.enable_x64(True):
        x = drawn((5, 8))
        s = singular_values(x)
        ridge = 1e-3 * np.mean(np.sum(np.square(x), axis=1))
        expected = s / np.sqrt(s**2 + ridge)
        np.testing.assert_allclose(singular_values(cholesky(jnp.asarray(x))), expected, rtol=1e-10)


def test_newton_schulz_is_the_polar_factor():
    with jax.enable_x64(True):
        x = drawn((5, 8))
        u, _, vh = np.linalg.svd(x, full_matrices=False)
        np.testing.assert_allclose(newton_schulz(jnp.asarray(x), steps=30), u @ vh, atol=1e-10)


def test_an_orthogonal_matrix_stays_itself_under_newton_schulz():
    with jax.enable_x64(True):
        q, _ = np.linalg.qr(drawn((6, 6)))
        np.testing.assert_allclose(newton_schulz(jnp.asarray(q), steps=12), q, atol=1e-10)


def degenerate():
    x = drawn((6, 9)).astype(np.float32)
    twice, dependent, zero_row, spread = (x.copy() for _ in range(4))
    twice[1] = twice[0]
    dependent[2] = dependent[0] - 3 * dependent[1]
    zero_row[3] = 0
    spread *= np.logspace(-12, 12, 6, dtype=np.float32)[:, None]
    return {
        "zero": 0 * x, "twice": twice, "dependent": dependent, "zero row": zero_row,
        "1e-30": np.float32(1e-30) * x, "1e30": np.float32(1e30) * x, "spread": spread,
        "constant": np.ones_like(x), "minus identity": -np.eye(6, dtype=np.float32),
    }  # fmt: skip


# Cayley solves a system as badly scaled as its argument.
CASES = [
    (method, name)
    for method in METHODS
    for name in degenerate()
    if (method, name) not in [("cayley", "1e30"), ("cayley", "spread")]
]


@pytest.mark.parametrize(("method", "name"), CASES)
def test_degenerate_matrices_survive_in_float32(method, name):
    x = jnp.asarray(degenerate()[name])
    found, back = jax.vjp(lambda x: orthogonalized(x, method=method), x)
    (gradient,) = back(jnp.ones_like(found))
    assert np.isfinite(found).all()
    assert np.isfinite(gradient).all()
    # Training counts this as 1; a certificate measures what came out.
    assert singular_values(found).max() <= 1 + 1e-5


def test_cholesky_does_not_depend_on_the_scale_of_its_argument():
    x = jnp.asarray(drawn((4, 6)), jnp.float32)
    for scale in (2.0**-90, 2.0**60):
        np.testing.assert_allclose(cholesky(scale * x), cholesky(x), rtol=1e-6)
