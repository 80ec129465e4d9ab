"""Selective ensembles: theorem 4.1 and its corollaries, simulated; the binomial test, exactly."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gloro_jax.ensembles import Selective, ssim, top_overlap
from gloro_jax.ensembles.consistency import spearman
from gloro_jax.ensembles.selective import p_value, select
from tests import draws
from tests.ensembles.members import CLASSES, SHAPE, member

ALPHA = 0.05


def simulated(chances, *, members, ensembles, seed):
    """Votes (members, ensembles) of models whose class is drawn from `chances`."""
    rng = np.random.default_rng(seed)
    return rng.choice(len(chances), (members, ensembles), p=chances)


@pytest.mark.parametrize("members", [6, 10, 20])
@pytest.mark.parametrize(
    "chances", [(0.5, 0.5), (0.51, 0.49), (0.6, 0.3, 0.1), (0.34, 0.33, 0.33), (0.9, 0.1)]
)
def test_an_answer_is_not_the_modes_with_probability_alpha_at_most(members, chances):
    """10,000 ensembles: the one-sided 99 % bound of what was wrong and confident is tested."""
    found = select(
        simulated(chances, members=members, ensembles=10_000, seed=members),
        num_classes=len(chances),
        alpha=ALPHA,
    )
    is_mode = found.prediction == 0
    if chances[0] == chances[1]:  # either is a mode
        is_mode |= found.prediction == 1
    wrong = int((~found.is_abstaining & ~is_mode).sum())
    least = scipy.stats.beta.ppf(0.01, wrong, 10_000 - wrong + 1) if wrong else 0.0
    assert least <= ALPHA


def test_two_ensembles_that_answer_differ_with_probability_two_alpha_at_most():
    """The union bound, and corollary 4.3: counting abstention, at most 2 (alpha + beta)."""
    for chances, members in itertools.product([(0.55, 0.45), (0.8, 0.1, 0.1)], (10, 20)):
        pair = [
            select(
                simulated(chances, members=members, ensembles=10_000, seed=s),
                num_classes=len(chances),
                alpha=ALPHA,
            )
            for s in (1, 2)
        ]
        differ = pair[0].prediction != pair[1].prediction
        both = ~pair[0].is_abstaining & ~pair[1].is_abstaining
        assert (differ & both).mean() <= 2 * ALPHA
        beta = max(one.is_abstaining.mean() for one in pair)
        assert differ.mean() <= 2 * (ALPHA + beta) + 0.01


def test_the_test_is_the_two_sided_binomial_one():
    for first, second in itertools.product(range(1, 21), range(21)):
        if second <= first:
            expected = scipy.stats.binomtest(first, first + second, 0.5).pvalue
            assert float(p_value(first, second)) == pytest.approx(expected, rel=1e-9)
    assert p_value(4, 4) == 1


def test_five_members_always_abstain_and_others_need_the_published_majorities():
    for members, least in {5: None, 6: 6, 8: 8, 10: 9, 12: 10, 15: 12, 20: 15}.items():
        votes = np.array([[0] * k + [1] * (members - k) for k in range(members + 1)]).T
        found = select(votes, num_classes=2, alpha=ALPHA)
        answered = [k for k in range(members // 2 + 1, members + 1) if found.prediction[k] == 0]
        assert (min(answered) if answered else None) == least
        assert found.is_abstaining.all() == (least is None)


def test_only_the_first_two_classes_enter():
    votes = np.array([[0] * 8 + [1] * 1 + [2] * 1 + [3] * 1]).T
    found = select(votes, num_classes=5, alpha=ALPHA)
    assert (found.first[0], found.second[0]) == (8, 1)
    assert found.p_value[0] == pytest.approx(scipy.stats.binomtest(8, 9, 0.5).pvalue)
    assert found.prediction[0] == 0


def test_members_vote_and_attributions_are_means():
    members = [member(seed) for seed in range(2)]
    x = draws.uniform(1, (12, *SHAPE))
    functions = [lambda v, one=one: one(v).values for one in members]
    found = Selective(members * 4).predict(x)
    again = Selective(functions * 4).predict(x)
    np.testing.assert_array_equal(found.prediction, again.prediction)
    agree = np.asarray(members[0](x).prediction == members[1](x).prediction)
    np.testing.assert_array_equal(found.is_abstaining, ~agree)  # 8 of 8, or 4 against 4
    mean = Selective(members).attributions(x)
    step = 1e-3 * draws.normal(2, x.shape)
    for i in range(4):
        gain = [
            sum(float(one(x[i] + s * step[i]).values.max()) for one in members) / 2 for s in (1, -1)
        ]
        along = float(jnp.sum(mean[i] * step[i]))
        assert along == pytest.approx((gain[0] - gain[1]) / 2, rel=0.05, abs=2e-5)
    assert np.asarray(members[0](x).values).shape[1] == CLASSES


def test_consistency_measures():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 12, 12, 1))
    expected = [
        scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(spearman(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(spearman(a, np.exp(a)), 1.0)
    assert top_overlap(a, a, k=5).tolist() == [1.0] * 5
    assert top_overlap(np.eye(3)[None, :1], np.eye(3)[None, 1:2], k=1).tolist() == [0.0]
    np.testing.assert_allclose(ssim(a, a), 1.0)
    np.testing.assert_allclose(ssim(a, b), ssim(b, a))
    assert (ssim(a, b) < 0.5).all()
    assert (ssim(a, a + 0.01 * b) > 0.9).all()
    with pytest.raises(ValueError, match="k is from 1 to the number of features"):
        top_overlap(a, b, k=1000)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, float("nan")])
def test_alpha_is_a_probability(alpha):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        Selective([lambda x: x], alpha=alpha)


def test_bad_members_and_votes():
    with pytest.raises(ValueError, match="at least one member"):
        Selective([])
    with pytest.raises(ValueError, match="scores have shapes"):
        Selective([lambda x: np.zeros((2, 3)), lambda x: np.zeros((2, 4))]).predict(
            np.zeros((2, 1))
        )
    with pytest.raises(ValueError, match="classes from 0 to 1"):
        select(np.array([[2]]), num_classes=2, alpha=0.05)
