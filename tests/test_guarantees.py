"""Relaxed guarantees against their definition: all subsets of classes, one by one."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import guarantees, losses, margins
from gloro_jax.guarantees import Affinity, TopK
from gloro_jax.models import GloroCNN
from tests import draws

EPSILON, K = 0.25, 1.5
_set_certificate = jax.jit(guarantees.set_certificate, static_argnames=("guarantee", "epsilon"))


def set_certificate(logits, guarantee, *, epsilon):
    """As NumPy arrays, by one program instead of one for each operation."""
    return jax.tree.map(np.asarray, _set_certificate(logits, guarantee, epsilon=epsilon))


def logits_of(seed, *, count=60, m=5):
    """Random scores and constants; small integers with ties and zeros for odd seeds."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, m))
    rows = rng.normal(size=(m, 3))
    if seed % 2:
        values, rows = rng.integers(-2, 3, values.shape), rng.integers(-1, 2, rows.shape)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    as_float = [jnp.asarray(np.float32(array)) for array in (values, distances)]
    return gj.GloroLogits(as_float[0], gj.UpperBound(K), as_float[1])


def by_definition(logits, is_candidate):
    """For each point, {set: (slack, radius)} of the candidates that are sets of highest classes."""
    values, distances = (np.asarray(a, float) for a in (logits.values, logits.head_distances))
    found = []
    for y in values:
        sets = {}
        for k in range(1, len(y)):
            for inside in itertools.combinations(range(len(y)), k):
                outside = set(range(len(y))) - set(inside)
                pairs = [(a, i) for a in inside for i in outside]
                if is_candidate(set(inside)) and all(y[a] >= y[i] for a, i in pairs):
                    slack = min(y[a] - y[i] - EPSILON * K * distances[a, i] for a, i in pairs)
                    reach = [(y[a] - y[i], K * distances[a, i]) for a, i in pairs]
                    radius = min(d / r if r else (np.inf if d > 0 else 0.0) for d, r in reach)
                    sets[frozenset(inside)] = (slack, radius)
        found.append(sets)
    return found


def random_sets(seed, m):
    rng = np.random.default_rng(seed)
    return tuple(
        tuple(rng.choice(m, rng.integers(1, m + 1), replace=False))
        for _ in range(rng.integers(1, 5))
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["top-k", "affinity"])
def test_sets_k_slacks_and_radii_are_those_of_the_definition(seed, kind):
    m = 3 + seed % 4
    logits = logits_of(seed, m=m)
    guarantee = TopK(1 + seed % (m - 1)) if kind == "top-k" else Affinity(random_sets(seed, m))
    if kind == "top-k":
        candidates = by_definition(logits, lambda inside: len(inside) <= guarantee.k)
    else:
        sets = [set(one) for one in guarantee.sets]
        candidates = by_definition(logits, lambda inside: any(inside <= one for one in sets))
    certificate = set_certificate(logits, guarantee, epsilon=EPSILON)
    checked = 0
    for i, sets in enumerate(candidates):
        chosen = frozenset(np.flatnonzero(certificate.classes[i]))
        assert len(chosen) == certificate.k[i]
        assert certificate.is_certified[i] == (certificate.slack[i] > 0)
        slack, radius = float(certificate.slack[i]), float(certificate.radius[i])
        largest = max((len(one) for one, (s, _) in sets.items() if s > 1e-5), default=0)
        if largest or certificate.is_certified[i]:
            assert certificate.is_certified[i]
            assert len(chosen) >= largest
            assert sets[chosen][0] > 0
            assert sets[chosen][0] - 1e-5 < slack <= sets[chosen][0]
        elif chosen in sets:  # none is certified: the one of the largest radius
            best = max(r for _, r in sets.values())
            assert sets[chosen][1] == pytest.approx(best, rel=1e-5, abs=1e-30)
        else:  # none is a candidate
            assert (radius, slack) == (0.0, -np.inf) or not sets[min(sets)][1]
            continue
        if np.isfinite(sets[chosen][1]):
            assert sets[chosen][1] * (1 - 1e-5) <= radius <= sets[chosen][1]
        checked += 1
    assert checked > len(candidates) // 3


@pytest.mark.parametrize("seed", range(4))
def test_one_class_is_the_strict_guarantee_bit_for_bit(seed):
    logits = logits_of(seed, count=300)
    slack = margins.certified_slack(logits, epsilon=EPSILON)
    for guarantee in (TopK(1), Affinity(tuple((i,) for i in range(5)))):
        found = set_certificate(logits, guarantee, epsilon=EPSILON)
        np.testing.assert_array_equal(found.slack, slack)
        np.testing.assert_array_equal(found.radius, gj.certified_radius(logits))
        np.testing.assert_array_equal(found.classes, jax.nn.one_hot(logits.prediction, 5))


def test_each_guarantee_is_within_the_next():
    for seed in range(4):
        logits = logits_of(seed, count=300, m=6)
        kept = [set_certificate(logits, TopK(k), epsilon=EPSILON) for k in range(1, 6)]
        for tighter, looser in itertools.pairwise(kept):
            assert (tighter.is_certified <= looser.is_certified).all()
            assert (tighter.radius <= looser.radius).all() or (looser.k > tighter.k).any()
            label = np.random.default_rng(seed).integers(6, size=300)
            held = [c.is_certified & c.classes[np.arange(300), label] for c in (tighter, looser)]
            assert (held[0] <= held[1]).all()


def test_nothing_is_certified_of_numbers_that_are_none():
    logits = logits_of(0, count=3)
    for bad in (np.nan, np.inf, -np.inf):
        values = np.array(logits.values)
        values[0, 4] = bad
        spoilt = dataclasses.replace(logits, values=jnp.asarray(values))
        found = set_certificate(spoilt, TopK(4), epsilon=1e-6)
        assert not found.is_certified[0]
        assert found.radius[0] == 0
        assert found.is_certified[1]
    estimate = gj.GloroLogits(logits.values, gj.Estimate(K), logits.head_distances)
    with pytest.raises(TypeError, match="power iteration errs low"):
        set_certificate(estimate, TopK(2), epsilon=EPSILON)


@pytest.fixture(scope="module")
def frozen():
    net = GloroCNN(convs=((8, 3, 1), (8, 4, 2)), dense=(16,), num_classes=6).build()
    x = draws.uniform(1, (4, 8, 8, 1))
    variables = draws.init(net, 0, x, norms=gj.PowerIteration(steps=5))
    return gj.freeze(net, variables, input_shape=(8, 8, 1))


def test_certify_is_what_the_definition_says_of_a_network(frozen):
    x = draws.uniform(3, (40, 8, 8, 1))
    for guarantee in (TopK(3), Affinity(((0, 1, 2), (3, 4), (5,)))):
        found = gj.certify(frozen, x, epsilon=0.01, guarantee=guarantee)
        again = set_certificate(frozen(x), guarantee, epsilon=0.01)
        for name, one, other in zip(found._fields, found, again, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7, err_msg=name)
        inside = jax.jit(lambda x, g=guarantee: gj.certify(frozen, x, epsilon=0.01, guarantee=g))(x)
        np.testing.assert_array_equal(inside.classes, found.classes)
    strict = gj.certify(frozen, x, epsilon=0.01)
    same = gj.certify(frozen, x, epsilon=0.01, guarantee=TopK(1))
    np.testing.assert_array_equal(strict.radius, same.radius)
    np.testing.assert_array_equal(strict.slack, same.slack)
    huge = gj.certify(frozen, jnp.full((1, 8, 8, 1), 1e30), epsilon=0.01, guarantee=TopK(3))
    assert not huge.is_certified.any()
    assert not huge.radius.any()


def test_no_attack_changes_a_certified_set(frozen):
    x = np.asarray(draws.uniform(5, (24, 8, 8, 1)))
    report = gj.evaluation.verified_robust_accuracy(
        frozen, [(x, np.zeros(24, int))], epsilon=0.01, guarantee=TopK(3)
    )
    assert (report.k > 1).any()
    inside = gj.evaluation.attack(frozen, x, radii=report.radii, sets=report.sets, steps=20)
    assert inside.successes == 0
    # The attack is one: beyond the certified radius it does change sets.
    beyond = gj.evaluation.attack(frozen, x, radii=4.0, sets=report.sets, steps=20)
    assert beyond.successes > 12
    changed = np.flatnonzero(beyond.is_success)
    values = np.asarray(frozen(beyond.examples[changed]).values)
    inside = report.sets[changed]
    lowest = np.where(inside, values, np.inf).min(axis=1)
    assert (np.where(inside, -np.inf, values).max(axis=1) >= lowest - 1e-6).all()


def test_vra_counts_labels_in_certified_sets(frozen):
    x = draws.uniform(6, (50, 8, 8, 1))
    labels = np.asarray(np.random.default_rng(7).integers(6, size=50))
    found = gj.certify(frozen, x, epsilon=0.02, guarantee=TopK(3))
    report = gj.evaluation.verified_robust_accuracy(
        frozen, [(np.asarray(x), labels)], epsilon=0.02, guarantee=TopK(3)
    )
    held = np.asarray(found.classes)[np.arange(50), labels] & np.asarray(found.is_certified)
    assert report.vra == held.mean() > 0
    np.testing.assert_array_equal(report.k, found.k)
    np.testing.assert_array_equal(report.predictions, frozen(x).prediction)


def test_the_losses_lift_the_score_of_sets():
    """By hand: scores 3, 2.5, 0 with K_ij = 1; at epsilon 1 only {0, 1} is certified."""
    distances = 1 - jnp.eye(3)
    logits = gj.GloroLogits(jnp.array([[3.0, 2.5, 0.0]]), gj.Estimate(1.0), distances)
    label = jnp.array([1])
    strict = guarantees.bottom_logit(logits, epsilon=1.0, guarantee=None)
    relaxed = guarantees.bottom_logit(logits, epsilon=1.0, guarantee=TopK(2))
    np.testing.assert_allclose([strict[0], relaxed[0]], [3.5, 3 - 1.5], rtol=1e-6)
    together = Affinity(((0,), (1, 2)))  # {0, 1} is no candidate
    apart = guarantees.bottom_logit(logits, epsilon=1.0, guarantee=together)
    np.testing.assert_allclose(apart, strict, rtol=1e-6)
    loss = losses.gloro_cross_entropy(logits, label, epsilon=1.0, guarantee=TopK(2))
    expected = np.log(np.exp([3.0, 2.5, 0.0, 1.5]).sum()) - 2.5
    np.testing.assert_allclose(loss[0], expected, rtol=1e-6)
    for name in ("trades_kl", "trades_ce"):
        fn = getattr(losses, name)
        pair = [fn(logits, label, epsilon=1.0, weight=1.0, guarantee=g)[0] for g in (None, TopK(2))]
        both = np.log1p(np.exp(np.array([3.5, 1.5]) - np.log(np.exp([3, 2.5, 0]).sum())))
        np.testing.assert_allclose(pair[0] - pair[1], both[0] - both[1], rtol=1e-5)
    is_verified = [
        guarantees.is_verified(logits, label, epsilon=1.0, guarantee=g)[0]
        for g in (None, TopK(2), together)
    ]
    assert is_verified == [False, True, False]


def test_gradients_of_relaxed_losses_are_finite_also_at_ties():
    @functools.partial(jax.jit, static_argnames="guarantee")
    def loss(values, guarantee):
        logits = gj.GloroLogits(values, gj.Estimate(1.0), 1 - jnp.eye(4))
        return losses.gloro_cross_entropy(
            logits, jnp.zeros(3, int), epsilon=0.5, guarantee=guarantee
        ).sum()

    values = jnp.array([[0.0, 0, 0, 0], [1, 1, 0, 0], [3, 2, 1, 0.5]])
    for guarantee in (TopK(2), TopK(3), Affinity(((0, 1), (2,), (3,)))):
        gradient = jax.grad(loss)(values, guarantee)
        assert jnp.isfinite(gradient).all()
        step = 1e-3 * draws.normal(2, (3, 4)).at[:2].set(0)
        along = (loss(values + step, guarantee) - loss(values - step, guarantee)) / 2
        np.testing.assert_allclose(along, jnp.sum(gradient * step), rtol=1e-2, atol=1e-6)


def test_words():
    for words in ("top-5", "[0][1,2,3]", "[4,5][0]"):
        assert str(guarantees.parse(words)) == words
    assert guarantees.parse("strict") is None
    assert guarantees.parse(" [ 3 , 1 ] [2] ") == Affinity([[1, 3], [2]])
    sets = guarantees.parse("cifar100-superclasses").sets
    assert len(sets) == 20
    assert sorted(itertools.chain(*sets)) == list(range(100))
    assert (4, 30, 55, 72, 95) in sets  # beaver, dolphin, otter, seal, whale


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), "k is a whole number of at least 1, got 0"),
        (lambda: TopK(True), "k is a whole number"),
        (lambda: TopK(2.5), "k is a whole number"),
        (lambda: TopK(5).check(5), "k from 1 to 4"),
        (lambda: Affinity(()), "at least one set"),
        (lambda: Affinity(((0,), ())), "at least one class, and one is empty"),
        (lambda: Affinity(((0, -1),)), "A class is a whole number of at least 0, got -1"),
        (lambda: Affinity("[0]"), "takes sets of class numbers"),
        (lambda: Affinity((0, 1)), "is a list of class numbers"),
        (lambda: Affinity(((0, 7),)).check(5), "names class 7, and the network has classes 0 to 4"),
        (lambda: guarantees.parse("top5"), "A guarantee is strict, top-5"),
        (lambda: guarantees.parse("[0][1"), "A guarantee is strict, top-5"),
        (
            lambda: losses.gloro_cross_entropy(
                logits_of(0), jnp.zeros(60, int), epsilon=1.0, guarantee=Affinity(((0, 1), (3,)))
            ),
            r"Classes \[2, 4\] are in no affinity set",
        ),
        (lambda: gj.training.TrainConfig(0.1, 1, guarantee="top-2"), "centres on the label"),
    ],
)
def test_bad_guarantees_are_refused(make, message, untyped):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_guarantee_that_is_none_is_refused(frozen, untyped):
    for bad in (3, "top-3", TopK):
        with pytest.raises(TypeError, match=r"TopK\(k\)"):
            gj.certify(frozen, draws.uniform(1, (1, 8, 8, 1)), epsilon=0.1, guarantee=bad)
    with pytest.raises(ValueError, match="k from 1 to 5"):
        gj.certify(frozen, draws.uniform(1, (1, 8, 8, 1)), epsilon=0.1, guarantee=TopK(6))
