"""Randomised smoothing: exact intervals, and the coverage that is promised."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.verifiers import Smoothing, Status
from gloro_jax.verifiers.smoothing import lower_share, upper_share
from tests import draws


@pytest.mark.parametrize(("count", "n"), [(1, 10), (9, 10), (70, 100), (999, 1000), (5, 5), (0, 7)])
def test_bounds_of_a_share_are_clopper_and_pearsons(count, n):
    """The share at which a count so high, or so low, has probability alpha: by its definition."""
    alpha = 0.01
    low, high = lower_share(count, n, alpha=alpha), upper_share(count, n, alpha=alpha)
    if count:
        assert scipy.stats.binom.sf(count - 1, n, low) == pytest.approx(alpha, rel=1e-6)
    if count < n:
        assert scipy.stats.binom.cdf(count, n, high) == pytest.approx(alpha, rel=1e-6)
    assert low <= count / n <= high


def test_of_two_classes_a_linear_classifier_is_smoothed_to_itself():
    """Its smoothed radius is the distance, and with many copies the certified one comes near it."""
    frozen, x, label, exact = two_classes()
    sigma = exact  # the share is then Phi(1)
    found = Smoothing(sigma=sigma, n=20_000, alpha=0.001).certify(frozen, x)
    assert found.predictions[0] == label
    assert 0.9 * exact < found.radii[0] <= exact * 1.02


@pytest.mark.parametrize("runs", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_statements_are_false_no_more_often_than_alpha(runs):
    frozen, x, label, exact = two_classes()
    method = Smoothing(sigma=exact, n0=10, n=60, alpha=0.1, at_once=60)
    found = method.certify(frozen, np.repeat(x, runs, axis=0))
    false = int(((found.radii > exact) | (found.predictions == 1 - label)).sum())
    # More than alpha would be this rare.
    assert scipy.stats.binom.sf(false - 1, runs, method.alpha) > 1e-3, false
    assert (found.radii > 0).mean() > 0


def two_classes():
    net = gj.GloroNet(nn.Sequential([layers.Flatten(name="flatten")]), 2)
    variables = draws.init(net, 1, jnp.zeros((1, 4)), norms=gj.PowerIteration(steps=1))
    frozen = gj.freeze(net, variables, input_shape=(4,))
    x = np.full((1, 4), 0.7, np.float32)
    head = frozen.head().head
    kernel, bias = np.asarray(head.kernel, float), np.asarray(head.bias, float)
    lead = x[0] @ (kernel[:, 0] - kernel[:, 1]) + bias[0] - bias[1]
    exact = abs(lead) / np.linalg.norm(kernel[:, 0] - kernel[:, 1])
    return frozen, x, int(lead < 0), float(exact)


def test_noise_comes_from_the_key_alone_and_a_coin_abstains():
    frozen, x, label, exact = two_classes()
    a, b = (Smoothing(sigma=exact, n=500, at_once=k).certify(frozen, x) for k in (500, 500))
    np.testing.assert_array_equal(a.radii, b.radii)
    coin = Smoothing(sigma=1e4 * exact, n=500)
    assert coin.certify(frozen, x).predictions[0] == -1
    assert coin.predict(frozen, x)[0] == -1
    assert Smoothing(sigma=exact / 3, n=500).predict(frozen, x)[0] == label
    held = Smoothing(sigma=exact, n=2000).verify(
        frozen, x, np.array([label]), norm="l2", radius=exact / 4
    )
    assert held.status[0] == Status.VERIFIED
    assert held.semantics[0] == "numerical"
    with pytest.raises(ValueError, match="norms l2"):
        coin.verify(frozen, x, np.array([label]), norm="linf", radius=0.1)


def test_where_no_copy_counts_it_abstains():
    frozen, x, _, _ = two_classes()
    level_head = {"head_kernel": np.ones((4, 2), np.float32), "head_bias": np.zeros(2, np.float32)}
    level = gj.freeze(frozen.net, {"params": level_head}, input_shape=(4,))
    method = Smoothing(sigma=0.1, n0=10, n=10)
    assert method.predict(level, x)[0] == -1
    assert method.certify(level, x)[0][0] == -1


@pytest.mark.parametrize("alpha", [1e-100, 1e-20, 0.5, 1 - 1e-12])
@pytest.mark.parametrize(("count", "n"), [(0, 10), (9, 10), (10, 10), (999, 1000), (1, 10**6)])
def test_bounds_of_a_share_hold_for_every_alpha_that_is_taken(alpha, count, n):
    share = lower_share(count, n, alpha=alpha)
    assert 0 <= share <= 1
    # So many successes are no likelier than alpha at that share.
    assert count == 0 or scipy.stats.binom.sf(count - 1, n, share) <= alpha * (1 + 1e-6)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(("field", "value", "message"), [
    ("alpha", 1e-300, "at least 1e-100"), ("alpha", float("nan"), "between 0 and 1"),
    ("sigma", 1e39, "float32"), ("sigma", 1e-45, "float32"), ("sigma", float("nan"), "positive"),
])  # fmt: skip
def test_numbers_beyond_what_is_computed_with_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Smoothing(**{"sigma": 0.5, field: value})


@pytest.mark.usefixtures("untyped")
def test_what_certify_takes_is_looked_at_as_by_verify(small_frozen, small_net):
    x, method = np.asarray(small_net[2][:1]), Smoothing(sigma=0.25, n=100)
    for call, error, message in (
        (lambda: method.certify("net", x), TypeError, "Smoothing takes a FrozenNet"),
        (lambda: method.certify(small_frozen, x, key=3), TypeError, "key is a jax.random.key"),
        (lambda: method.predict(small_frozen, x, key="a"), TypeError, "key is a jax.random.key"),
        (lambda: method.certify(small_frozen, 255 * x), ValueError, "255"),
        (
            lambda: method.verify(small_frozen, x, [0], norm="l2", radius="abc"),
            ValueError,
            "radius is a number such as 0.3",
        ),
    ):
        with pytest.raises(error, match=message):
            call()
