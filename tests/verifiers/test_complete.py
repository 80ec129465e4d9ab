"""Complete verifiers: equal to the exact radius, witnesses in the region and of another class."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from gloro_jax.platforms import in_64_bits
from gloro_jax.verifiers import BranchAndBound, MixedInteger, Projections, Status
from gloro_jax.verifiers.operations import run
from gloro_jax.verifiers.rules import chain_of
from gloro_jax.verifiers.scores import in_float64
from tests.verifiers import plain_nets
from tests.verifiers.test_incomplete import NETS, WIDER, radii

COMPLETE = [Projections(), BranchAndBound()]


def check(method, network, x, exact, norm):
    found = radii(method, network, x, norm)
    # Bisection ends somewhere above 1e30 where nothing is wrong at any radius.
    np.testing.assert_allclose(
        np.minimum(found, 1e9), np.minimum(exact, 1e9), rtol=1e-5, err_msg=method.name
    )
    for point, distance in zip(x, exact, strict=True):
        label = method_label(network, point)
        if np.isinf(distance):
            held = method._verdicts(
                network, point[None], np.array([label]), norm=norm, radius=1e3, box=None
            )
            assert held.status[0] == Status.VERIFIED, method.name
            continue
        for share, status in ((1 - 2e-5, Status.VERIFIED), (1 + 2e-5, Status.FALSIFIED)):
            radius = float(distance * share)
            held = method._verdicts(
                network, point[None], np.array([label]), norm=norm, radius=radius, box=None
            )
            assert held.status[0] == status, (method.name, distance, share)
            if status == Status.FALSIFIED:
                away = held.witness[0] - point.astype(float)
                size = np.linalg.norm(away) if norm == "l2" else np.abs(away).max()
                assert size <= radius * (1 + 1e-12)
                assert method_label(network, held.witness[0]) != label


def method_label(network, point):
    with in_64_bits():
        chain = chain_of(in_float64(network))
        return int(np.asarray(run(chain, jnp.asarray(point[None], jnp.float64)))[0].argmax())


@pytest.mark.parametrize("method", COMPLETE, ids=lambda m: m.name)
@pytest.mark.parametrize(("activation", "widths"), NETS[:1])
def test_l2_radii_are_those_over_all_patterns(method, activation, widths):
    check_l2(method, activation, widths, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 150))
@pytest.mark.parametrize("method", COMPLETE, ids=lambda m: m.name)
@pytest.mark.parametrize(("activation", "widths"), NETS)
def test_l2_radii_are_those_over_all_patterns_two_hundred(method, activation, widths, seed):
    check_l2(method, activation, widths, seed)


def check_l2(method, activation, widths, seed):
    network, pairs = plain_nets.redrawn(plain_nets.template(activation, widths), seed)
    x = plain_nets.images(seed)
    exact = [plain_nets.exact_l2_radius(pairs, activation, p.astype(float)) for p in x]
    check(method, network, x, np.array(exact), "l2")


@pytest.mark.parametrize("method", COMPLETE, ids=lambda m: m.name)
@pytest.mark.parametrize(("activation", "widths"), NETS[1:])
def test_linf_radii_are_those_of_mixed_integer_programs(method, activation, widths):
    check_linf(method, activation, widths, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 175))
@pytest.mark.parametrize("method", COMPLETE, ids=lambda m: m.name)
@pytest.mark.parametrize(("activation", "widths"), WIDER)
def test_linf_radii_are_those_of_mixed_integer_programs_three_hundred(
    method, activation, widths, seed
):
    check_linf(method, activation, widths, seed)


def check_linf(method, activation, widths, seed):
    network, _ = plain_nets.redrawn(plain_nets.template(activation, widths), seed)
    x = plain_nets.images(seed)
    check(method, network, x, radii(MixedInteger(), network, x, "linf"), "linf")


def test_mixed_integer_agrees_with_all_patterns_on_a_line():
    """In one dimension l2 and linf balls are the same, and the referees share no code."""
    for activation, widths in NETS:
        network, pairs = plain_nets.redrawn(plain_nets.template(activation, widths, 1), 7)
        x = plain_nets.images(7, inputs=1)
        exact = [plain_nets.exact_l2_radius(pairs, activation, p.astype(float)) for p in x]
        found = radii(MixedInteger(), network, x, "linf")
        np.testing.assert_allclose(np.minimum(found, 1e3), np.minimum(exact, 1e3), rtol=1e-5)


def test_cases_alone_find_what_descent_would_find_first():
    """Both sides of every split are looked at: beyond the exact radius nothing is verified."""
    method = BranchAndBound(restarts=0)
    for seed in range(3):
        network, pairs = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), seed)
        x = plain_nets.images(seed)
        exact = [plain_nets.exact_l2_radius(pairs, "relu", p.astype(float)) for p in x]
        for point, distance in zip(x, exact, strict=True):
            label = np.array([method_label(network, point)])
            for share in (1.01, 1.2, 1.5):
                radius = float(distance * share)
                held = method._verdicts(
                    network, point[None], label, norm="l2", radius=radius, box=None
                )
                assert held.status[0] != Status.VERIFIED, (seed, share)


def test_projections_cross_facets_both_ways():
    for seed in range(4):
        network, pairs = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), seed)
        x = plain_nets.images(seed, count=4)
        exact = [plain_nets.exact_l2_radius(pairs, "relu", p.astype(float)) for p in x]
        np.testing.assert_allclose(radii(Projections(), network, x, "l2"), exact, rtol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("method", COMPLETE, ids=lambda m: m.name)
def test_what_a_solver_leaves_open_is_not_verified(method, norm, monkeypatch):
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), 1)
    x = plain_nets.images(1)
    labels = np.array([method_label(network, p) for p in x])
    exact = radii(Projections(), network, x, norm)
    radius = float(exact.min() * 0.9999)

    def status():
        return method._verdicts(network, x, labels, norm=norm, radius=radius, box=None).status

    assert (status() == Status.VERIFIED).all()

    def at_a_loss(cost, *_, **__):
        return scipy.optimize.OptimizeResult(status=4, x=None)

    def wrong(matrix, goal, *_, **__):
        return scipy.optimize.OptimizeResult(x=np.full(matrix.shape[1], 1e-3))

    monkeypatch.setattr(scipy.optimize, "linprog", at_a_loss)
    monkeypatch.setattr(scipy.optimize, "lsq_linear", wrong)
    assert status()[exact.argmin()] == Status.UNKNOWN
    found = radii(method, network, x, norm)
    assert (found <= exact * (1 + 1e-9)).all()
    assert found[exact.argmin()] < exact.min()


@pytest.mark.parametrize("mode", ["incomplete", "lower_bound"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_other_modes_of_projections_are_below_the_complete_one(mode, norm):
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), 2)
    x = plain_nets.images(2, count=4)
    exact = radii(Projections(), network, x, norm)
    found = radii(Projections(mode=mode), network, x, norm)
    assert (found <= exact * (1 + 1e-8)).all()
    assert (found > 0).all()
    assert (found == exact).any()


def test_when_the_time_is_up_nothing_is_verified():
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (7, 7)), 2)
    x = plain_nets.images(2)
    labels = np.array([method_label(network, p) for p in x])
    for method in (Projections, BranchAndBound, MixedInteger):
        held = method(time_limit=1e-9)._verdicts(
            network, x, labels, norm="linf", radius=0.05, box=None
        )
        assert (held.status != Status.VERIFIED).all()
