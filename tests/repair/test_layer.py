"""The repairing layer against all orders of all scores: safe, transparent, and no argmax lost."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.repair import AllOf, Always, InBox, Order, PredictedIn, Property, Repair, below
from gloro_jax.repair.layer import Tables, repaired
from gloro_jax.repair.orders import cycle_in
from gloro_jax.repair.preconditions import Precondition
from tests import draws
from tests.ensembles.members import CLASSES, SHAPE, member

P, D = 3, 2  # properties of a random set, and choices of each: one compiled program serves all


def random_set(rng, m):
    """Up to three properties of up to two choices of up to three pairs, none a circle."""
    found = []
    for _ in range(rng.integers(1, P + 1)):
        choices = []
        while len(choices) < rng.integers(1, D + 1):
            pairs = [tuple(rng.permutation(m)[:2].tolist()) for _ in range(rng.integers(1, 4))]
            if not cycle_in(pairs):
                choices.append(frozenset(pairs))
        found.append(tuple(choices))
    return found


def tables_of(properties, m):
    graphs, is_choice = np.zeros((P, D, m, m), bool), np.zeros((P, D), bool)
    for number, choices in enumerate(properties):
        for place, choice in enumerate(choices):
            is_choice[number, place] = True
            for low, high in choice:
                graphs[number, place, high, low] = True
    places = np.array(list(itertools.product(range(D), repeat=P)), np.int32)
    return Tables(graphs, is_choice, places[np.argsort(places.sum(axis=1), kind="stable")])


def satisfied(properties, values):
    """(n,) whether each row has, of every property, one choice whose pairs all hold."""
    return np.all(
        [
            np.any(
                [
                    np.all([values[:, a] < values[:, b] for a, b in choice], axis=0)
                    for choice in choices
                ],
                axis=0,
            )
            for choices in properties
        ],
        axis=0,
    )


@pytest.mark.parametrize("m", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [750, pytest.param(3000, marks=pytest.mark.slow)])
def test_all_orders_of_random_properties(m, count):
    rng = np.random.default_rng(m)
    orders = np.array(list(itertools.permutations(range(m))))
    numbers = np.sort(rng.normal(size=m)).astype(np.float32)
    values = numbers[orders]
    unsatisfiable = kept_of = 0
    for _ in range(count):
        properties = random_set(rng, m)
        speaks = np.zeros((P, len(values)), bool)
        speaks[: len(properties)] = True
        found = repaired(tables_of(properties, m), speaks, values)
        out, is_bottom = np.asarray(found.values), np.asarray(found.is_bottom)
        is_safe = satisfied(properties, values)  # of each order: they are all orders there are
        assert is_bottom.all() == (not is_safe.any())
        assert is_bottom.any() == is_bottom.all()
        np.testing.assert_array_equal(out[is_safe], values[is_safe])
        unsatisfiable += is_bottom.all()
        if is_bottom.all():
            np.testing.assert_array_equal(out, values)
            continue
        assert satisfied(properties, out).all()
        np.testing.assert_array_equal(np.sort(out, axis=1), np.sort(values, axis=1))
        can_be_top = {int(order.argmax()) for order in orders[is_safe]}
        top, now = values.argmax(axis=1), out.argmax(axis=1)
        expected = np.isin(top, list(can_be_top))
        np.testing.assert_array_equal(now == top, expected)
        kept_of += expected.sum()
    assert unsatisfiable
    assert kept_of


def test_ties_are_moved_apart_and_nan_is_no_answer():
    repair = Repair([Property(Always(), below(0, 1, 2))], 4)
    values = jnp.array(
        [[1.0, 1, 1, 1], [0, 0, 0, 0], [3, 2, 1, 9], [jnp.nan, 0, 1, 2], [jnp.inf, 0, 1, 2]]
    )
    found = repair(jnp.zeros((5, 1)), values)
    out = np.asarray(found.values)
    assert (out[:3, 0] < out[:3, 1]).all()
    assert (out[:3, 1] < out[:3, 2]).all()
    np.testing.assert_allclose(out[:2], values[:2], atol=1e-6)
    np.testing.assert_array_equal(out[2], [1, 2, 3, 9])
    np.testing.assert_array_equal(found.is_bottom, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(found.is_changed, [1, 1, 1, 0, 0])


def test_ties_that_no_property_speaks_of_are_left_alone():
    repair = Repair([Property(Always(), below(0, 1, 2))], 4)
    values = jnp.array([[1.0, 2, 3, 3], [1, 2, 3, 1]])
    found = repair(jnp.zeros((2, 1)), values)
    np.testing.assert_array_equal(found.values, values)
    assert not found.is_changed.any()


def test_properties_speak_where_they_do():
    repair = Repair(
        [
            Property(InBox([(0, 0.0, 0.5)]), below(0, 1)),
            Property(PredictedIn([2]), below(1, 0)),
        ],
        3,
    )
    x = jnp.array([[0.25, 9], [0.75, 9], [0.5, 0], [0.25, 0]])
    values = jnp.array([[2.0, 1, 0], [2, 1, 0], [0, 1, 2], [0.0, 1, 2]])
    found = repair(x, values)
    np.testing.assert_array_equal(found.values[:2], [[1, 2, 0], [2, 1, 0]])
    np.testing.assert_array_equal(found.is_bottom, [0, 0, 1, 1])  # both speak, and contradict
    inside = jax.jit(lambda x, v: repair(x, v).values)(x, values)
    np.testing.assert_array_equal(inside, found.values)


def test_a_hundred_classes():
    """CIFAR-100's superclasses: the classes of the predicted one's superclass stay above all."""
    superclasses = gj.guarantees.cifar100_superclasses().sets
    properties = []
    for one in superclasses:
        outside = sorted(set(range(100)) - set(one))
        choice = frozenset((low, high) for low in outside for high in one)
        properties.append(Property(PredictedIn(one), Order((choice,))))
    repair = Repair(properties, 100)
    values = draws.normal(0, (64, 100))
    found = repair(jnp.zeros((64, 1)), values)
    assert not found.is_bottom.any()
    np.testing.assert_array_equal(found.values.argmax(axis=1), values.argmax(axis=1))
    own = np.array([next(i for i, s in enumerate(superclasses) if c in s) for c in range(100)])
    first = np.asarray(jnp.argsort(-found.values, axis=1))[:, :5]
    assert (own[first] == own[np.asarray(values.argmax(axis=1))][:, None]).all()


@pytest.fixture(scope="module")
def frozen():
    return member(2)


def test_certified_points_keep_their_answer_on_the_ball(frozen):
    x = draws.uniform(3, (60, *SHAPE))
    values = np.asarray(frozen(x).values)
    top = int(np.bincount(values.argmax(axis=1)).argmax())
    second = (top + 1) % CLASSES
    repair = Repair(
        [
            Property(InBox([(0, -np.inf, 0.5)]), below((top + 2) % CLASSES, second)),
            Property(InBox([(1, 0.8, np.inf)]), below(top, second)),
        ],
        CLASSES,
    )
    epsilon = 0.01
    found = repair.certify(frozen, x, epsilon=epsilon)
    plain = gj.certify(frozen, x, epsilon=epsilon)
    assert found.is_certified.any()
    assert (np.asarray(found.is_certified) < np.asarray(plain.is_certified)).any()
    flat = np.asarray(x).reshape(60, -1)
    near = (np.abs(flat[:, 0] - 0.5) <= epsilon) | (np.abs(flat[:, 1] - 0.8) <= epsilon)
    assert not np.asarray(found.is_certified)[near].any()
    demoted = (flat[:, 1] > 0.8) & (np.asarray(plain.prediction) == top)
    assert not np.asarray(found.is_certified)[demoted].any()
    rng = np.random.default_rng(0)
    radius = np.asarray(found.radius)
    for _ in range(40):
        step = rng.standard_normal(x.shape)
        step *= (0.999 * np.minimum(radius, 1.0))[:, None, None, None] / np.linalg.norm(
            step.reshape(60, -1), axis=1
        )[:, None, None, None]
        moved = (np.asarray(x) + step).astype(np.float32)
        after = repair(moved, frozen(moved).values)
        now = np.where(after.is_bottom, -1, np.asarray(after.values).argmax(axis=1))
        assert (now == np.asarray(found.prediction))[radius > 0].all()


def test_nothing_is_certified_where_the_answer_is_none(frozen):
    x = draws.uniform(3, (20, *SHAPE))
    own = tuple(range(CLASSES))
    repair = Repair(
        [Property(PredictedIn(own), below(0, 1)), Property(PredictedIn(own), below(1, 0))], CLASSES
    )
    found = repair.certify(frozen, x, epsilon=1e-4)
    assert not found.is_certified.any()
    assert not found.radius.any()
    assert (found.prediction == -1).all()
    free = Repair([], CLASSES).certify(frozen, x, epsilon=1e-4)
    np.testing.assert_array_equal(
        free.is_certified, gj.certify(frozen, x, epsilon=1e-4).is_certified
    )


@pytest.mark.parametrize("is_part", [False, True])
def test_a_precondition_of_ones_own_that_could_change_is_refused(is_part):
    """A program compiled for one value of its fields would answer for another."""

    class Adding(InBox):
        def __init__(self, bounds, extra):
            super().__init__(bounds)
            object.__setattr__(self, "extra", extra)

    @dataclasses.dataclass(frozen=True)
    class Hiding(InBox):
        extra: int = dataclasses.field(default=0, compare=False)

    class Loose(Precondition):
        def holds(self, x, prediction):
            return jnp.ones(len(x), bool)

        def distance(self, x):
            return np.full(len(x), np.inf)

    def repair_of(when):
        return Repair([Property(AllOf([when]) if is_part else when, below(0, 1))], 3)

    repair_of(InBox([(0, 0.0, 1.0)]))
    for one in (Loose(), Adding([(0, 0.0, 1.0)], 2)):
        with pytest.raises(TypeError, match="precondition of one's own is a frozen dataclass"):
            repair_of(one)
    with pytest.raises(TypeError, match=r"left out of its comparison: .'extra'"):
        repair_of(Hiding([(0, 0.0, 1.0)]))
