"""Incomplete verifiers: never above the exact radius, and in the order that theory says."""

import dataclasses

import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.network import network_of
from gloro_jax.verifiers import (
    AlphaCrown,
    BallBox,
    BranchAndBound,
    Crown,
    Dual,
    FastLin,
    IntervalBounds,
    Lipschitz,
    MixedInteger,
    Projections,
    Status,
)  # fmt: skip
from tests.verifiers import plain_nets

METHODS = [
    Lipschitz(),
    IntervalBounds(),
    BallBox(),
    FastLin(),
    Crown(),
    AlphaCrown(steps=8),
    Dual(),
]
DETERMINISTIC = [*METHODS, Projections(), Projections(mode="lower_bound"), BranchAndBound()]
NETS = [("relu", (4, 4)), ("minmax", (8, 8))]
WIDER = [("relu", (7, 7)), ("minmax", (14, 14))]


def radii(method, network, x, norm, box=None):
    # As `certified_radius`, of a network whose weights were drawn instead of frozen.
    return method._radii(network, x, norm=norm, box=box)


def check_order(found):
    assert (found["Crown"] >= found["IntervalBounds"] * (1 - 2e-6)).all()
    assert (found["FastLin"] >= found["IntervalBounds"] * (1 - 2e-6)).all()
    assert (found["AlphaCrown"] >= found["Crown"] * (1 - 2e-6)).all()
    np.testing.assert_allclose(found["Dual"], found["FastLin"], rtol=1e-5)


def check_l2(activation, widths, seed):
    network, pairs = plain_nets.redrawn(plain_nets.template(activation, widths), seed)
    x = plain_nets.images(seed)
    exact = np.array([plain_nets.exact_l2_radius(pairs, activation, p.astype(float)) for p in x])
    found = {method.name: radii(method, network, x, "l2") for method in METHODS}
    for name, values in found.items():
        assert (values <= exact * (1 + 1e-9)).all(), (name, values, exact)
        assert (values > 0).all()
    check_order(found)


def check_linf(activation, widths, seed):
    network, _ = plain_nets.redrawn(plain_nets.template(activation, widths), seed)
    x = plain_nets.images(seed)
    exact = radii(MixedInteger(), network, x, "linf")
    found = {method.name: radii(method, network, x, "linf") for method in METHODS}
    for name, values in found.items():
        # HiGHS takes a binary variable of 1e-6 for 0, which moves its minima by about as much.
        assert (values <= exact * (1 + 1e-5)).all(), (name, values, exact)
    check_order(found)


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize(("activation", "widths"), NETS[:1])
def test_never_above_the_exact_l2_radius(activation, widths, seed):
    check_l2(activation, widths, seed)


@pytest.mark.parametrize("seed", range(1, 9))
def test_quick_methods_stay_below_the_exact_l2_radius_of_more_networks(seed):
    network, pairs = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), seed)
    x = plain_nets.images(seed)
    exact = [plain_nets.exact_l2_radius(pairs, "relu", point.astype(float)) for point in x]
    for method in (BallBox(), IntervalBounds(), Crown()):
        assert (radii(method, network, x, "l2") <= np.array(exact) * (1 + 1e-9)).all(), method.name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
@pytest.mark.parametrize(("activation", "widths"), NETS)
def test_never_above_the_exact_l2_radius_two_hundred(activation, widths, seed):
    check_l2(activation, widths, seed)


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize(("activation", "widths"), NETS[1:])
def test_never_above_the_exact_linf_radius(activation, widths, seed):
    check_linf(activation, widths, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 250))
@pytest.mark.parametrize(("activation", "widths"), WIDER)
def test_never_above_the_exact_linf_radius_three_hundred(activation, widths, seed):
    check_linf(activation, widths, seed)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("method", DETERMINISTIC, ids=lambda method: repr(method)[:40])
def test_of_a_linear_head_the_radius_is_the_margin_over_the_dual_norm(method, norm):
    network, [(kernel, bias)] = plain_nets.redrawn(plain_nets.template(None, ()), 0)
    x = plain_nets.images(0, count=5)
    values = x.astype(float) @ kernel + bias
    label = values.argmax(axis=1)
    lead = values.max(axis=1, keepdims=True) - values
    rows = kernel.T[label][:, None] - kernel.T[None]
    size = np.linalg.norm(rows, axis=-1) if norm == "l2" else np.abs(rows).sum(axis=-1)
    lead[np.arange(5), label], size[np.arange(5), label] = np.inf, 1
    exact = (lead / size).min(axis=1)
    found = radii(method, network, x, norm)
    assert (found <= exact * (1 + 1e-12)).all()
    if isinstance(method, Lipschitz) and norm == "linf":
        return  # the cube lies in a ball of sqrt(3) times its radius, and no more is claimed
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_chains_of_linear_layers_are_one_to_methods_that_follow_lines(norm):
    network, pairs = plain_nets.redrawn(plain_nets.template(None, (4, 4)), 1)
    kernel, bias = np.eye(3), np.zeros(3)
    for k, b in pairs:
        kernel, bias = kernel @ k, bias @ k + b
    x = plain_nets.images(1, count=4)
    values = x @ kernel + bias
    label, rows = values.argmax(axis=1), kernel.T
    exact = []
    for value, c in zip(values, label, strict=True):
        others = [j for j in range(3) if j != c]
        sizes = [np.linalg.norm(rows[c] - rows[j], 2 if norm == "l2" else 1) for j in others]
        exact.append(min((value[c] - value[j]) / s for j, s in zip(others, sizes, strict=True)))
    for method in (FastLin(), Crown(), AlphaCrown(), Dual(), Projections(), BranchAndBound()):
        found = radii(method, network, x, norm)
        np.testing.assert_allclose(found, exact, rtol=1e-5, err_msg=method.name)
    for method in (Lipschitz(), IntervalBounds(), BallBox()):
        assert (radii(method, network, x, norm) <= np.array(exact) * (1 + 1e-12)).all()


def test_verdicts_say_what_they_rest_on():
    frozen = plain_nets.template("relu", (4, 4))
    x = plain_nets.images(6, count=6)
    label = np.asarray(frozen(x).prediction)
    wrong = (label + 1) % plain_nets.CLASSES
    both = Crown().verify(frozen, x, np.where(np.arange(6) < 3, label, wrong), radius="1/1000")
    assert (both.status[3:] == Status.FALSIFIED).all()
    np.testing.assert_array_equal(both.witness[3:], x[3:])
    assert np.isnan(both.witness[:3]).all()
    assert set(both.semantics[both.is_verified]) <= {"rounded"}
    quick = Crown(is_rounding_counted=False).verify(frozen, x, label, radius=0.001)
    assert set(quick.semantics[quick.is_verified]) <= {"numerical"}


@pytest.mark.slow
def test_a_box_can_only_help_and_a_whole_box_is_infinitely_far():
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), 3)
    x = plain_nets.images(3)
    for norm in ("l2", "linf"):
        for method in (IntervalBounds(), Crown(), BallBox()):
            without, within = (radii(method, network, x, norm, box) for box in (None, (0.0, 1.0)))
            assert (within >= without * (1 - 2e-6)).all()
    arrays = {n: a * np.float32(0.01) for n, a in network.arrays.items()}
    head = dict(network.steps[-1].options)
    arrays[head["bias"]] = np.array([5, 0, 0], np.float32)
    same = dataclasses.replace(network, arrays=arrays)
    assert np.isinf(radii(Crown(), same, x, "linf", (0.0, 1.0))).all()
    assert np.isinf(radii(MixedInteger(), same, x, "linf", (0.0, 1.0))).all()


def test_a_tie_has_radius_zero():
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), 0)
    head = dict(network.steps[-1].options)
    network.arrays[head["kernel"]][:] = 0
    network.arrays[head["bias"]][:] = 1
    for method in DETERMINISTIC:
        assert not radii(method, network, plain_nets.images(0), "l2").any()


def test_lipschitz_is_the_certificate():
    frozen = plain_nets.template("minmax", (8, 8))
    x = plain_nets.images(0, count=8)
    ours = gj.certify(frozen, x, epsilon=0.1)
    found = Lipschitz().certified_radius(frozen, x, norm="l2")
    np.testing.assert_allclose(found, ours.radius, rtol=1e-4, atol=1e-6)
    assert network_of(frozen).lipschitz == frozen.lipschitz
