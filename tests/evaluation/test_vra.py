"""VRA: exact over any batching; curves that agree with it; attacks that stay where they say."""

import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.evaluation import attack, verified_robust_accuracy
from tests.draws import init, normal, uniform


@pytest.fixture(scope="module")
def images():
    return np.asarray(uniform(3, (23, 8, 8, 1)))


@pytest.fixture(scope="module")
def labels(small_frozen, images):
    predictions = np.array(small_frozen(images).prediction)
    predictions[::4] = (predictions[::4] + 1) % 5  # a quarter is wrong on purpose
    return predictions


@pytest.fixture(scope="module")
def report(small_frozen, images, labels):
    return verified_robust_accuracy(small_frozen, [(images, labels)], epsilon=0.05)


def test_by_hand(report, small_frozen, images, labels):
    certificate = gj.certify(small_frozen, images, epsilon=0.05)
    correct = np.asarray(certificate.prediction) == labels
    assert report.clean_accuracy == pytest.approx(correct.mean())
    assert report.vra == pytest.approx((correct & np.asarray(certificate.is_certified)).mean())
    assert report.rejection_rate == pytest.approx(1 - np.asarray(certificate.is_certified).mean())
    assert 0 < report.vra < report.clean_accuracy < 1


@pytest.mark.parametrize("cuts", [[10], [4, 8, 12, 16, 20], [1, 2]])
def test_it_does_not_depend_on_the_batches(report, small_frozen, images, labels, cuts):
    pairs = zip(np.split(images, cuts), np.split(labels, cuts), strict=True)
    other = verified_robust_accuracy(small_frozen, pairs, epsilon=0.05)
    assert (other.count, other.vra, other.clean_accuracy) == (23, report.vra, report.clean_accuracy)
    np.testing.assert_array_equal(other.labels, labels)


def test_the_curve_falls_from_clean_accuracy_and_passes_through_vra(report):
    radii = np.linspace(0, 0.5, 60)
    curve = report.certified_accuracy(radii)
    assert (np.diff(curve) <= 0).all()
    assert curve[0] == pytest.approx(report.clean_accuracy)
    assert report.certified_accuracy([0.05])[0] == pytest.approx(report.vra, abs=1 / 23)
    assert report.certified_accuracy([1e9])[0] == 0


def test_every_reported_success_is_one(small_frozen, images):
    found = attack(small_frozen, images, radii=0.4, steps=20)
    assert found.successes > 0
    hit = found.is_success
    moved = (found.examples.astype(float) - images.astype(float))[hit]
    distances = np.sqrt((moved**2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(distances, found.distances[hit])
    assert (distances < 0.4).all()
    assert found.examples.min() >= 0
    assert found.examples.max() <= 1
    again = np.asarray(small_frozen(jnp.asarray(found.examples)).prediction)
    clean = np.asarray(small_frozen(images).prediction)
    assert (again[hit] != clean[hit]).all()
    np.testing.assert_array_equal(found.examples[~hit], images[~hit])


def linear(num_classes):
    """A linear network, six images, and their certified radii, which are exact there."""
    net = gj.GloroNet(layers.Flatten(), num_classes=num_classes)
    x = 0.5 + 0.01 * normal(0, (6, 4, 4, 1))
    variables = init(net, 1, x, norms=gj.PowerIteration(steps=1))
    frozen = gj.freeze(net, variables, input_shape=(4, 4, 1))
    return frozen, np.asarray(x), np.asarray(gj.certify(frozen, x, epsilon=0.1).radius)


def test_the_attack_reaches_the_boundary_of_a_linear_network():
    frozen, x, radii = linear(num_classes=3)
    assert attack(frozen, x, radii=radii).successes == 0
    assert attack(frozen, x, radii=1.01 * radii).successes == 6


def test_few_targets_are_the_nearest_classes():
    """For a linear network the nearest change is into the class of the least certified ratio."""
    frozen, x, radii = linear(num_classes=30)
    found = attack(frozen, x, radii=1.01 * radii, restarts=1, targets=1)
    assert found.successes == 6
    with pytest.raises(ValueError, match="targets"):
        attack(frozen, x, radii=0.1, targets=0)


def test_results_are_shown_in_a_few_lines(report, small_frozen, images):
    found = attack(small_frozen, images[:2], radii=0.1, steps=1, restarts=1)
    for result in (report, found, gj.data.digits(), gj.data.digits().test):
        assert len(repr(result).splitlines()) < 10
        assert "(" in repr(result)
        assert len(repr(result)) < 1200


def test_an_attack_of_radius_zero_finds_nothing(small_frozen, images):
    assert attack(small_frozen, images[:3], radii=0.0, steps=2, restarts=2).successes == 0


def test_the_nearest_change_is_searched_inside_what_was_found():
    """For a linear network the nearest change is at the certified radius, wherever one starts."""
    frozen, x, radii = linear(num_classes=3)
    found = attack(frozen, x, radii=20 * radii, steps=100, restarts=1)
    assert (found.distances > radii).all()
    assert (found.distances < 1.05 * radii).all()


def test_images_of_radius_zero_are_left_alone_and_batches_do_not_matter(small_frozen, images):
    radii = np.where(np.arange(23) % 3 == 0, 0.0, 0.4)
    seen = []
    found = attack(
        small_frozen, images, radii=radii, steps=8, restarts=1, batch_size=5,
        on_progress=seen.append,
    )  # fmt: skip
    assert sum(seen) == 23
    assert not found.is_success[::3].any()
    np.testing.assert_array_equal(found.predictions[::3], small_frozen(images).prediction[::3])
    whole = attack(small_frozen, images, radii=radii, steps=8, restarts=1)
    np.testing.assert_allclose(found.distances, whole.distances, rtol=1e-5)
