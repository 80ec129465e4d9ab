"""Votes: the certificate against every way in which uncertified members can vote."""

import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.ensembles import Cascade, SoftVoting, Voting, attack_cascade, learn_weights
from gloro_jax.ensembles.members import as_integers
from gloro_jax.ensembles.voting import _learned, tally
from tests import draws
from tests.ensembles.members import CLASSES, SHAPE, member


@pytest.fixture(scope="module")
def members():
    return [member(seed) for seed in range(3)]


def random_votes(seed, count=60):
    """Votes, radii and marks of up to seven members, with weights that tie often."""
    rng = np.random.default_rng(seed)
    n = 1 + seed % 7
    votes = rng.integers(0, 3, (n, count))
    radii = rng.integers(0, 4, (n, count)) / 4
    weights = [np.ones(n), rng.integers(0, 4, n) + 0.0, rng.random(n)][seed % 3]
    weights[0] += not weights.any()
    return votes, radii, weights


def winner(votes, weights):
    """By exact sums; the lower class on a tie."""
    totals = [sum(w for v, w in zip(votes, weights, strict=True) if v == i) for i in range(3)]
    return max(range(3), key=lambda i: (totals[i], -i))


@pytest.mark.parametrize("seed", range(14))
def test_no_reassignment_of_uncertified_votes_turns_a_certified_vote(seed):
    votes, radii, weights = random_votes(seed)
    marks = radii > 0
    found = tally(votes, radii, marks, weights)
    exact = [Fraction(float(w)) for w in weights]
    for i in range(votes.shape[1]):
        assert found.prediction[i] == winner(votes[:, i], exact)
        free = np.flatnonzero(~marks[:, i])
        others = []
        for changed in itertools.product(range(3), repeat=len(free)):
            moved = votes[:, i].copy()
            moved[free] = changed
            others.append(winner(moved, exact))
        is_safe = set(others) == {int(found.prediction[i])}
        if found.is_certified[i]:
            assert is_safe
        elif is_safe:  # a tie, which the class's number breaks
            assert found.lead[i] == 0
    assert found.is_certified.any()


@pytest.mark.parametrize("seed", range(14))
def test_the_radius_is_the_largest_epsilon_at_which_the_vote_is_certified(seed):
    votes, radii, weights = random_votes(seed)

    def holds(epsilon):
        return tally(votes, radii, (radii >= epsilon) & (radii > 0), weights).is_certified

    found = tally(votes, radii, radii > 0, weights).radius
    below, above = np.zeros(votes.shape[1]), np.full(votes.shape[1], 1.0)
    for _ in range(40):
        middle = (below + above) / 2
        held = np.array([holds(m)[i] for i, m in enumerate(middle)]) if seed < 2 else None
        if held is None:
            break
        below, above = np.where(held, middle, below), np.where(held, above, middle)
    if seed < 2:
        np.testing.assert_allclose(found, np.where(below > 1e-9, below, 0), atol=1e-9)
    for level in (0.25, 0.5, 0.75):
        np.testing.assert_array_equal(found >= level, holds(level))


def test_weights_are_compared_as_the_numbers_that_they_are():
    """0.1 + 0.2 exceeds 0.3 as floats add, and by less than rounding as numbers."""
    votes = np.array([[0], [0], [1]])
    sure = np.ones((3, 1), bool)
    exact = Fraction(0.1) + Fraction(0.2) > Fraction(0.3)
    found = tally(votes, np.ones((3, 1)), sure, np.array([0.1, 0.2, 0.3]))
    assert bool(found.is_certified[0]) == exact
    for weights, is_ahead in (([1.0, 1e-17, 1.0], True), ([1.0, 0.0, 1.0], False)):
        found = tally(votes, np.ones((3, 1)), sure, np.array(weights))
        assert bool(found.is_certified[0]) == is_ahead
    wide = as_integers(np.array([1e300, 1e-300]))
    assert wide.dtype == object
    assert Fraction(wide[0], wide[1]) == Fraction(1e300) / Fraction(1e-300)
    assert as_integers(np.ones(5)).tolist() == [1] * 5


def test_two_thirds_each_make_a_whole():
    """Three members, certified and right on two thirds each, any two of them on every point."""
    votes, marks = np.zeros((3, 6), int), np.ones((3, 6), bool)
    for i in range(6):
        votes[i % 3, i], marks[i % 3, i] = 1, False
    found = tally(votes, marks.astype(float), marks, np.ones(3))
    assert found.is_certified.all()
    assert not found.prediction.any()


def test_one_member_votes_as_it_certifies(members):
    x = draws.uniform(4, (50, *SHAPE))
    found = Voting(members[:1]).certify(x, epsilon=0.02)
    alone = gj.certify(members[0], x, epsilon=0.02)
    for name in ("prediction", "radius", "is_certified"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    assert found.is_certified.any()


def test_a_vote_is_what_members_say_in_any_batch_shape(members):
    x = draws.uniform(5, (2, 10, *SHAPE))
    found = Voting(members, weights=[1, 2, 3]).certify(x, epsilon=0.01)
    each = [gj.certify(one, x, epsilon=0.01) for one in members]
    votes, radii, marks = (
        np.stack([np.asarray(getattr(one, name)) for one in each])
        for name in ("prediction", "radius", "is_certified")
    )
    again = tally(votes, radii, marks, np.array([1.0, 2, 3]))
    for one, other in zip(found, again, strict=True):
        assert one.shape == (2, 10)
        np.testing.assert_array_equal(one, other)
    report = gj.evaluation.verified_robust_accuracy(
        Voting(members), [(np.asarray(x[0]), np.zeros(10, int))], epsilon=0.01
    )
    assert report.count == 10


def test_weights_are_learnt_where_they_matter(members):
    """Member 0 is always right and certified, member 1 right, the others wrong and certified."""
    goals = np.arange(200) % CLASSES
    votes = np.stack([goals, goals, (goals + 1) % CLASSES, (goals + 1) % CLASSES], axis=1)
    marks = np.ones_like(votes, bool)
    marks[:, 1] = False
    weights = np.asarray(_learned(votes, marks, goals, 1000, 1e-2))
    assert weights[0] > 0.5
    found = tally(votes.T, marks.T * 1.0, marks.T, weights)
    assert (found.is_certified & (found.prediction == goals)).all()
    assert not tally(votes.T, marks.T * 1.0, marks.T, np.ones(4)).is_certified.any()
    images = np.asarray(draws.uniform(6, (30, *SHAPE)))
    learnt = learn_weights(members, images, np.zeros(30, int), epsilon=0.01, steps=5)
    assert learnt.shape == (3,)
    assert abs(learnt.sum() - 1) < 1e-6


def test_soft_voting_has_the_constants_of_a_mean(members):
    weights = np.array([1.0, 3.0, 0.0])
    soft = SoftVoting(members, weights)
    x = draws.uniform(7, (20, *SHAPE))
    logits = soft(x)
    mean = sum(w / 4 * np.asarray(one(x).values) for w, one in zip(weights, members, strict=True))
    np.testing.assert_allclose(logits.values, mean, rtol=1e-5, atol=1e-6)
    exact = sum(
        Fraction(float(w)) * Fraction(one.lipschitz) * Fraction(float(one.head().distances[0, 2]))
        for w, one in zip(soft.weights, members, strict=True)
    )
    assert exact <= Fraction(float(soft.constants[0, 2])) <= exact * (1 + Fraction(1, 10**6))
    alone = SoftVoting(members[:1]).certify(x, epsilon=0.02)
    single = gj.certify(members[0], x, epsilon=0.02)
    np.testing.assert_array_equal(alone.prediction, single.prediction)
    np.testing.assert_allclose(alone.radius, single.radius, rtol=1e-5)
    same = SoftVoting([members[0]] * 3).certify(x, epsilon=0.02)
    np.testing.assert_allclose(same.radius, single.radius, rtol=1e-4)


def test_no_difference_of_mean_scores_moves_more_than_its_constant(members):
    soft, rng = SoftVoting(members), np.random.default_rng(0)
    x = rng.random((200, *SHAPE), np.float32)
    step = rng.standard_normal(x.shape).astype(np.float32) * 10.0 ** rng.integers(
        -2, 1, (200, 1, 1, 1)
    )
    y = (x + step).astype(np.float32)
    a, b = (np.asarray(soft(v).values, float) for v in (x, y))
    moved = np.abs((a[:, :, None] - a[:, None]) - (b[:, :, None] - b[:, None]))
    length = np.linalg.norm((y.astype(float) - x).reshape(200, -1), axis=1)
    assert (moved <= length[:, None, None] * soft.constants * (1 + 1e-4) + 1e-5).all()
    assert (moved / length[:, None, None] > 0.05 * soft.constants + 1e-9).any()


def test_soft_certificates_hold_inside_jit_under_guarantees_and_against_nan(members):
    soft, x = SoftVoting(members), draws.uniform(8, (20, *SHAPE))
    outside = soft.certify(x, epsilon=0.01)
    inside = jax.jit(lambda x: soft.certify(x, epsilon=0.01))(x)
    np.testing.assert_allclose(outside.radius, inside.radius, rtol=1e-4, atol=1e-7)
    sets = soft.certify(x, epsilon=0.01, guarantee=gj.guarantees.TopK(2))
    assert (np.asarray(sets.is_certified) >= np.asarray(outside.is_certified)).all()
    assert not soft.certify(x.at[0, 0, 0, 0].set(np.nan), epsilon=0.01).is_certified[0]
    assert not soft.certify(x.at[0, 0, 0, 0].set(1e30), epsilon=0.01).is_certified[0]


def test_a_cascade_predicts_as_its_stages_do_and_refuses_to_certify(members):
    x = draws.uniform(9, (60, *SHAPE))
    found = Cascade(members).predict(x, epsilon=0.03)
    each = [gj.certify(one, x, epsilon=0.03) for one in members]
    for i in range(60):
        stage = next((k for k, one in enumerate(each) if one.is_certified[i]), len(each) - 1)
        assert found.stage[i] == stage
        assert found.prediction[i] == each[stage].prediction[i]
        assert found.is_claimed[i] == any(one.is_certified[i] for one in each)
    assert len(set(found.stage.tolist())) > 1
    with pytest.raises(ValueError, match=r"At -1\.5 the cascade answers F1's class"):
        Cascade(members).certify(x, epsilon=0.03)
    with pytest.raises(ValueError, match="predicts, and does not certify"):
        gj.evaluation.verified_robust_accuracy(
            Cascade(members), [(np.asarray(x), np.zeros(60, int))], epsilon=0.03
        )


def test_the_counter_example_in_the_message_is_one():
    """F1 = sign(x) certified where |x| > 1, F2 a third class everywhere, epsilon 1."""

    def cascade(x):
        return ("sign", np.sign(x)) if abs(x) > 1 else ("third", None)

    assert cascade(-1.5) == ("sign", -1.0)
    assert cascade(-0.6) == ("third", None)
    assert abs(-1.5 + 0.6) < 1


def test_the_attack_finds_points_where_a_cascade_claims_too_much(members):
    x = np.asarray(draws.uniform(10, (60, *SHAPE)))
    cascade = Cascade(members)
    labels = cascade.predict(x, epsilon=0.03).prediction
    found = attack_cascade(cascade, x, labels, epsilon=0.03, steps=40)
    assert found.share_fallen > 0
    assert found.claimed_vra > found.vra_left
    fell = found.falls
    news = cascade.predict(found.examples[fell], epsilon=0.03)
    assert (news.prediction != labels[fell]).all()
    far = np.linalg.norm(
        (found.examples[fell].astype(float) - x[fell]).reshape(fell.sum(), -1), axis=1
    )
    assert (far < 0.03).all()
    alone = attack_cascade(Cascade(members[:1]), x, labels, epsilon=0.03, steps=40)
    assert not (alone.falls & alone.is_claimed & alone.is_correct).any()  # one member is sound


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Voting([]), "at least one member"),
        (lambda m: Voting(m, weights=[1, -1, 1]), "at least 0 and not all 0"),
        (lambda m: Voting(m, weights=[0, 0, 0]), "not all 0"),
        (lambda m: Voting(m, weights=[1, np.nan, 1]), "finite"),
        (lambda m: Voting(m, weights=[1, 2]), "one weight for each of 3 members"),
        (lambda m: SoftVoting(m, weights=[1, -1, 1]), "at least 0"),
        (lambda m: Voting([m[0], member(1, classes=3)]), "Member 1 of Voting has 3 classes"),
        (lambda m: Cascade([m[0], member(1, shape=(8, 8, 1))]), r"takes images \(8, 8, 1\)"),
        (
            lambda m: Voting(m[:2], class_names=[["a", "b", "c", "d"], ["a", "c", "b", "d"]]),
            "Class 1 of member 1 of Voting is 'c', and that of member 0 'b'",
        ),
        (lambda m: Voting(m[:2], class_names=[["a"], ["b"]]), "names of each of 2 members"),
    ],
)
def test_members_that_do_not_fit_are_refused(make, message, members):
    with pytest.raises(ValueError, match=message):
        make(members)


def test_what_is_no_member_is_refused(members, untyped):
    with pytest.raises(TypeError, match=r"Member 1 of Voting is a function"):
        Voting([members[0], lambda x: x])
    with pytest.raises(TypeError, match="looks at numbers on the host"):
        jax.jit(lambda x: Voting(members).certify(x, epsilon=0.1).radius)(
            draws.uniform(1, (1, *SHAPE))
        )
    with pytest.raises(TypeError, match="counted for one FrozenNet"):
        gj.evaluation.verified_robust_accuracy(
            SoftVoting(members), [(np.zeros((1, *SHAPE), np.float32), [0])], epsilon=0.1,
            guarantee=gj.guarantees.TopK(2),
        )  # fmt: skip
