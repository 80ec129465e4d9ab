"""ACE: certified only where every network that the ball can reach is, with one answer."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.ensembles import Compositional, EntropyGate, Voting, gate_labels
from gloro_jax.ensembles.entropy import entropy_bounds
from gloro_jax.verifiers import IntervalBounds, Lipschitz, Status
from tests import draws
from tests.ensembles.members import CLASSES, SHAPE, member

LINE = (1, 1, 1)


def on_a_line(weights, biases):
    """Scores w x + b of one number x, with guaranteed bounds."""
    net = gj.GloroNet(nn.Sequential([layers.Flatten(name="f")]), num_classes=len(weights))
    head = {
        "head_kernel": np.array([weights], np.float32),
        "head_bias": np.array(biases, np.float32),
    }
    return gj.freeze(net, {"params": head}, input_shape=LINE)


def at(*numbers):
    return jnp.asarray(numbers, jnp.float32).reshape(-1, *LINE)


@pytest.fixture(scope="module")
def line():
    """The gate opens at x > 0; the certified network says 0 everywhere, the core 1 below 0.5."""
    gate = on_a_line([-1.0, 1.0], [0.0, 0.0])
    certified = on_a_line([0.0, 0.0], [1.0, 0.0])
    core = on_a_line([1.0, -1.0], [-0.5, 0.5])
    return Compositional(core, certified, gate)


def test_a_gate_that_a_ball_straddles_certifies_nothing_where_the_core_disagrees(line):
    x = at(1.0, 0.2, -0.2, -1.0, 0.3)
    found = line.certify(x, epsilon=0.25)
    np.testing.assert_array_equal(found.prediction, [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(found.is_gated, [1, 1, 0, 0, 1])
    # At 0.2 and -0.2 the ball crosses the gate, and beyond it another network answers 1 or 0.
    np.testing.assert_array_equal(found.is_certified, [1, 0, 0, 1, 1])
    np.testing.assert_allclose(found.radius, [1.0, 0.2, 0.2, 1.0, 0.3], rtol=1e-5)


def test_a_straddling_gate_is_no_harm_where_both_networks_agree(line):
    agreeing = Compositional(line.certified, line.certified, line.gate)
    found = agreeing.certify(at(0.1, -0.1), epsilon=5.0)
    assert found.is_certified.all()
    core = Compositional(lambda x: line.certified(x).values, line.certified, line.gate)
    found = core.certify(at(0.1, -0.1, 1.0), epsilon=0.5)  # a core without a certificate
    np.testing.assert_array_equal(found.is_certified, [False, False, True])


def test_it_is_the_answer_of_the_composition_on_the_whole_ball(line):
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 400)
    for epsilon in (0.1, 0.4, 1.0):
        found = line.certify(at(*x), epsilon=epsilon)
        near = np.linspace(-epsilon, epsilon, 41)
        answers = np.stack([line.certify(at(*(x + d)), epsilon=1.0).prediction for d in near])
        is_constant = (answers == answers[20]).all(axis=0)
        assert (found.is_certified <= is_constant).all()
        assert found.is_certified.mean() > 0.1


def test_the_ends_are_the_two_networks():
    core, certified, x = member(1), member(2), draws.uniform(3, (60, *SHAPE))
    for threshold, network in ((1e-9, core), (10.0, certified)):
        found = Compositional(core, certified, EntropyGate(threshold)).certify(x, epsilon=0.01)
        np.testing.assert_array_equal(found.prediction, network(x).prediction)
    alone = gj.certify(certified, x, epsilon=0.01)
    np.testing.assert_array_equal(found.is_certified, alone.is_certified)
    report = gj.evaluation.verified_robust_accuracy(
        Compositional(core, certified, EntropyGate(1.0)),
        [(np.asarray(x), np.zeros(60, int))],
        epsilon=0.01,
    )
    assert report.count == 60


def test_the_entropy_gate_holds_on_its_radius():
    certified, x = member(2), draws.uniform(3, (40, *SHAPE))
    values = np.asarray(certified(x).values, float)
    gate = EntropyGate(float(np.median(entropy_of(values))))
    radius, is_open = gate.radius(certified, x), gate.is_open(certified, x)
    assert 0.3 < is_open.mean() < 0.7
    assert (radius > 0).all()
    rng = np.random.default_rng(0)
    for _ in range(60):
        step = rng.standard_normal(x.shape)
        length = np.linalg.norm(step.reshape(40, -1), axis=1)
        moved = np.asarray(x) + step * (0.999 * radius / length)[:, None, None, None]
        entropy = entropy_of(np.asarray(certified(moved.astype(np.float32)).values, float))
        assert ((entropy <= gate.threshold) == is_open).all()


def entropy_of(values):
    p = np.exp(values - values.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return -np.sum(p * np.log(p), axis=1)


@pytest.mark.parametrize("seed", range(6))
def test_entropy_bounds_hold_for_all_scores_that_differences_allow(seed):
    rng = np.random.default_rng(seed)
    m = 2 + seed % 4
    values = rng.normal(size=(30, m)) * 10.0 ** rng.integers(-1, 2)
    reach = rng.random(m) * 10.0 ** rng.integers(-2, 1)
    lifts = reach[:, None] + reach[None]  # scores that move by at most `reach` each
    low, high = entropy_bounds(values, lifts)
    for _ in range(300):
        moved = values + reach * rng.choice([-1, 1, rng.uniform(-1, 1)], values.shape)
        entropy = entropy_of(moved)
        assert (low <= entropy).all()
        assert (entropy <= high).all()
    still = entropy_bounds(values, np.zeros((m, m)))
    np.testing.assert_allclose(still[0], entropy_of(values), atol=1e-7)
    np.testing.assert_allclose(still[1], entropy_of(values), atol=1e-7)


def test_entropy_is_largest_between_the_ends_of_an_interval():
    """Three equal scores have entropy ln 3, more than the sum of what any two ends have."""
    values, lifts = np.zeros((1, 3)), np.full((3, 3), 0.7)
    _, high = entropy_bounds(values, lifts)
    assert high[0] >= np.log(3)
    uneven = np.array([[0.0, 0.2, -0.1, 0.1]])
    _, high = entropy_bounds(uneven, np.full((4, 4), 1.5))
    assert high[0] >= entropy_of(np.zeros((1, 4)))[0]  # within reach of each score


def test_verifiers_look_at_every_network_that_the_region_reaches(line):
    x, labels = at(1.0, 0.2, -0.2, -1.0), np.array([0, 0, 1, 1])
    for verifier in (IntervalBounds(), Lipschitz()):
        found = line.verify(x, labels, verifier, norm="linf", radius=0.25)
        np.testing.assert_array_equal(found.status == Status.VERIFIED, [True, False, False, True])
        np.testing.assert_array_equal(found.semantics, ["rounded", "", "", "rounded"])
    both = Compositional(line.certified, line.certified, line.gate)
    assert both.verify(x, labels * 0, IntervalBounds(), radius=0.25).is_verified.all()
    entropic = Compositional(line.core, line.certified, EntropyGate(0.5))
    with pytest.raises(TypeError, match="has bounds on l2 balls"):
        entropic.verify(x, labels, IntervalBounds(), radius=0.25)


def test_gate_labels_mark_what_is_right_and_certified():
    certified, x = member(2), np.asarray(draws.uniform(3, (40, *SHAPE)))
    found = gj.certify(certified, x, epsilon=0.02)
    labels = np.asarray(found.prediction).copy()
    labels[::3] = (labels[::3] + 1) % CLASSES
    marks = gate_labels(certified, x, labels, epsilon=0.02)
    expected = np.asarray(found.is_certified) & (labels == np.asarray(found.prediction))
    np.testing.assert_array_equal(marks, expected)


def test_a_gate_without_a_certificate_is_refused(untyped):
    core, certified = member(1), member(2)
    with pytest.raises(TypeError, match="which has no certificate, so no point"):
        Compositional(core, certified, lambda x: x)
    with pytest.raises(TypeError, match="core is a FrozenNet or a function"):
        Compositional(3, certified, EntropyGate(1.0))
    with pytest.raises(ValueError, match="one question of two"):
        Compositional(core, certified, member(3))
    with pytest.raises(ValueError, match=r"The gate takes images \(8, 8, 1\)"):
        Compositional(core, certified, member(3, classes=2, shape=(8, 8, 1)))
    with pytest.raises(ValueError, match="has 3 classes"):
        Compositional(member(3, classes=3), certified, EntropyGate(1.0))
    for threshold in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="entropy above 0"):
            EntropyGate(threshold)
    with pytest.raises(TypeError, match="Member 0 of Voting is a Compositional"):
        Voting([Compositional(core, certified, EntropyGate(1.0))])
