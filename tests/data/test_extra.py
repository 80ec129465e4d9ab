"""Extra training images: a share of each batch, and no copy of what is judged."""

import dataclasses

import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.data import DataConfig, Split, open_data, training_batches, with_extra
from gloro_jax.models import GloroCNN
from gloro_jax.training import Session, TrainConfig


def extra_images(data, count=100, seed=5):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 1, (count, *data.input_shape)).astype(np.float32)
    return Split(images, rng.integers(0, 3, count))


@pytest.fixture(scope="module")
def mixed(tiny_data):
    return with_extra(tiny_data, extra_images(tiny_data), share=0.75)


def batches(data, **options):
    given = {"batch_size": 16, "seed": 0, "epoch": 1, "extra": data.extra, **options}
    return list(training_batches(data.train, **given))


def test_each_batch_takes_its_share_and_every_image_is_where_its_number_says(mixed):
    n, seen = len(mixed.train), []
    assert len(batches(mixed)) == len(batches(mixed, extra=None)) == n // 16
    for batch in batches(mixed):
        is_extra = batch.index >= n
        assert is_extra.sum() == 12
        for image, label, number in zip(batch.images, batch.labels, batch.index, strict=True):
            split, place = (
                (mixed.extra.images, number - n) if number >= n else (mixed.train, number)
            )
            assert np.array_equal(image, split.images[place])
            assert label == split.labels[place]
        seen += batch.index.tolist()
    own = [number for number in seen if number < n]
    others = np.bincount([number - n for number in seen if number >= n], minlength=100)
    assert len(set(own)) == len(own)  # none twice in an epoch
    assert others.max() - others.min() <= 1


def test_a_batch_of_one_has_no_room_for_extra_images(mixed):
    found = batches(mixed, batch_size=1)
    assert sorted(int(batch.index[0]) for batch in found) == list(range(len(mixed.train)))


def test_the_order_depends_on_seed_and_epoch_alone(mixed):
    whole = batches(mixed)
    for a, b in zip(batches(mixed, skip=3), whole[3:], strict=True):
        assert np.array_equal(a.index, b.index)
    halves = [batches(mixed, rows=slice(start, start + 8)) for start in (0, 8)]
    for batch, *parts in zip(whole, *halves, strict=True):
        for field in ("images", "labels", "index", "is_real"):
            together = np.concatenate([getattr(part, field) for part in parts])
            assert np.array_equal(together, getattr(batch, field))
    assert not np.array_equal(batches(mixed, epoch=2)[0].index, whole[0].index)


def test_copies_of_held_out_images_are_left_out(tiny_data):
    images = extra_images(tiny_data)
    judged = np.concatenate([tiny_data.validation.images[:5], tiny_data.test.images[:7]])
    labels = np.concatenate([images.labels, np.zeros(12, int)])
    more = Split(np.concatenate([images.images, judged]), labels)
    mixed = with_extra(tiny_data, more, share=0.5)
    assert (len(mixed.extra.images), mixed.extra.left_out) == (100, 12)
    with pytest.raises(ValueError, match="nothing is left"):
        with_extra(tiny_data, tiny_data.test, share=0.5)
    # Copies of images that are trained on anyway may stay.
    assert with_extra(tiny_data, tiny_data.train, share=0.5).extra.left_out == 0


def test_the_fingerprint_covers_extra_images(tiny_data, mixed):
    other = with_extra(tiny_data, extra_images(tiny_data, seed=6), share=0.75)
    assert len({tiny_data.fingerprint, mixed.fingerprint, other.fingerprint}) == 3


def test_what_does_not_fit_is_refused(tiny_data):
    good = extra_images(tiny_data)
    bytes_ = Split((255 * good.images).astype(np.uint8), good.labels)
    for images, share, message in (
        (good, 0.0, "between 0 and 1"),
        (good, 1.0, "between 0 and 1"),
        (bytes_, 0.5, "of type uint8"),
        (Split(good.images[:, :5], good.labels), 0.5, r"got \(5, 6, 1\)"),
        (Split(good.images, good.labels + 1), 0.5, "3 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            with_extra(tiny_data, images, share=share)
    with pytest.raises(ValueError, match="extra_share is between 0 and 1, got 1"):
        DataConfig("mnist", extra_share=1.0)


def test_a_run_names_them_and_goes_on_with_them(tiny_data, tmp_path):
    images = extra_images(tiny_data)
    np.savez(tmp_path / "more.npz", x_train=images.images, y_train=images.labels)
    whole = np.concatenate([tiny_data.train.images, tiny_data.validation.images])
    labels = np.concatenate([tiny_data.train.labels, tiny_data.validation.labels])
    test = {"x_test": tiny_data.test.images, "y_test": tiny_data.test.labels}
    np.savez(tmp_path / "own.npz", x_train=whole, y_train=labels, **test)
    origin = DataConfig(
        str(tmp_path / "own.npz"), extra=str(tmp_path / "more.npz"), extra_share=0.5
    )
    data = open_data(origin)
    assert len(data.extra.images) == 100
    model = GloroCNN(convs=((4, 3, 2),), dense=(8,), num_classes=3)
    config = TrainConfig(epsilon=0.2, epochs=3, batch_size=20)
    result = gj.training.fit(model, data, config, run=tmp_path / "run")
    training = gj.training.epochs(model, data, config, run=tmp_path / "again")
    next(training)
    training.close()
    session = Session(is_resuming=True)
    plain = open_data(dataclasses.replace(origin, extra=None))
    with pytest.raises(ValueError, match=r"data.extra"):
        gj.training.fit(model, plain, config, run=tmp_path / "again", session=session)
    again = gj.training.fit(model, data, config, run=tmp_path / "again", session=session)
    assert again.frozen.digest == result.frozen.digest
