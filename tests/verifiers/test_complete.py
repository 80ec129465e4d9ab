"""Complete verifiers: equal to the exact radius, witnesses in the region and of another class."""

import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.platforms import in_64_bits
from gloro_jax.verifiers import BranchAndBound, MixedInteger, Projections, Status
from gloro_jax.verifiers.bounds.operations import run
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.complete.polytopes import Pattern, deepest, is_empty, nearest
from gloro_jax.verifiers.complete.unrolled import unrolled
from gloro_jax.verifiers.scores import in_float64
from tests import draws
from tests.verifiers import plain_nets
from tests.verifiers.test_incomplete import NETS, WIDER, radii

COMPLETE = [Projections(), BranchAndBound()]
FAR = 1e4


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
    exact = radii(MixedInteger(), network, x, "linf")
    # Where nothing is wrong at any radius, the solver ends where its tolerances hide the lead.
    check(method, network, x, np.where(exact > FAR, np.inf, exact), "linf")


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
        # Nor is the first point of another class that they meet the nearest.
        np.testing.assert_allclose(radii(method, network, x[:2], "l2"), exact[:2], rtol=1e-5)
        for point, distance in zip(x, exact, strict=True):
            label = np.array([method_label(network, point)])
            for share in (1.01, 1.2, 1.5):
                radius = float(distance * share)
                held = method._verdicts(
                    network, point[None], label, norm="l2", radius=radius, box=None
                )
                assert held.status[0] != Status.VERIFIED, (seed, share)


@pytest.mark.parametrize("activation", ["relu", "minmax"])
def test_cases_that_a_point_is_in_are_not_called_empty(activation):
    network, pairs = plain_nets.redrawn(plain_nets.template(activation, (4, 4)), 3)
    plan, rng = unrolled(network), np.random.default_rng(0)
    inner, constant = plan.units
    for x in rng.normal(size=(100, plan.pixels)) * 3:
        outputs = np.zeros(len(constant))
        for unit in range(len(constant)):
            before = inner[unit] @ np.concatenate([x, outputs]) + constant[unit]
            outputs[unit] = max(before, 0)
        rival = int(plain_nets.scores(pairs, activation, x).argmax())
        is_open = rng.random(len(constant)) < 0.4
        for label in {0, 1, 2} - {rival}:
            assert not is_empty(plan, (outputs > 0) & ~is_open, is_open, label, rival)


def test_a_case_called_empty_is_so_however_its_open_relus_are_and_most_are_found():
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), 3)
    plan, called, empty = unrolled(network), 0, 0
    x = np.zeros(plan.pixels)
    leaves = {
        on: nearest(x, *Pattern(plan, np.array(on)).lost(0, 1), norm="linf", box=None)[0] == np.inf
        for on in itertools.product((False, True), repeat=8)
    }
    for pair in ((0, 2), (1, 6), (4, 7)):
        is_open = np.isin(np.arange(8), pair)
        for on in leaves:
            if any(on[i] for i in pair):
                continue
            sides = itertools.product((False, True), repeat=2)
            all_of = [tuple(np.where(is_open, _put(pair, side), on)) for side in sides]
            is_one = is_empty(plan, np.array(on), is_open, 0, 1)
            assert all(leaves[p] for p in all_of) or not is_one, (pair, on)
            called, empty = called + is_one, empty + all(leaves[p] for p in all_of)
    assert called > 0.9 * empty > 0


def _put(places, values):
    found = np.zeros(8, bool)
    found[list(places)] = values
    return found


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
    found = radii(Projections(), network, x, norm)
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


def thin(size):
    """Weights up to `size`, exact in float32: a region a few units away is 1 / `size` thin."""
    net = gj.GloroNet(nn.Sequential([layers.Dense(4), layers.ReLU()]), 2)
    kernel = np.float32([[0, -0.5, -1, -1], [size, size, size, 0]])
    head = np.float32([[-1, 0], [2, 0], [-1, 0], [100, 0]])
    params = {
        "body": {"layers_0": {"kernel": kernel, "bias": np.float32([-1, -0.5, 0, 0])}},
        "head_kernel": head,
        "head_bias": np.float32([1, 0]),
    }
    frozen = gj.freeze(net, {"params": params}, input_shape=(2,))
    witness = np.float32([[4.0, 2.5 / size]])
    assert frozen(witness).prediction[0] == 1
    return frozen, np.float32([[0.2, -0.5 / size]])


@pytest.mark.parametrize("power", [17, 20])
@pytest.mark.parametrize(
    ("method", "norm"),
    [(Projections(), "l2"), (BranchAndBound(time_limit=10.0), "l2"), (MixedInteger(), "linf")],
    ids=["Projections", "BranchAndBound", "MixedInteger"],
)
def test_regions_that_are_thin_are_not_empty(method, norm, power):
    frozen, x = thin(2.0**power)
    held = method.verify(frozen, x, np.array([0]), norm=norm, radius=3.9)
    assert held.status[0] != Status.VERIFIED
    assert method.certified_radius(frozen, x, norm=norm)[0] <= 3.81


def test_rows_that_are_tiny_are_not_flat():
    body = [layers.Scale(initial=1e-37) for _ in range(5)]
    net = gj.GloroNet(nn.Sequential([*body, layers.Dense(2), layers.ReLU()]), 2)
    params = draws.init(net, 0, jnp.zeros((1, 2)), norms=gj.PowerIteration(steps=1))["params"]
    params["body"]["layers_5"]["kernel"] = jnp.eye(2)
    params["head_kernel"] = jnp.eye(2)
    frozen, x = gj.freeze(net, {"params": params}, input_shape=(2,)), np.float32([[0.6, 0.5]])
    for method in (*COMPLETE, Projections(mode="lower_bound")):
        found = method.certified_radius(frozen, x, norm="l2")
        np.testing.assert_allclose(found, 0.1 / np.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("half_angle", [0.5, 1e-2, 1e-4])
def test_at_a_corner_a_point_is_found_where_the_other_class_is_ahead(half_angle, norm):
    """A wedge with its corner at distance 1, from which only its inside leads further."""
    away, across = np.array([[0.6, 0.8], [-0.8, 0.6]])
    corner = away / np.abs(away).max() if norm == "linf" else away
    sides = np.stack([across - half_angle * away, -across - half_angle * away])
    rows = np.vstack([sides, -away + 0.9 * half_angle * across])
    limits, radius = rows @ corner, 1 + 1e-5
    distance, point = nearest(np.zeros(2), rows, limits, norm=norm, box=None)
    np.testing.assert_allclose(distance, 1, rtol=1e-9)
    point = deepest(np.zeros(2), rows, limits, radius=radius, norm=norm, box=None)
    size = np.linalg.norm(point) if norm == "l2" else np.abs(point).max()
    assert size <= radius * (1 + 1e-9)
    assert (sides @ point <= limits[:2] + 1e-15).all()
    assert rows[2] @ point < limits[2] - 1e-6
    assert deepest(np.zeros(2), rows, limits, radius=0.99, norm=norm, box=None) is None


def test_when_the_time_is_up_nothing_is_verified():
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (7, 7)), 2)
    x = plain_nets.images(2)
    labels = np.array([method_label(network, p) for p in x])
    for method in (Projections, BranchAndBound, MixedInteger):
        held = method(time_limit=1e-9)._verdicts(
            network, x, labels, norm="linf", radius=0.05, box=None
        )
        assert (held.status != Status.VERIFIED).all()
