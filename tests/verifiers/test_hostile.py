"""Networks, numbers and settings that were tried to win a false verdict; each did, once."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.network import network_of
from gloro_jax.platforms import in_64_bits
from gloro_jax.verifiers import (
    BallBox,
    BranchAndBound,
    Crown,
    Dual,
    FastLin,
    IntervalBounds,
    Lipschitz,
    MixedInteger,
    Projections,
    Smoothing,
    Status,
)  # fmt: skip
from gloro_jax.verifiers.bounds.regions import lengths, minimum, region
from tests import draws

ROUNDED = [Lipschitz(), IntervalBounds(), BallBox(), FastLin(), Crown(), Dual()]


def frozen_of(hidden, head, *, relu=True):
    """A network of dense layers, [(kernel, bias), ...], and the head; a ReLU after each."""
    body, params = [], {}
    for kernel, bias, is_kinked in hidden:
        params[f"layers_{len(body)}"] = {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }
        body.append(layers.Dense(np.shape(kernel)[1]))
        if is_kinked and relu:
            body.append(layers.ReLU())
    inputs = np.shape(hidden[0][0])[0]
    net = gj.GloroNet(nn.Sequential(body), np.shape(head[0])[1])
    example = jnp.zeros((1, inputs))
    made = draws.init(net, 0, example, norms=gj.PowerIteration(steps=1))["params"]
    weights = {
        "head_kernel": jnp.asarray(head[0], jnp.float32),
        "head_bias": jnp.asarray(head[1], jnp.float32),
        "body": params,
    }
    assert jax.tree.structure(weights) == jax.tree.structure(made)
    return gj.freeze(net, {"params": weights}, input_shape=(inputs,))


@pytest.mark.parametrize("precision", ["BF16_BF16_F32"])
def test_the_users_precision_does_not_reach_the_proof(precision):
    rng = np.random.default_rng(0)
    frozen = frozen_of(
        [
            (rng.normal(size=(6, 8)), rng.normal(size=8), True),
            (rng.normal(size=(8, 8)), rng.normal(size=8), True),
        ],
        (rng.normal(size=(8, 3)), np.zeros(3)),
    )
    x = rng.uniform(size=(1, 6)).astype(np.float32)
    methods = (Lipschitz(), FastLin(), BallBox())
    before = [method.certified_radius(frozen, x, norm="l2") for method in methods]
    with jax.default_matmul_precision(precision):
        after = [method.certified_radius(frozen, x, norm="l2") for method in methods]
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_rows_that_underflow_while_activations_are_large():
    up, down = 2.0**126, 2.0**-125
    hidden = [([[up]], [0], number == 7) for number in range(8)]
    hidden += [([[down]], [0], False) for _ in range(8)]
    frozen = frozen_of(hidden, ([[0, down]], [2.0**-118, 0]))
    x = np.array([[1.0]], np.float32)  # exactly, class 1 is ahead
    for method in (Lipschitz(), IntervalBounds(), Crown()):
        wrong = method.verify(frozen, x, np.array([0]), norm="linf", radius=0.25)
        assert wrong.status[0] != Status.VERIFIED, method.name
        right = method.verify(frozen, x, np.array([1]), norm="linf", radius=0.25)
        assert right.status[0] != Status.FALSIFIED, method.name


def test_rows_whose_squares_underflow():
    w = 2.0**-110
    hidden = [([[w], [w]], [0], False), *[([[w]], [0], False)] * 3]
    frozen = frozen_of(hidden, ([[w, 0]], [0, 0]))  # the lead is w^5 (x1 + x2)
    x = np.array([[0.5, 0.5]], np.float32)
    for method in ROUNDED:
        held = method.verify(frozen, x, np.array([0]), norm="l2", radius=1.25)
        assert held.status[0] != Status.VERIFIED, method.name


def test_very_large_radii_are_neither_infinite_nor_zero():
    frozen = frozen_of([([[1e-20]], [0], True)], ([[0, 1.0]], [1, 0]))
    x = np.zeros((1, 1), np.float32)
    exact = 1 / float(np.float32(1e-20))
    for method in (IntervalBounds(), Crown(), Projections(), BranchAndBound(), MixedInteger()):
        radius = method.certified_radius(frozen, x, norm="linf")[0]
        assert radius <= exact * (1 + 1e-6), method.name
        assert radius >= exact * (1 - 1e-4), method.name


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-8])
def test_a_solver_sees_leads_of_any_size(scale):
    rng = np.random.default_rng(0)
    kernel, bias, head = rng.normal(size=(3, 6)), rng.normal(size=6), rng.normal(size=(6, 2))
    x = rng.uniform(size=(1, 3)).astype(np.float32)
    frozen = frozen_of([(kernel, bias, True)], (scale * head, [0, 0]))
    exact = Projections().certified_radius(frozen, x, norm="linf")[0]
    found = MixedInteger().certified_radius(frozen, x, norm="linf")[0]
    assert found == pytest.approx(exact, rel=1e-5)
    label = np.asarray(frozen(x).prediction)
    for method in (MixedInteger(), BranchAndBound(), Projections()):
        held = method.verify(frozen, x, label, norm="linf", radius=exact * 1.01)
        assert held.status[0] == Status.FALSIFIED, (method.name, scale)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_boundaries_far_away_are_found(norm):
    frozen = frozen_of([([[1e-7]], [0], True)], ([[0, 1e-7]], [1e-8, 0]))
    x = np.array([[1e3]], np.float32)
    held = Projections().verify(frozen, x, np.array([0]), norm=norm, radius=2e6)
    assert held.status[0] == Status.FALSIFIED
    assert Projections().certified_radius(frozen, x, norm=norm)[0] == pytest.approx(1e6, rel=1e-2)


def test_a_box_is_compared_in_its_own_precision_and_taken_in_any_form(untyped):
    frozen = frozen_of([(np.eye(2), [0, 0], True)], (np.eye(2), [0, 0]))
    x, label = np.array([[0.7, 0.8]], np.float32), np.array([1])  # float32's 0.7 is below 0.7
    with pytest.raises(ValueError, match="does not contain x"):
        Crown().verify(frozen, x, label, radius=0.01, box=(0.7, 1.0))
    for method in (Crown(), BranchAndBound(), MixedInteger(), Projections()):
        for box in ((0, 1), (0.0, float("inf"))):
            held = method.verify(frozen, x, label, radius=0.01, box=box)
            assert held.status[0] == Status.VERIFIED, (method.name, box)
    with pytest.raises(ValueError, match="does not contain x"):
        Smoothing(sigma=0.1, n=10).verify(frozen, x, label, norm="l2", radius=0.01, box=(0.9, 1.0))


def test_no_image_and_a_layer_that_does_nothing(untyped):
    body = nn.Sequential([layers.Flatten(name="flatten"), layers.BetaAbs(0.0, name="beta")])
    net = gj.GloroNet(body, 2)
    made = net.init(jax.random.key(0), jnp.zeros((1, 3)), norms=gj.PowerIteration(steps=1))
    frozen = gj.freeze(net, made, input_shape=(3,))
    x = np.full((1, 3), 0.5, np.float32)
    radii = [m.certified_radius(frozen, x, norm="l2")[0] for m in (Crown(), IntervalBounds())]
    assert radii[0] == pytest.approx(radii[1], rel=1e-5)
    with pytest.raises(ValueError, match="x holds no image"):
        Crown().verify(frozen, x[:0], np.zeros(0, int), radius=0.1)
    held = Crown().verify(frozen, x, np.asarray(frozen(x).prediction), radius=1e-4, box=[0.0, 1.0])
    assert held.is_verified[0]


def test_a_ball_too_large_for_float64_is_not_verified(small_frozen, small_net):
    x = np.asarray(small_net[2][:1])
    label = np.asarray(small_frozen(x).prediction)
    method = BranchAndBound(time_limit=5.0, restarts=0)
    found = method.verify(small_frozen, x, label, norm="linf", radius=1e308)
    assert found.status[0] != Status.VERIFIED


def test_the_gradient_of_a_length_is_finite_at_zero():
    rows = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
    slope = jax.grad(lambda rows: lengths(rows).sum())(rows)
    np.testing.assert_allclose(slope, [[0, 0], [0.6, 0.8]], rtol=1e-6)


def level_everywhere(seed):
    """Class 1 reads the units of class 0 in another order and leads by 1e-30, unseen by float64."""
    rng = np.random.default_rng(seed)
    order, kernel, head = rng.permutation(3), np.zeros((2, 6)), np.zeros((6, 3))
    bias = rng.uniform(0.5, 1, 3) * [1, 2**7, 2**-9]
    weights = rng.uniform(0.5, 1, 3) * [2**5, 1, 2**3]
    kernel[:, 0] = kernel[:, 3 + int(np.flatnonzero(order == 0)[0])] = rng.uniform(0.1, 0.5, 2)
    head[:3, 0], head[3:, 1] = weights, weights[order]
    bias = np.concatenate([bias, bias[order]])
    return (kernel, bias), (head, [0, 1e-30, -1e4])


COMPLETE = [Projections(), BranchAndBound(restarts=0, steps=1), MixedInteger()]


@pytest.fixture(scope="module")
def level():
    """Some of these networks, and one of them frozen."""
    (kernel, bias), head = level_everywhere(0)
    frozen = frozen_of([(kernel, bias, True)], head)
    network = network_of(frozen)
    names = [dict(step.options) for step in network.steps if step.op == "dense"]

    def redrawn(seed):
        arrays = {}
        for name, (weights, offset) in zip(names, level_everywhere(seed), strict=True):
            arrays |= {name["kernel"]: np.float32(weights), name["bias"]: np.float32(offset)}
        return dataclasses.replace(network, arrays=arrays)

    def seen(seed):
        """What float64 makes of the lead, where it adds up each class by itself."""
        (_, bias), (weights, offset) = (
            (np.float64(np.float32(p)) for p in pair) for pair in level_everywhere(seed)
        )
        scores = offset + bias @ weights
        return scores[0] - scores[1]

    some = [seed for seed in range(200) if seen(seed) > 0][:8]
    assert len(some) == 8
    return [redrawn(seed) for seed in some], frozen


@pytest.mark.parametrize("method", COMPLETE, ids=lambda m: m.name)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_lead_made_by_rounding_is_none(method, norm, level, monkeypatch):
    networks, frozen = level
    x, labels = np.array([[0.5, 0.25]], np.float32), np.array([0])
    if norm in method.norms:
        assert method.verify(frozen, x, labels, norm=norm, radius=0.1).status[0] != Status.VERIFIED
        # Nor where a tie is further off, and the image itself does not say so.
        said = "gloro_jax.verifiers.complete.method.judged"
        monkeypatch.setattr(said, lambda _, x, __: (np.zeros(len(x), bool), np.ones(len(x), bool)))
        for network in networks:
            held = method._verdicts(network, x, labels, norm=norm, radius=0.1, box=None)
            assert held.status[0] != Status.VERIFIED


@pytest.mark.parametrize("method", COMPLETE, ids=lambda m: m.name)
def test_an_image_whose_class_is_not_proved_is_not_verified(method, monkeypatch):
    frozen = frozen_of([(np.eye(2), [0, 0], True)], (np.eye(2), [0, 0]))
    x, label = np.array([[0.2, 0.8]], np.float32), np.array([1])
    assert method.verify(frozen, x, label, norm="linf", radius=0.1).status[0] == Status.VERIFIED
    said = "gloro_jax.verifiers.complete.method.judged"
    monkeypatch.setattr(said, lambda _, x, __: (np.zeros(len(x), bool), np.zeros(len(x), bool)))
    assert method.verify(frozen, x, label, norm="linf", radius=0.1).status[0] == Status.UNKNOWN


ONE_CLASS = ([[0.01], [0.01]], [0], True), ([[0.01, 0.02, 0.03]], [5, 0, 0])


@pytest.mark.parametrize(
    "method",
    [BranchAndBound(), Projections(), MixedInteger(), IntervalBounds()],
    ids=lambda m: m.name,
)
def test_a_box_of_one_class_has_no_radius(method):
    hidden, head = ONE_CLASS
    x, frozen = np.array([[0.5, 0.25]], np.float32), frozen_of([hidden], head)
    assert method.certified_radius(frozen, x, norm="linf", box=(0, 1))[0] == np.inf


@pytest.mark.parametrize(
    "method",
    [
        *(BranchAndBound(), IntervalBounds(), Crown()),
        *(pytest.param(m, marks=pytest.mark.slow) for m in (FastLin(), Dual(), BallBox())),
    ],
    ids=lambda m: m.name,
)
def test_an_affine_network_has_no_radius_in_a_box_of_one_class(method):
    hidden, head = ONE_CLASS
    x, frozen = np.array([[0.5, 0.25]], np.float32), frozen_of([hidden], head, relu=False)
    assert method.certified_radius(frozen, x, norm="l2", box=(0, 1))[0] == np.inf
    assert 100 < method.certified_radius(frozen, x, norm="l2", box=(0, np.inf))[0] < 1e5


@pytest.mark.parametrize("radius", [1e-160, 1e-100, 1e-20, 0.5, 1e20])
def test_the_least_value_over_a_ball_that_is_cut(radius):
    """At a corner of the box only moves inwards count, up to the furthest corner."""
    rows = np.random.default_rng(0).normal(size=(8, 6))
    rows[0] = [1, -1e-7, 1, 1, 1, 1]
    rows[1] = 1.0
    with in_64_bits():
        area = region(jnp.zeros((1, 6)), jnp.array([radius]), norm="l2", box=(0.0, 1.0))
        found = minimum(area, jnp.asarray(rows[None]), is_tight=True)
        value, size = (np.asarray(part)[0] for part in found)
    inwards = np.minimum(rows, 0)
    least = -radius * np.linalg.norm(inwards, axis=1) if radius < 1 else inwards.sum(axis=1)
    assert (value <= least + 1e-13 * size).all()
    assert (value >= 1.0001 * least - 1e-12 * size).all()


def test_a_ball_beyond_the_box_is_the_box():
    rows = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0]])
    with in_64_bits():
        area = region(jnp.ones((1, 3)), jnp.array([1e20]), norm="l2", box=(0.0, 1.0))
        value, _ = minimum(area, jnp.asarray(rows[None]))
    np.testing.assert_allclose(np.asarray(value)[0], [0, -1], atol=1e-12)
    np.testing.assert_allclose(area.radius, [3**0.5], rtol=1e-12)


def test_noise_that_float32_rounds_away_is_refused():
    frozen = frozen_of([([[1.0]], [0], True)], ([[0, 1.0]], [0.5, 0]))
    for sigma, value in ((1e-9, 0.5), (0.01, 1e6)):
        x = np.array([[value]], np.float32)
        with pytest.raises(ValueError, match="float32 rounds the noise away"):
            Smoothing(sigma=sigma, n=100).certify(frozen, x)


@pytest.mark.parametrize("box", ["01", b"01", {0: 1, 1: 2}, {0.0, 1.0}, (0, 10**400), (False, 1)])
def test_a_box_is_two_numbers(box, level):
    x = np.array([[0.5, 0.25]], np.float32)
    with pytest.raises(ValueError, match="box is None or two numbers"):
        Crown().certified_radius(level[1], x, box=box)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("method", COMPLETE[:2], ids=lambda m: m.name)
def test_very_large_balls_warn_of_nothing(method):
    frozen = frozen_of([(np.eye(2), [0, 0], True)], (np.eye(2), [0, 0]))
    x, label = np.array([[0.2, 0.8]], np.float32), np.array([1])
    for radius in (1e39, 1e300):
        for norm, box in (("l2", (0.0, 1.0)), ("linf", None), ("l2", None)):
            held = method.verify(frozen, x, label, norm=norm, radius=radius, box=box)
            assert held.status[0] != Status.VERIFIED
