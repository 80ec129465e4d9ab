"""Every step's rule: the operations are the network, and bounds hold for what they make."""

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
from gloro_jax.verifiers import Crown, IntervalBounds
from gloro_jax.verifiers.bounds.boxes import Walk
from gloro_jax.verifiers.bounds.operations import Affine, Kinked, Parallel, run
from gloro_jax.verifiers.bounds.regions import region
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.scores import charge_of, in_float64, margin_rows
from tests import draws
from tests.verifiers import plain_nets

SHAPE = (6, 8, 2)
BODIES = {
    "windows": lambda: [
        layers.Normalize((0.1, 0.2), (0.5, 0.3), name="normalize"),
        layers.Conv(4, (3, 2), strides=(2, 1), padding=((1, 0), (0, 2)), name="conv"),
        layers.MinMax(name="minmax"),
        layers.MaxPool((2, 3), padding=((1, 0), (0, 1)), name="max_pool"),
        layers.AveragePool(2, strides=1, name="average_pool"),
        layers.Flatten(name="flatten"),
    ],
    "channels": lambda: [
        layers.SpaceToDepth(2, name="space_to_depth"),
        layers.Position(name="position"),
        layers.ChannelShift(is_circular=False, name="shift"),
        layers.ChannelMix(name="mix"),
        layers.BetaAbs(name="beta_abs"),
        layers.ChannelShift(name="roll"),
        layers.Flatten(name="flatten"),
        layers.FirstFeatures(9, name="first"),
        layers.Abs(name="abs"),
    ],
    "branches": lambda: [
        layers.Conv(4, (3, 3), strides=2, name="stem"),
        layers.Residual(
            nn.Sequential([layers.Conv(4, (3, 3), name="inner"), layers.ReLU(name="relu")]),
            name="residual",
        ),
        layers.LinearResidual(name="block"),
        layers.MinMax(pairing="adjacent", order="min_max", name="minmax"),
        layers.Flatten(name="flatten"),
    ],
}


@pytest.fixture(scope="module", params=[*BODIES, "views"])
def network(request):
    views = ("identity", "mirror+shift:0,1") if request.param == "views" else ()
    body = nn.Sequential(BODIES["branches" if views else request.param]())
    net = gj.GloroNet(body, 3, views=views)
    example = jnp.zeros((1, *SHAPE))
    variables = draws.init(net, 0, example, norms=gj.PowerIteration(steps=1))
    drawn = jax.tree.map(
        lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), variables["params"]
    )
    frozen = gj.freeze(net, {**variables, "params": drawn}, input_shape=SHAPE)
    return frozen, network_of(frozen)


def points(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, *SHAPE)).astype(np.float32)


def test_the_operations_are_the_network(network):
    frozen, plain = network
    x = points(8)
    expected = np.asarray(frozen(x).values)
    np.testing.assert_allclose(run(chain_of(plain), x), expected, rtol=2e-4, atol=2e-5)
    with in_64_bits():
        wide = run(chain_of(in_float64(plain)), jnp.asarray(x, jnp.float64))
        followed = run(_unkinked(chain_of(in_float64(plain))), jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(wide, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(followed, wide, rtol=1e-12, atol=1e-13)


def _unkinked(chain):
    """The same with every activation as the chain of ReLUs that it says it is."""
    found = []
    for op in chain:
        match op:
            case Kinked():
                found += _unkinked(op.chain)
            case Parallel():
                branches = tuple(tuple(_unkinked(branch)) for branch in op.branches)
                found.append(Parallel(branches, op.before, op.after))
            case _:
                found.append(op)
    return tuple(found)


def _affine(chain):
    for op in chain:
        match op:
            case Affine():
                yield op
            case Parallel():
                for branch in op.branches:
                    yield from _affine(branch)
            case Kinked():
                yield from _affine(op.chain)


def test_adjoints_spreads_and_norms_are_those_of_the_matrix(network):
    _, plain = network
    with in_64_bits():
        for op in _affine(chain_of(in_float64(plain))):
            d = int(np.prod(op.before))
            eye = jnp.eye(d).reshape(d, *op.before)
            matrix = np.asarray(op.linear(eye)).reshape(d, -1)
            rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, *op.after)))
            back = np.asarray(op.transposed(rows)).reshape(3, d)
            np.testing.assert_allclose(back, np.asarray(rows).reshape(3, -1) @ matrix.T, atol=1e-12)
            for power in (1, 2):
                spread = np.asarray(op.spread(eye, power=power)).reshape(d, -1)
                np.testing.assert_allclose(spread, np.abs(matrix) ** power, atol=1e-12)
            assert np.linalg.norm(matrix, 2) <= float(op.norm) * (1 + 1e-9)
            check_gradient_of_adjoint(op, rows)


def check_gradient_of_adjoint(op, rows):
    """It is linear in rows and in entries: a difference is the gradient times the step."""
    rng = np.random.default_rng(1)
    seen = rng.normal(size=(3, *op.before))

    def value(entries, rows):
        return (dataclasses.replace(op, entries=entries).transposed(rows) * seen).sum()

    at = (jax.tree.map(jnp.asarray, op.entries), rows)
    for number, slope in enumerate(jax.grad(value, (0, 1))(*at)):
        if slope is None:
            continue  # all entries are 0 or 1
        step, moved = rng.normal(size=slope.shape), list(at)
        moved[number] = at[number] + step
        difference = value(*moved) - value(*at)
        np.testing.assert_allclose(difference, (slope * step).sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "norm"),
    [
        (Crown(), "linf"),
        (IntervalBounds(), "l2"),
        pytest.param(Crown(), "l2", marks=pytest.mark.slow),
        pytest.param(IntervalBounds(), "linf", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_bound_holds_for_points_of_the_region(network, norm, method):
    """Inputs of ReLUs and margins, at random points and at the corners that gradients point to."""
    _, plain = network
    x, labels = points(2, seed=1), np.zeros(2, int)
    rng, radius = np.random.default_rng(2), 0.05 if norm == "linf" else 0.2
    with in_64_bits():
        wide = in_float64(plain)
        chain = chain_of(wide)
        area = region(jnp.asarray(x, jnp.float64), np.full(2, radius), norm=norm, box=None)

        @jax.jit
        def bounds(wide, area):
            chain = chain_of(wide)
            walk = Walk(area, None, charge_of(chain, jnp.float64))
            return method.margins(wide, chain, walk, labels, ())[0]

        lows, row = np.asarray(bounds(wide, area)), np.asarray(margin_rows(labels, 3, jnp.float64))

        def lead(z):
            return run(chain, z) @ row[0].T

        slope = np.asarray(jax.grad(lambda z: lead(z)[:, 1].sum())(area.centre))
        for trial in range(40):
            move = rng.normal(size=x.shape) if trial % 2 else -slope
            if norm == "linf":
                move = radius * np.sign(move)
            else:
                move *= radius / np.linalg.norm(move.reshape(2, -1), axis=1)[:, None, None, None]
            leads = np.asarray(lead(area.centre + move))
            assert (leads >= lows - 1e-9).all()


def test_a_step_without_a_rule_is_named():
    body = nn.Sequential([layers.Flatten(name="flatten"), layers.SmoothAbs(name="smooth")])
    net = gj.GloroNet(body, 3)
    variables = draws.init(net, 0, jnp.zeros((1, 4)), norms=gj.PowerIteration(steps=1))
    frozen = gj.freeze(net, variables, input_shape=(4,))
    x, labels = np.zeros((1, 4), np.float32), np.zeros(1, int)
    with pytest.raises(ValueError, match="Crown has no rule for a layer that applies 'smooth_abs'"):
        Crown().verify(frozen, x, labels, radius=0.1)


X = np.full((2, 3), 0.5, np.float32)
LABELS = np.zeros(2, int)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"norm": "l1"}, "knows the norms linf, l2, got norm='l1'"),
        ({"radius": 0.0}, "radius is positive and finite"),
        ({"radius": "a"}, "radius is a number such as 0.3 or "),
        ({"radius": float("inf")}, "radius is positive and finite"),
        ({"labels": np.array([0, 3])}, "labels of 3 classes are 0 to 2, got 3 for image 1"),
        ({"labels": np.array([0])}, "one integer for each of 2 images"),
        ({"labels": np.array([0.0, 1.0])}, "one integer for each"),
        ({"box": (0.6, 1.0)}, "does not contain x: image 0"),
        ({"box": (1.0, 0.0)}, "lower below upper"),
        ({"box": 3}, "box is None or two numbers"),
        ({"x": X[0]}, "x is a batch of images"),
        ({"x": X * np.float32("nan")}, "NaN or infinity"),
    ],
)
def test_bad_input_is_refused_by_name(change, says, untyped):
    given = {"x": X, "labels": LABELS, "norm": "linf", "radius": 0.1, "box": None} | change
    x, labels = given.pop("x"), given.pop("labels")
    frozen = plain_nets.template("relu", (4, 4))
    with pytest.raises(ValueError, match=says):
        Crown().verify(frozen, x, labels, **given)
