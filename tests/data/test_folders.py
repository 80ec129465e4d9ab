"""Trees of images: every way they can be wrong is named; what is right comes out pixel by pixel."""

import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("array_record", reason="array_record exists for Linux only")

from gloro_jax.data import prepare, store


def picture(seed, size=(6, 5), channels=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(picture(10 * label + i)).save(root / split / name / f"{i}.png")
    return root


def read(tree, tmp_path, **options):
    prepare("tree", source=tree, directory=tmp_path / "out", **options)
    return store.read("tree", tmp_path / "out")


def test_a_tree_comes_back_with_its_class_names(tree, tmp_path):
    splits, names = read(tree, tmp_path)
    assert names == ("cat", "dog")
    images, labels = splits["train"]
    np.testing.assert_array_equal(labels, [0, 0, 0, 0, 1, 1, 1, 1])
    for image, seed in zip(images, [0, 1, 2, 3, 10, 11, 12, 13], strict=True):
        np.testing.assert_array_equal(image, picture(seed))


def test_val_is_a_test_split_and_jpegs_are_kept_as_they_are(tree, tmp_path):
    (tree / "test").rename(tree / "val")
    path = tree / "train" / "cat" / "0.png"
    jpeg = path.with_suffix(".jpg")
    Image.fromarray(picture(0)).save(jpeg)
    path.unlink()
    splits, _ = read(tree, tmp_path)
    np.testing.assert_array_equal(splits["train"][0][0], np.asarray(Image.open(jpeg)))


def test_grey_trees_have_one_channel_and_mixed_ones_three(tree, tmp_path):
    for path in tree.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    splits, _ = read(tree, tmp_path)
    assert splits["train"][0].shape == (8, 6, 5, 1)
    Image.fromarray(picture(0)).save(tree / "train" / "cat" / "0.png")
    splits, _ = read(tree, tmp_path, is_overwriting=True)
    assert splits["train"][0].shape == (8, 6, 5, 3)
    np.testing.assert_array_equal(splits["train"][0][0], picture(0))
    assert (splits["train"][0][1].std(axis=-1) == 0).all()


def test_images_of_other_sizes_are_named_and_can_be_resized(tree, tmp_path):
    Image.fromarray(picture(0, size=(7, 5))).save(tree / "test" / "dog" / "0.png")
    with pytest.raises(ValueError, match=r"test/dog/0\.png is \(7, 5\).*--resize 6 5"):
        read(tree, tmp_path)
    splits, _ = read(tree, tmp_path, resize=(3, 4))
    assert splits["test"][0].shape == (8, 3, 4, 3)


def test_classes_must_match_between_splits(tree, tmp_path):
    (tree / "test" / "dog").rename(tree / "test" / "dgo")
    with pytest.raises(ValueError, match=r"only in train \['dog'\], only in test \['dgo'\]"):
        read(tree, tmp_path)


def break_image(tree):
    path = tree / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:60])


def break_header(tree):
    (tree / "train" / "dog" / "2.png").write_bytes(b"not an image")


def sixteen_bits(tree):
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(tree / "train" / "dog" / "2.png")


def text_file(tree):
    (tree / "train" / "dog" / "notes.txt").write_text("hello")


def empty_class(tree):
    for path in (tree / "test" / "dog").iterdir():
        path.unlink()


def no_test(tree):
    shutil.rmtree(tree / "test")


def sixteen_bits_rgb(tree):
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + bytes(5 * 6) for _ in range(6))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tree / "train" / "dog" / "2.png").write_bytes(png)


def animated(tree):
    frames = [Image.fromarray(picture(i)) for i in range(3)]
    path = tree / "train" / "dog" / "2.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])


def two_tests(tree):
    shutil.copytree(tree / "test", tree / "val")


def test_numbered_class_folders_are_in_the_order_of_their_numbers(tree, tmp_path):
    for split in ("train", "test"):
        (tree / split / "cat").rename(tree / split / "10")
        (tree / split / "dog").rename(tree / split / "2")
    splits, names = read(tree, tmp_path)
    assert names == ("2", "10")
    np.testing.assert_array_equal(splits["train"][0][0], picture(10))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (sixteen_bits_rgb, r"dog/2\.png has pixels of mode RGB with 16 bits"),
        (animated, r"dog/2\.gif is an animation"),
        (two_tests, "has test and val, and only one can be the test split"),
        (break_image, r"dog/2\.png is a damaged image"),
        (break_header, r"dog/2\.png cannot be opened as an image"),
        (sixteen_bits, r"dog/2\.png has pixels of mode I;16"),
        (text_file, r"notes\.txt, which is no image file"),
        (empty_class, "test/dog holds no image"),
        (no_test, "has no test folder"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left_behind(tree, tmp_path, damage, message):
    damage(tree)
    with pytest.raises(ValueError, match=message):
        read(tree, tmp_path)
    assert not store.is_prepared("tree", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        prepare("tree", source=tmp_path / "nowhere", directory=tmp_path)
