"""Augmentation: known by what it must leave alone, and by brute force where it moves pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gloro_jax.data import Augmentation
from gloro_jax.data.augment import _affine, _colours, _warp, augmented

KEY = jax.random.key(3)


def images(count=64, size=8, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, channels)).astype(np.uint8)
    return pixels if dtype == np.uint8 else pixels.astype(np.float32) / 255


def run(x, config, step=5, index=None):
    index = np.arange(len(x), dtype=np.int32) if index is None else index
    return np.asarray(augmented(x, index, config=config, key=KEY, step=step))


def test_nothing_by_default_but_the_scale():
    x = images()
    np.testing.assert_allclose(run(x, Augmentation()), x / 255.0, atol=1e-7)


def test_a_crop_is_one_of_the_windows_of_the_padded_image_and_all_occur():
    x = np.repeat(images(1), 200, axis=0)
    padded = np.pad(x[0], ((2, 2), (2, 2), (0, 0))) / 255.0
    windows = {
        (r, c): padded[r : r + 8, c : c + 8].astype(np.float32) for r in range(5) for c in range(5)
    }
    seen = set()
    for image in run(x, Augmentation(crop=2)):
        matches = [where for where, window in windows.items() if np.allclose(image, window)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 25


def test_a_crop_may_reflect_the_image_at_its_border():
    x = np.repeat(images(1), 100, axis=0)
    padded = np.pad(x[0], ((2, 2), (2, 2), (0, 0)), mode="reflect") / 255.0
    windows = [padded[r : r + 8, c : c + 8] for r in range(5) for c in range(5)]
    found = run(x, Augmentation(crop=2, padding="reflect"))
    counts = [sum(np.allclose(image, window) for image in found) for window in windows]
    assert sum(counts) == 100
    assert sum(count > 0 for count in counts) > 20
    with pytest.raises(ValueError, match="8 x 8 pixels cannot be mirrored 8"):
        run(x, Augmentation(crop=8, padding="reflect"))


def test_a_flip_is_the_image_or_its_mirror_and_both_occur():
    x = images(100)
    flipped = run(x, Augmentation(is_flipping=True))
    is_same = np.isclose(flipped, x / 255.0, atol=1e-6).all(axis=(1, 2, 3))
    is_mirror = np.isclose(flipped, x[:, :, ::-1] / 255.0, atol=1e-6).all(axis=(1, 2, 3))
    assert (is_same | is_mirror).all()
    assert 30 < is_mirror.sum() < 70


@pytest.mark.parametrize(
    "config",
    [
        Augmentation(crop=2, is_flipping=True),
        pytest.param(Augmentation(operations=3, magnitude=1.0), marks=pytest.mark.slow),
    ],
)
def test_an_example_depends_on_its_index_and_the_step_alone(config):
    x = images(32)
    whole = run(x, config)
    order = np.random.default_rng(1).permutation(32).astype(np.int32)
    np.testing.assert_allclose(run(x[order], config, index=order), whole[order], atol=1e-6)
    np.testing.assert_allclose(run(x[7:8], config, index=np.array([7])), whole[7:8], atol=1e-6)
    assert not np.allclose(run(x, config, step=6), whole)
    same = run(np.repeat(x[:1], 32, axis=0), config)
    assert len({image.tobytes() for image in same}) > 5


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("size", [(5, 9), pytest.param((8, 8), marks=pytest.mark.slow)])
def test_operations_stay_in_the_unit_interval_at_every_strength(channels, size):
    x = np.random.default_rng(0).uniform(size=(64, *size, channels)).astype(np.float32)
    for magnitude in (0.0, 0.5, 1.0):
        out = run(x, Augmentation(operations=4, magnitude=magnitude))
        assert out.shape == x.shape
        assert np.isfinite(out).all()
        assert out.min() >= -1e-6
        assert out.max() <= 1 + 1e-6


@pytest.mark.slow
def test_strength_zero_changes_nothing_visible():
    x = images(32, dtype=np.float32)
    np.testing.assert_allclose(run(x, Augmentation(operations=3, magnitude=0.0)), x, atol=2e-3)


def test_colours_by_their_formulas():
    image = jnp.asarray(images(1, dtype=np.float32)[0])
    _, bright, contrast, saturated, _, _ = _colours(image, 0.5)
    np.testing.assert_allclose(bright, np.clip(image * 1.45, 0, 1), atol=1e-6)
    grey = np.sum(np.asarray(image) * [0.299, 0.587, 0.114], axis=-1, keepdims=True)
    mean = grey.mean()
    np.testing.assert_allclose(contrast, np.clip(mean + 1.45 * (image - mean), 0, 1), atol=1e-5)
    np.testing.assert_allclose(saturated, np.clip(grey + 1.45 * (image - grey), 0, 1), atol=1e-5)


def test_the_warp_moves_pixels_where_its_matrix_says():
    image = jnp.asarray(images(1, size=9, dtype=np.float32)[0])
    np.testing.assert_allclose(_warp(image, jnp.eye(3)), image, atol=1e-6)
    quarter_turn = jnp.asarray([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(_warp(image, quarter_turn), np.rot90(image, -1), atol=1e-5)
    shift = jnp.eye(3).at[0, 2].set(2 / 4.5)  # two rows, in units of half the side
    np.testing.assert_allclose(_warp(image, shift)[:7], image[2:], atol=1e-5)


def test_a_choice_of_another_operation_leaves_geometry_alone():
    np.testing.assert_allclose(_affine(-3, 0.7), np.eye(3), atol=1e-7)
    for choice in range(6):
        assert np.abs(np.asarray(_affine(choice, 0.7)) - np.eye(3)).max() > 0.05


def test_bad_settings_are_refused():
    for changes in ({"crop": -1}, {"operations": -1}, {"magnitude": 1.5}):
        with pytest.raises(ValueError, match="got"):
            Augmentation(**changes)


def test_an_unknown_padding_is_refused(untyped):
    with pytest.raises(ValueError, match=r"zeros.*reflect.*edge"):
        Augmentation(padding="edge")
