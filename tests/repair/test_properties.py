"""Orders, preconditions and the text that says them."""

import itertools

import numpy as np
import pytest

from gloro_jax.repair import (
    AllOf,
    Always,
    InBox,
    Order,
    PredictedIn,
    Property,
    Repair,
    SumIn,
    all_of,
    below,
    is_maximal,
    is_minimal,
    is_not_maximal,
    is_not_minimal,
    parse,
)
from gloro_jax.repair.orders import cycle_in


def holds(order, values):
    return any(all(values[a] < values[b] for a, b in choice) for choice in order.choices)


def test_orders_say_what_their_names_say():
    m = 4
    for values in itertools.permutations(range(m)):
        for label in range(m):
            assert holds(is_maximal(label, num_classes=m), values) == (values[label] == m - 1)
            assert holds(is_minimal(label, num_classes=m), values) == (values[label] == 0)
            assert holds(is_not_maximal(label, num_classes=m), values) == (values[label] < m - 1)
            assert holds(is_not_minimal(label, num_classes=m), values) == (values[label] > 0)
        a, b, c = values[:3]
        assert holds(below(0, 1, 2), values) == (a < b < c)
        both = (below(0, 1) | below(2, 3)) & (below(1, 2) | below(3, 0))
        expected = (a < b or values[2] < values[3]) and (b < c or values[3] < values[0])
        assert holds(both, values) == expected


def test_circles_are_found_and_named():
    rng = np.random.default_rng(0)
    for _ in range(300):
        pairs = {tuple(rng.permutation(5)[:2].tolist()) for _ in range(rng.integers(1, 7))}
        circle = cycle_in(pairs)
        is_possible = any(
            all(order[a] < order[b] for a, b in pairs) for order in itertools.permutations(range(5))
        )
        assert bool(circle) != is_possible
        assert all(pair in pairs for pair in zip(circle, [*circle[1:], *circle[:1]], strict=True))


def test_text_says_what_python_does():
    found = parse(
        """
        # comments and empty lines are nothing

        always: y0 < y1 < y2 or not max y3   # two ways
        x[0] in [0.25, 0.5], x[3] >= 1: max y1
        sum x <= 3, class in {0, 2}: min y1 and y2 > y3
        """,
        num_classes=4,
    )
    m = {"num_classes": 4}
    assert found == (
        Property(Always(), below(0, 1, 2) | is_not_maximal(3, **m)),
        Property(AllOf([InBox([(0, 0.25, 0.5)]), InBox([(3, 1.0, np.inf)])]), is_maximal(1, **m)),
        Property(
            AllOf([SumIn(-np.inf, 3.0), PredictedIn([0, 2])]),
            all_of(is_minimal(1, **m), below(3, 2)),
        ),
    )


@pytest.mark.parametrize("seed", range(4))
def test_no_truth_changes_within_its_distance_and_some_does_beyond(seed):
    rng = np.random.default_rng(seed)
    d = 1 + seed
    x = rng.uniform(-1, 2, (200, d)).astype(np.float32)
    box = InBox.between(np.zeros(d), rng.uniform(0.5, 1.5, d))
    some = SumIn(0.0, float(d) / 2, features=range(d))
    prediction = np.zeros(200, int)
    for when in (box, some, AllOf([box, some])):
        distance = when.distance(x)
        truth = np.asarray(when.holds(x, prediction))
        changed = np.zeros(200, bool)
        for _ in range(300):
            step = rng.standard_normal(x.shape)
            step /= np.linalg.norm(step, axis=1, keepdims=True)
            for reach, is_inside in ((0.9999, True), (1.3, False)):
                moved = (x + reach * distance[:, None] * step).astype(np.float32)
                is_other = np.asarray(when.holds(moved, prediction)) != truth
                if is_inside:
                    assert not is_other[distance > 1e-2].any()
                changed |= is_other
        if not isinstance(when, AllOf):
            assert changed.mean() > 0.5
    assert np.isinf(PredictedIn([0]).distance(x)).all()
    assert np.isinf(Always().distance(x)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: below(0, 1, 0), "y0 < y1 < y0 is a circle"),
        (lambda: below(1), "at least two classes"),
        (lambda: Order(()), "at least one choice"),
        (lambda: below(-1, 2), "numbers from 0 on"),
        (lambda: below(0, 1) & below(1, 0), "y0 < y1 < y0 is a circle"),
        (lambda: is_maximal(4, num_classes=4), "none of 4 classes"),
        (
            lambda: Repair([Property(Always(), below(0, 1)), Property(Always(), below(1, 0))], 2),
            "always speak contradict each other.*y0 < y1 < y0",
        ),
        (lambda: Repair([Property(Always(), below(0, 5))], 3), "orders class 5"),
        (lambda: Repair([Property(PredictedIn([7]), below(0, 1))], 3), "PredictedIn names class 7"),
        (
            lambda: Repair([Property(InBox([(9, 0, 1)]), below(0, 1))], 2)(
                np.zeros((1, 3)), np.zeros((1, 2))
            ),
            r"names x\[9\], and inputs have 3 features",
        ),
        (
            lambda: Repair([Property(Always(), is_not_maximal(0, num_classes=9))] * 5, 9),
            "32768 combinations of choices",
        ),
        (lambda: Repair([], 3)(np.zeros((2, 1)), np.zeros((2, 4))), r"Scores are \(n, 3\)"),
        (lambda: InBox([(0, 1.0, 0.0)]), "a lower and an upper one"),
        (lambda: SumIn(float("nan"), 1.0), "a lower and an upper one"),
        (lambda: InBox([(-1, 0.0, 1.0)]), "whole numbers from 0 on"),
        (lambda: parse("always y0 < y1", num_classes=2), "Line 1.*with a colon"),
        (lambda: parse("\nx[a] < 1: y0 < y1", num_classes=2), "Line 2.*where it speaks is always"),
        (lambda: parse("always: y0 < 1", num_classes=2), "an order is y0 < y1 < y2"),
        (lambda: parse("always: y0 < y1 < y0", num_classes=2), "Line 1.*circle"),
        (lambda: parse("always: max y5", num_classes=2), "Line 1.*there is no y5: scores"),
    ],
)
def test_bad_properties_are_refused_and_circles_named(make, message, untyped):
    with pytest.raises(ValueError, match=message):
        make()
