"""Splits and batches: nothing lost, nothing counted twice, everything repeatable."""

import numpy as np
import pytest

from gloro_jax.data import digits, evaluation_batches, from_arrays, training_batches
from gloro_jax.data.batches import as_float, rebatched


@pytest.fixture(scope="module")
def data():
    return digits()


def test_digits_are_split_without_overlap_and_with_every_class(data):
    splits = (data.train, data.validation, data.test)
    assert sum(len(s) for s in splits) == 1797
    assert data.input_shape == (8, 8, 1)
    for split in splits:
        assert set(split.labels) == set(range(10))
        assert split.images.dtype == np.float32
    seen = [{image.tobytes() for image in split.images} for split in splits]
    assert not seen[0] & (seen[1] | seen[2])
    assert not seen[1] & seen[2]


def test_the_split_is_the_same_each_time(data):
    np.testing.assert_array_equal(digits().validation.labels, data.validation.labels)


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone(data):
    def order(seed, epoch):
        batches = training_batches(data.train, batch_size=100, seed=seed, epoch=epoch)
        return np.concatenate([b.images.reshape(100, -1) for b in batches])

    first = order(0, 1)
    assert len(first) == len(data.train) // 100 * 100
    assert len(np.unique(first, axis=0)) == len(first)
    np.testing.assert_array_equal(first, order(0, 1))
    assert not np.array_equal(first, order(0, 2))
    assert not np.array_equal(first, order(1, 1))


@pytest.mark.parametrize("batch_size", [1, 7, 100, 5000])
def test_evaluation_batches_hold_every_example_once(data, batch_size):
    batches = list(evaluation_batches(data.test, batch_size=batch_size))
    assert {len(b.images) for b in batches} == {batch_size}
    labels = np.concatenate([b.labels[b.is_real] for b in batches])
    np.testing.assert_array_equal(labels, data.test.labels)


def test_ragged_batches_become_batches_of_one_size(data):
    x, y = data.test.images, data.test.labels
    pairs = [(x[:50], y[:50]), (x[50:180], y[50:180]), (x[180:], y[180:])]
    batches = list(rebatched(pairs))
    assert {len(b.images) for b in batches} == {50}
    np.testing.assert_array_equal(np.concatenate([b.labels[b.is_real] for b in batches]), y)


def test_uint8_becomes_float32_in_the_unit_interval():
    images = as_float(np.asarray([0, 51, 255], np.uint8))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, [0, 0.2, 1])


def test_validation_is_carved_from_every_class():
    images = np.zeros((100, 2, 2, 1), np.uint8)
    labels = np.repeat([0, 1], [90, 10])
    made = from_arrays((images, labels), (images, labels), validation=0.2)
    assert np.bincount(made.validation.labels).tolist() == [18, 2]
    assert len(made.train) == 80
