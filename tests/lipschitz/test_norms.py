"""Norms: every estimate lies below the true norm and converges to it; zero is a point like any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gloro_jax.lipschitz.norms import exact_norm, power_iteration, random_direction, two_norm
from gloro_jax.lipschitz.operators import Convolution, Matrix, Scaling
from tests.draws import normal


def _conv(size, kernel, strides=1, pads=((1, 1), (1, 1)), groups=1):
    weights = normal(7, kernel)
    return Convolution(weights, size, (strides, strides), pads, groups)


LINEAR_MAPS = {
    "dense": Matrix(normal(1, (8, 5))),
    "conv": _conv((7, 6), (3, 3, 4, 6)),
    "conv strided": _conv((7, 6), (3, 3, 4, 6), strides=2),
    "conv even kernel": _conv((6, 6), (4, 4, 2, 3), strides=2),
    "conv without padding": _conv((7, 6), (3, 3, 4, 6), pads=((0, 0), (0, 0))),
    "conv grouped": _conv((5, 5), (3, 3, 2, 6), groups=2),
    "scaling": Scaling(jnp.float32(-2.0), (4,)),
    "zero": Matrix(jnp.zeros((4, 3))),
}


@pytest.fixture(params=LINEAR_MAPS)
def operator(request):
    return LINEAR_MAPS[request.param]


def test_power_iteration_approaches_the_norm_from_below(operator):
    start = random_direction(jax.random.key(0), operator.input_shape)
    exact = exact_norm(lambda v: operator(v[None])[0], operator.input_shape)

    few = float(operator.estimate(start, steps=3))
    many = float(operator.estimate(start, steps=2000))

    assert few <= many * (1 + 1e-6)
    assert many <= exact * (1 + 1e-5)
    np.testing.assert_allclose(many, exact, rtol=1e-3)


def test_the_adjoint_of_every_operator_is_exact(operator):
    v = normal(0, operator.input_shape)
    image = operator(v[None])[0]
    w = normal(1, image.shape)
    (back,) = jax.linear_transpose(lambda v: operator(v[None])[0], v)(w)
    np.testing.assert_allclose(jnp.vdot(image, w), jnp.vdot(v, back), rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_largest_singular_value():
    matrix = normal(3, (6, 4))
    start = normal(4, (4,))
    estimate = jax.grad(lambda w: power_iteration(lambda v: w @ v, start, steps=500).value)
    expected = jax.grad(lambda w: jnp.linalg.norm(w, ord=2))
    np.testing.assert_allclose(estimate(matrix), expected(matrix), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-16, 1e-5, 1.0, 1e15])
def test_the_estimate_scales_with_the_weights(scale):
    # An epsilon inside a norm, or an underflow of squares, breaks this: published as a 1e-16
    # kernel of norm 0, and so an infinite radius.
    matrix = normal(3, (6, 4))
    start = normal(4, (4,))
    plain = float(power_iteration(lambda v: matrix @ v, start, steps=20))
    scaled = float(power_iteration(lambda v: (scale * matrix) @ v, start, steps=20))
    assert scaled == pytest.approx(scale * plain, rel=1e-5)


def test_a_zero_map_keeps_the_vector_so_that_it_can_recover():
    start = random_direction(jax.random.key(0), (5,))
    estimate = power_iteration(lambda v: jnp.zeros((3, 5)) @ v, start, steps=2)
    assert float(estimate) == 0.0
    np.testing.assert_allclose(estimate.vector, start, rtol=1e-6)


def test_value_and_gradient_at_the_zero_matrix_are_zero():
    start = random_direction(jax.random.key(0), (5,))
    value, gradient = jax.value_and_grad(
        lambda w: power_iteration(lambda v: w @ v, start, steps=2).value
    )(jnp.zeros((3, 5)))
    assert value == 0.0
    assert not gradient.any()


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1.0, 1e30, 1e38, 3e38])
def test_two_norm_is_exact_at_any_scale(scale):
    one, two = jnp.asarray([scale, 0, 0]), jnp.asarray([0.6 * scale, 0, -0.8 * scale])
    for norm in (two_norm, jax.jit(two_norm)):
        np.testing.assert_allclose([norm(one), norm(two)], scale, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(two_norm)(two), [0.6, 0, -0.8], rtol=1e-5)


def test_two_norm_at_zero_has_gradient_zero():
    value, gradient = jax.value_and_grad(two_norm)(jnp.zeros(3))
    assert value == 0
    assert not gradient.any()


def test_few_steps_compile_to_straight_line_code():
    # A loop would run convolution transposes 75 times slower on CPU.
    def norm(v):
        return power_iteration(lambda v: jnp.ones((3, 4)) @ v, v, steps=10).value

    assert "while" not in jax.jit(norm).lower(jnp.ones(4)).as_text()


def test_a_step_count_below_one_is_refused():
    with pytest.raises(ValueError, match=r"steps >= 1, got steps=0"):
        power_iteration(lambda x: x, jnp.ones(3), steps=0)
