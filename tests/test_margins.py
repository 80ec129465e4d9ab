"""Margins: the formula, its rounding, its fail-closed corners, an exact reference classifier."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.margins import as_epsilon, certified_slack, head_distance_bounds, head_distances
from gloro_jax.models import nearest_set_logits
from tests.draws import normal, uniform


def logits(values, bound=2.0, distances=None):
    values = jnp.asarray(values, jnp.float32)
    m = values.shape[-1]
    if distances is None:
        distances = 1.0 - jnp.eye(m)
    return gj.GloroLogits(values, gj.UpperBound(bound), jnp.asarray(distances, jnp.float32))


def test_bottom_logit_and_radius_by_hand():
    distances = [[0, 1, 4], [1, 0, 2], [4, 2, 0]]
    y = logits([[3.0, 2.0, 0.0]], bound=2.0, distances=distances)
    # Lifts at epsilon 0.25: class 1 by 0.25 * 2 * 1, class 2 by 0.25 * 2 * 4.
    assert gj.bottom_logit(y, epsilon=0.25)[0] == pytest.approx(max(2.5, 2.0), rel=1e-6)
    assert gj.certified_radius(y)[0] == pytest.approx(min(1 / 2, 3 / 8), rel=1e-6)
    assert certified_slack(y, epsilon=0.25)[0] == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(
    "values",
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [np.nan, 1.0, 0.0], [np.inf, 1.0, 0.0],
     [1.0, -np.inf, 0.0], [np.inf, np.inf, 0.0], [np.nan] * 3],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("bound", [2.0, 0.0])
def test_ties_nan_and_infinities_are_not_certified(values, bound):
    y = logits([values], bound=bound)
    assert gj.certified_radius(y)[0] == 0
    assert not certified_slack(y, epsilon=1e-6)[0] > 0


NO_BOUNDS = [np.nan, np.inf, -np.inf, -5.0]


@pytest.mark.parametrize("bound", NO_BOUNDS)
@pytest.mark.parametrize("kind", [float, np.float32, jnp.float32], ids=str)
def test_a_concrete_number_that_is_no_bound_is_refused_where_made_and_where_used(bound, kind):
    with pytest.raises(ValueError, match=r"finite number of at least 0, got (nan|inf|-inf|-5)"):
        gj.UpperBound(kind(bound))
    y = logits([[5.0, 1.0]], bound=1.0)
    y = dataclasses.replace(y, lipschitz=jax.tree.map(lambda _: kind(bound), y.lipschitz))
    for use in (gj.certified_radius, lambda y: certified_slack(y, epsilon=1e-6)):
        with pytest.raises(ValueError, match="finite number of at least 0"):
            use(y)


@pytest.mark.parametrize("bound", NO_BOUNDS)
def test_a_traced_number_that_is_no_bound_certifies_nothing(bound):
    @jax.jit
    def certified(bound):
        y = logits([[5.0, 1.0]], bound=bound)
        return gj.certified_radius(y)[0], certified_slack(y, epsilon=1e-6)[0]

    radius, slack = certified(jnp.float32(bound))
    assert radius == 0
    assert not slack > 0
    assert certified(jnp.float32(1))[0] > 0


@pytest.mark.parametrize("bound", NO_BOUNDS)
def test_head_distances_that_are_no_bounds_certify_nothing(bound):
    y = logits([[5.0, 1.0]], bound=1.0)
    y = dataclasses.replace(y, head_distances=y.head_distances.at[0, 1].set(bound))
    assert gj.certified_radius(y)[0] == 0
    assert not certified_slack(y, epsilon=1e-6)[0] > 0


@pytest.mark.parametrize("value", [1j, True, "3", None, np.ones(2), gj.Estimate(1.0)], ids=repr)
def test_a_bound_is_one_real_number(value):
    with pytest.raises(TypeError, match="one real number"):
        gj.UpperBound(value)


def test_a_bound_in_float64_is_rounded_up_wherever_it_is_used():
    exact = np.nextafter(np.float64(np.float32(1.1)), 2)
    for bound in (exact, np.array(exact), float(exact)):
        y = logits([[1.0, 0.0]], bound=bound)
        assert float(gj.certified_radius(y)[0]) * exact <= 1 / float(y.head_distances[0, 1])


def test_a_constant_network_is_certified_everywhere_unless_it_ties():
    y = logits([[2.0, 1.0], [1.0, 1.0]], bound=0.0)
    assert gj.certified_radius(y)[0] == np.inf
    assert gj.certified_radius(y)[1] == 0


def test_the_predicted_class_is_masked_by_index_not_by_value():
    # Published: setting every logit equal to the largest to -inf certifies a tie
    # (klasleino/gloro issue 9).
    y = logits([[1.0, 1.0, 0.0]])
    assert gj.bottom_logit(y, epsilon=1e-3)[0] > 1.0


def test_equal_head_columns_give_a_tie_and_not_an_infinite_radius():
    distances = [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert gj.certified_radius(logits([[1.0, 1.0, 0.0]], distances=distances))[0] == 0


def test_radius_and_slack_never_exceed_their_exact_values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 5)).astype(np.float32)
    rows = np.abs(rng.normal(size=(5, 5))).astype(np.float32)
    rows = np.maximum(rows, rows.T) * (1 - np.eye(5, dtype=np.float32))
    y = logits(values, bound=float(np.float32(1.7)), distances=rows)
    epsilon = float(np.float32(0.3))
    radii, slacks = gj.certified_radius(y), certified_slack(y, epsilon=epsilon)
    for v, radius, slack in zip(values, radii, slacks, strict=True):
        j = int(v.argmax())
        others = [i for i in range(5) if i != j]
        margins = {i: Fraction(float(v[j])) - Fraction(float(v[i])) for i in others}
        constants = {
            i: Fraction(float(np.float32(1.7))) * Fraction(float(rows[i, j])) for i in others
        }
        assert Fraction(float(radius)) <= min(margins[i] / constants[i] for i in others)
        assert Fraction(float(slack)) <= min(
            margins[i] - Fraction(epsilon) * constants[i] for i in others
        )
        assert not (slack > 0 and radius < epsilon * (1 - 1e-5))


def test_estimates_never_certify():
    y = gj.GloroLogits(jnp.ones((1, 2)), gj.Estimate(jnp.float32(1.0)), 1.0 - jnp.eye(2))
    with pytest.raises(TypeError, match="needs an UpperBound"):
        gj.certified_radius(y)
    with pytest.raises(TypeError, match="needs an UpperBound"):
        certified_slack(y, epsilon=0.1)


def test_head_distances_and_their_gradient_at_equal_columns():
    kernel = normal(0, (6, 4)).at[:, 1].set(0.5).at[:, 2].set(0.5)
    expected = np.linalg.norm(
        np.asarray(kernel)[:, :, None] - np.asarray(kernel)[:, None, :], axis=0
    )
    np.testing.assert_allclose(head_distances(kernel), expected, rtol=1e-5)
    gradient = jax.grad(lambda k: head_distances(k).sum())(kernel)
    assert jnp.isfinite(gradient).all()
    assert not jax.grad(lambda k: head_distances(k).sum())(jnp.zeros((3, 2))).any()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_head_distance_bounds_are_above_the_exact_distances(scale):
    kernel = (np.random.default_rng(0).normal(size=(20, 6)) * scale).astype(np.float32)
    bounds = head_distance_bounds(kernel)
    columns = [[Fraction(float(v)) for v in column] for column in kernel.T]
    for i in range(6):
        for j in range(6):
            square = sum((a - b) ** 2 for a, b in zip(columns[i], columns[j], strict=True))
            assert square <= Fraction(bounds[i, j]) ** 2 <= square * (1 + Fraction(1, 10**12))


@pytest.mark.parametrize("bad", [0, 0.0, -0.5, float("nan"), float("inf")])
def test_epsilon_is_positive_and_finite(bad):
    with pytest.raises(ValueError, match="epsilon is an l2 radius, positive and finite"):
        as_epsilon(bad)


def test_epsilon_is_one_number_and_is_rounded_up():
    with pytest.raises(ValueError, match="epsilon is one number"):
        as_epsilon(jnp.ones(3))
    for radius in [36 / 255, *(k / 10 for k in range(1, 30))]:  # 0.7 is above its nearest float32
        for rounded in (as_epsilon(radius), jax.jit(as_epsilon)(radius)):
            assert radius <= float(rounded) <= radius * (1 + 1e-6)


class TestNearestSet:
    """K_ij = 1 exactly, so every constant of the margin formula shows."""

    @pytest.fixture
    def sets(self):
        rng = np.random.default_rng(0)
        points = rng.uniform(size=(40, 2)).astype(np.float32)
        labels = np.arange(40, dtype=np.int32) % 3
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
        gaps[labels[:, None] == labels[None]] = np.inf
        return jnp.asarray(points), jnp.asarray(labels), gaps

    def test_the_radius_is_half_the_distance_to_the_nearest_other_class(self, sets):
        points, labels, gaps = sets
        y = nearest_set_logits(points, points=points, labels=labels, num_classes=3)
        np.testing.assert_array_equal(y.prediction, labels)
        np.testing.assert_allclose(gj.certified_radius(y), gaps.min(axis=1) / 2, rtol=1e-5)

    def test_every_point_is_certified_below_half_the_separation_and_not_above(self, sets):
        points, labels, gaps = sets
        y = nearest_set_logits(points, points=points, labels=labels, num_classes=3)
        separation = gaps.min()
        assert (certified_slack(y, epsilon=0.499 * separation) > 0).all()
        closest = np.unravel_index(gaps.argmin(), gaps.shape)
        assert not (certified_slack(y, epsilon=0.501 * separation) > 0)[jnp.asarray(closest)].any()

    def test_differences_of_its_scores_are_one_lipschitz(self, sets):
        points, labels, _ = sets
        a, b = uniform(0, (2, 200, 2))
        ya, yb = (
            nearest_set_logits(x, points=points, labels=labels, num_classes=3).values
            for x in (a, b)
        )
        moved = (ya[:, :, None] - ya[:, None, :]) - (yb[:, :, None] - yb[:, None, :])
        distance = jnp.linalg.norm(a - b, axis=-1)[:, None, None]
        assert (jnp.abs(moved) <= distance * (1 + 1e-5)).all()


def far_and_near_heads(m=40, d=30):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((m, d)).astype(np.float32)
    rows[1] = rows[0]
    rows[3] = rows[2] * np.float32(1 + 1e-7)
    rows[5] = rows[4] + np.float32(0.05)
    return rows.T


def test_distances_of_many_classes_agree_with_float64_in_value_and_gradient(monkeypatch):
    kernel, weight = far_and_near_heads(), np.random.default_rng(1).random((40, 40))
    rows = kernel.T.astype(np.float64)
    differences = rows[:, None] - rows[None]
    exact = np.linalg.norm(differences, axis=-1)
    far = exact > 1e-3 * np.linalg.norm(rows, axis=1).max()
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = np.where(far[..., None], differences / exact[..., None], 0)
    wanted = np.einsum("ij,ijd->id", weight + weight.T, slopes).T

    def loss(kernel):
        return jnp.sum(head_distances(kernel) * weight.astype(np.float32))

    monkeypatch.setattr("gloro_jax.margins._MOST_DIFFERENCES", 0)
    found = np.asarray(head_distances(jnp.asarray(kernel)))
    np.testing.assert_allclose(found[far], exact[far], rtol=2e-5)
    assert (found[~far] == 0).all()
    assert not far[0, 1]
    assert not far[2, 3]
    gradient = np.asarray(jax.grad(loss)(jnp.asarray(kernel)))
    np.testing.assert_allclose(gradient, wanted, atol=2e-4)


def test_a_head_of_a_thousand_classes_differentiates_within_memory():
    gradient = jax.jit(jax.grad(lambda kernel: jnp.sum(head_distances(kernel))))
    shape = jax.ShapeDtypeStruct((2048, 1000), jnp.float32)
    needed = gradient.lower(shape).compile().memory_analysis().temp_size_in_bytes
    assert needed <= 64 * 2**20


@pytest.mark.parametrize("text", ["36/255", "0.1", "1/2", f"{10**30 + 1}/{2 * 10**30}"])
def test_a_radius_written_as_text_is_rounded_up(text):
    rounded = float(as_epsilon(text))
    assert Fraction(rounded) >= Fraction(text)
    assert rounded == pytest.approx(float(Fraction(text)), rel=3e-7)
