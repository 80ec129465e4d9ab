"""Outward rounding, against exact rational arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gloro_jax.lipschitz.rounding import (
    add_up,
    divide_down,
    float32_up,
    multiply_up,
    subtract_down,
    up,
)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    a, b = np.exp(rng.normal(scale=20, size=(2, 500))).astype(np.float32)
    return a, b


def exact(fn, a, b):
    return [fn(Fraction(float(x)), Fraction(float(y))) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_every_operation_errs_on_the_safe_side(pairs, transform):
    a, b = pairs
    for operation, reference, is_up in [
        (multiply_up, lambda x, y: x * y, True),
        (add_up, lambda x, y: x + y, True),
        (subtract_down, lambda x, y: x - y, False),
        (divide_down, lambda x, y: x / y, False),
    ]:
        results = np.asarray(transform(operation)(jnp.asarray(a), jnp.asarray(b)))
        for result, truth in zip(results, exact(reference, a, b), strict=True):
            if np.isinf(result):
                assert is_up
                assert truth > Fraction(float(np.finfo(np.float32).max)) / 2
            elif is_up:
                assert Fraction(float(result)) >= truth
            else:
                assert Fraction(float(result)) <= truth


def test_a_product_is_zero_only_where_a_factor_is():
    tiny = jnp.float32(1e-30)
    assert multiply_up(tiny, tiny) >= jnp.finfo(jnp.float32).tiny
    assert multiply_up(jnp.float32(0), tiny) == 0
    assert not multiply_up(jnp.float32(0), jnp.float32(jnp.inf)) < jnp.inf
    assert jnp.isnan(multiply_up(jnp.float32(jnp.nan), tiny))


def test_float32_up_is_the_least_normal_number_above():
    rng = np.random.default_rng(0)
    for x in np.exp(rng.normal(scale=10, size=500)):
        rounded = float32_up(float(x))
        assert float(rounded) >= x > float(np.nextafter(rounded, np.float32(0)))
    assert float32_up(0.0) == 0
    assert float32_up(1e-300) == np.finfo(np.float32).tiny
    assert float32_up(1e300) == np.inf
    assert float32_up(1.0) == 1


def test_up_keeps_zero_and_infinity():
    assert up(0.0) == 0
    assert up(float("inf")) == float("inf")
    assert up(1.0) > 1
