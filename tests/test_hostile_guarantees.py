"""What was tried to win a false certificate from sets, ensembles and repairs; some did, once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.ensembles import (
    Compositional,
    EntropyGate,
    Selective,
    SoftVoting,
    Voting,
    learn_weights,
)
from gloro_jax.repair import Always, InBox, Order, Property, Repair, SumIn, below, parse
from gloro_jax.repair.orders import all_of, cycle_in
from tests import draws
from tests.ensembles.members import CLASSES, SHAPE, member


@pytest.fixture(scope="module")
def members():
    return [member(seed) for seed in range(3)]


def test_a_feature_that_comes_twice_is_as_far_as_it_is():
    x = np.array([[0.6], [0.3], [0.05]], np.float32)
    twice = InBox([(0, 0.0, 0.5), (0, 0.1, 0.5)])
    once = InBox([(0, 0.1, 0.5)])
    np.testing.assert_array_equal(twice.distance(x), once.distance(x))
    assert twice == once
    assert InBox([(0, 0.0, 0.5)] * 64).distance(x)[0] <= 0.1 + 1e-6
    with pytest.raises(ValueError, match="a lower and an upper one"):
        InBox([(0, 0.0, 1.0), (0, 2.0, 3.0)])
    with pytest.raises(ValueError, match="summed twice"):
        SumIn(0.0, 1.0, features=[0, 0])


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), ()])
def test_a_composition_takes_one_axis_of_images(members, shape):
    """Scores of images (1, m, ...) were once taken for those of one image, and certified."""
    x = draws.uniform(1, (*shape, *SHAPE))
    for gate in (EntropyGate(1.0), member(9, classes=2)):
        with pytest.raises(ValueError, match=r"a batch of images \(n, 6, 6, 1\)"):
            Compositional(members[0], members[1], gate).certify(x, epsilon=0.01)


def test_weights_cannot_be_changed_once_they_are_checked(members):
    given = np.ones(3)
    vote, mean = Voting(members, given), SoftVoting(members, given)
    given[:] = [-5, 1, 1]
    np.testing.assert_array_equal(vote.weights, 1)
    for array in (vote.weights, mean.weights, mean.constants):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 100


@pytest.mark.parametrize(
    "weights", [[1, 0.1, 1e-300], [1e308, 5e-324, 1], [1e200, 1e-200, 0], [1e308] * 3]
)
def test_weights_of_any_size_vote(members, weights):
    found = Voting(members, weights).certify(draws.uniform(2, (8, *SHAPE)), epsilon=0.01)
    assert np.isfinite(found.lead).all()


def test_an_empty_batch_has_an_empty_answer(members):
    none = jnp.zeros((0, *SHAPE))
    guarantee = gj.guarantees.TopK(2)
    assert gj.certify(members[0], none, epsilon=0.1, guarantee=guarantee).classes.shape == (0, 4)
    assert SoftVoting(members).certify(none, epsilon=0.1, guarantee=guarantee).k.shape == (0,)
    repair = Repair([Property(InBox([(0, 0.0, 0.5)]), below(0, 1))], CLASSES)
    assert repair.certify(members[0], none, epsilon=0.1).radius.shape == (0,)
    assert Voting(members).certify(none, epsilon=0.1).radius.shape == (0,)


def test_dense_orders_are_looked_at_once():
    """26 classes in a row, every pair of them said: each path used to be walked."""
    pairs = [(i, j) for i in range(60) for j in range(i + 1, 60)]
    assert cycle_in(pairs) == []
    assert cycle_in([*pairs, (59, 0)])
    assert len(all_of(*(below(i, j) for i, j in pairs[:200])).choices) == 1


def test_orders_that_would_fill_the_memory_are_refused():
    with pytest.raises(ValueError, match="970299 combinations of choices"):
        parse("always: not max y0 and not max y1 and not max y2", num_classes=100)
    with pytest.raises(ValueError, match="take a table of"):
        Repair(parse("always: not max y0", num_classes=800), 800)


def test_scores_that_are_none_have_no_majority():
    def nowhere(x):
        return np.full((len(x), 3), np.nan)

    def first(x):
        return np.eye(3)[np.zeros(len(x), int)]

    assert Selective([nowhere] * 9).predict(np.zeros((2, 1))).is_abstaining.all()
    assert (Selective([first] * 9 + [nowhere]).predict(np.zeros((2, 1))).prediction == -1).all()
    assert not Selective([first] * 9).predict(np.zeros((2, 1))).is_abstaining.any()


def test_a_core_without_an_answer_has_none(members):
    gate, x = EntropyGate(1e-9), draws.uniform(1, (3, *SHAPE))
    made = Compositional(lambda v: np.full((len(v), CLASSES), np.nan), members[0], gate)
    found = made.certify(x, epsilon=0.01)
    assert (found.prediction == -1).all()
    assert not found.is_certified.any()
    with pytest.raises(ValueError, match=r"scores \(3, 4\)"):
        Compositional(lambda v: np.zeros((len(v), 9)), members[0], gate).certify(x, epsilon=0.01)


def test_mean_scores_take_images_as_certify_does(members):
    with pytest.raises(ValueError, match="pixels of 0 to 255"):
        SoftVoting(members).certify(255 * draws.uniform(1, (2, *SHAPE)), epsilon=0.01)
    x = draws.uniform(1, (2, *SHAPE))
    found = jax.jit(lambda e: SoftVoting(members).certify(x, epsilon=e))(-1.0)
    assert not found.radius.any()
    assert not found.is_certified.any()


def test_scores_at_the_end_of_float32_are_no_answer():
    repair = Repair([Property(Always(), below(0, 1, 2))], 3)
    least = np.finfo(np.float32).min
    found = repair(jnp.zeros((1, 1)), jnp.full((1, 3), least))
    assert found.is_bottom.all()
    np.testing.assert_array_equal(found.values, least)


def test_weights_are_learnt_from_labels_that_are_there(members):
    images = np.asarray(draws.uniform(1, (4, *SHAPE)))
    for labels, more, message in (
        (np.full(4, 77), {}, "77"),
        (np.zeros(3, int), {}, "3"),
        (np.zeros(4, int), {"steps": -1}, "at least one image and one step"),
        (np.zeros(4, int), {"learning_rate": float("nan")}, "a positive learning rate"),
    ):
        with pytest.raises(ValueError, match=message):
            learn_weights(members, images, labels, epsilon=0.01, **more)


def test_repairs_of_what_is_none_are_refused(members, untyped):
    rule = Property(Always(), below(0, 1))
    for make in (
        lambda: Repair([Property(below(0, 1), Always())], 3),
        lambda: Repair("always", 3),
        lambda: Repair([rule], 3.0),
        lambda: Repair([rule], 3)(np.zeros((1, 1)), np.zeros((1, 3), int)),
        lambda: jax.jit(lambda x: Repair([rule], 4).certify(members[0], x, epsilon=0.1).radius)(
            jnp.zeros((1, *SHAPE))
        ),
    ):
        with pytest.raises(TypeError, match=r"Property|whole number|floating|outside jit"):
            make()
    for make in (lambda: below(0.0, 1.0), lambda: Order((frozenset([(0.5, 1)]),))):
        with pytest.raises(ValueError, match="pairs of class numbers"):
            make()
    with pytest.raises(ValueError, match="beyond float32"):
        InBox([(0, 0.0, 1e39)])
