"""Splits and batches: nothing lost, nothing counted twice, everything repeatable."""

import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.data import digits, evaluation_batches, from_arrays, training_batches
from gloro_jax.data.batches import as_float, rebatched
from gloro_jax.data.dataset import Split
from gloro_jax.data.inspect import repeated


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


def some(count=12, classes=3):
    x = np.random.default_rng(0).random((count, 4, 5, 1)).astype(np.float32)
    return x, np.arange(count) % classes


@pytest.mark.parametrize(
    ("labels", "teaches"),
    [
        (lambda y: y + 1, "subtract 1 from all labels"),
        (lambda y: y * 2, "No training image has label 1"),
        (lambda y: np.where(y == 0, 2**40, y), "without gaps"),
        (lambda y: np.eye(3)[y], r"labels\.argmax\(axis=1\)"),
        (lambda y: y.astype(float), r"labels\.astype\(int\)"),
        (lambda y: y.astype(str), "return_inverse=True"),
    ],
)
def test_labels_that_people_bring_are_refused_with_the_cure(labels, teaches):
    x, y = some()
    with pytest.raises((ValueError, TypeError), match=teaches):
        gj.data.from_arrays((x, labels(y)), (x, labels(y)))


def test_images_with_their_channels_first_are_refused_with_the_cure():
    x = np.zeros((12, 3, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"np\.moveaxis\(images, 1, -1\)"):
        gj.data.from_arrays((x, np.arange(12) % 3), (x, np.arange(12) % 3))


def test_other_byte_orders_and_grey_images_without_channels_are_what_they_are():
    x, y = some()
    plain = gj.data.from_arrays((x, y), (x, y))
    other = gj.data.from_arrays((x[..., 0].astype(">f4"), y.astype(">i8")), (x, y.astype(">i2")))
    assert other.fingerprint == plain.fingerprint
    assert other.train.images.dtype.isnative
    assert other.test.labels.dtype.isnative


def test_images_that_are_in_two_splits_are_counted():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
    train, other = Split(images[:4], np.zeros(4, int)), Split(images[3:], np.zeros(3, int))
    assert repeated(other, of=train) == 1
    assert repeated(train, of=train) == 4
