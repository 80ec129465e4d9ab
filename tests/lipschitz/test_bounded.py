"""Bounded: bounds multiply along a chain, add across branches, and cannot be lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.lipschitz.bounded import Bounded, read_constant


def enter(kind="upper", dtype=jnp.float32):
    return Bounded.enter(jnp.ones((2, 3)), kind=kind, rule=None, is_training=False, dtype=dtype)


def test_bounds_multiply_along_a_chain_and_add_across_branches():
    x = enter()
    left = x.apply(lambda v: 3 * v, lipschitz=3.0)
    right = x.apply(lambda v: 2 * v, lipschitz=2.0).apply(jnp.abs, lipschitz=1.0)
    value, bound = Bounded.add(left, right).leave()
    assert isinstance(bound, gj.UpperBound)
    assert 5.0 <= float(bound) <= 5.0 * (1 + 1e-6)
    np.testing.assert_array_equal(value, jnp.full((2, 3), 5.0))


def test_one_estimate_makes_the_whole_product_an_estimate():
    x = enter().apply(jnp.abs, lipschitz=gj.Estimate(jnp.float32(2.0)))
    _, bound = x.apply(jnp.abs, lipschitz=gj.UpperBound(2.0)).leave()
    assert isinstance(bound, gj.Estimate)
    _, total = Bounded.add(enter(), x).leave()
    assert isinstance(total, gj.Estimate)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_products_and_sums_of_bounds_never_fall_below_the_exact_ones(dtype):
    from fractions import Fraction

    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for _ in range(20):
            x, exact = enter(dtype=dtype), Fraction(1)
            for constant in np.exp(rng.normal(size=6)):
                x = x.apply(lambda v: v, lipschitz=float(constant))
                exact *= Fraction(float(constant))
            total = Fraction(float(Bounded.add(x, x).leave()[1]))
            assert exact <= Fraction(float(x.leave()[1])) <= exact * Fraction(1 + 1e-5)
            assert 2 * exact <= total


def test_a_product_of_tiny_bounds_does_not_vanish():
    x = enter()
    for _ in range(4):
        x = x.apply(lambda v: v, lipschitz=1e-30)
    assert float(x.leave()[1]) >= np.finfo(np.float32).tiny
    assert float(x.apply(lambda v: 0 * v, lipschitz=0.0).leave()[1]) == 0


ILLEGAL = {
    "jnp function": lambda x: jnp.tanh(x),
    "numpy function": lambda x: np.sum(x),
    "addition": lambda x: x + 1,
    "reflected product": lambda x: 2.0 * x,
    "sum of two": lambda x: x + x,
    "array sum": lambda x: jnp.ones((2, 3)) + x,
    "numpy product": lambda x: np.ones((2, 3)) * x,
    "matmul": lambda x: x @ jnp.ones((3, 2)),
    "indexing": lambda x: x[0],
    "truth": lambda x: 1 if x else 0,
    "comparison": lambda x: x > 0,
    "negation": lambda x: -x,
    "iteration": lambda x: list(x),
    "length": lambda x: len(x),
    "float": lambda x: float(x),
    "asarray": lambda x: jnp.asarray(x),
    "dtype": lambda x: x.dtype,
    "relu": lambda x: jax.nn.relu(x),
}


@pytest.mark.parametrize("name", ILLEGAL)
@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_whatever_would_lose_the_bound_raises_and_teaches(name, mode):
    def run(x):
        return ILLEGAL[name](x)

    with pytest.raises(TypeError, match="Bounded"):
        (jax.jit(run) if mode == "jit" else run)(enter())


def test_raw_lax_functions_refuse_it_in_their_own_words():
    with pytest.raises((TypeError, ValueError)):
        jax.lax.exp(enter())


@pytest.mark.parametrize(
    ("constant", "error", "message"),
    [
        (jnp.float32(1.0), TypeError, "bare array"),
        (np.ones(()), TypeError, "bare array"),
        (True, TypeError, "bool"),
        ("1", TypeError, "str"),
        (-1.0, ValueError, "at least 0"),
        (float("nan"), ValueError, "at least 0"),
        (float("inf"), ValueError, "at least 0"),
    ],
)
def test_a_constant_is_a_finite_number_or_says_which_way_it_errs(constant, error, message):
    # Called without the type hook of the tests, as users call it.
    read = getattr(read_constant, "__wrapped__", read_constant)
    with pytest.raises(error, match=message):
        read(constant, "upper")


def test_the_function_must_return_an_array_with_the_same_batch():
    with pytest.raises(ValueError, match="keep the batch axis"):
        enter().apply(lambda v: v.sum(axis=0), lipschitz=1.0)
    with pytest.raises(TypeError, match="returned list"):
        enter().apply(lambda v: [v], lipschitz=1.0)


def test_branches_of_different_shape_do_not_add():
    with pytest.raises(ValueError, match="one shape"):
        Bounded.add(enter(), enter().apply(lambda v: v[:, :2], lipschitz=1.0))


def test_it_passes_through_jax_transformations():
    doubled = jax.jit(lambda x: x.apply(lambda v: 2 * v, lipschitz=2.0))(enter())
    assert float(doubled.leave()[1]) == pytest.approx(2.0, rel=1e-6)
    assert jax.tree.structure(jax.tree.map(lambda a: a, doubled)) == jax.tree.structure(doubled)
