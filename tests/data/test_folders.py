"""Trees of images: every way they can be wrong is named; what is right comes out pixel by pixel."""

import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("array_record", reason="array_record exists for Linux only")

from gloro_jax.data import prepare, store
from gloro_jax.data.images import flat


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
    with pytest.raises(ValueError, match="has the class folders dgo, which"):
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
    for path in (tree / "train" / "dog").iterdir():
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


def loose(tree):
    (tree / "train" / "notes.txt").write_text("passed over")
    shutil.copy(next((tree / "train" / "dog").iterdir()), tree / "train" / "dropped.png")


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
        (loose, r"train/dropped\.png lies in no class folder"),
        (two_tests, "has test and val, and only one can be test"),
        (break_image, r"dog/2\.png is a damaged image"),
        (break_header, r"dog/2\.png cannot be opened as an image"),
        (sixteen_bits, r"dog/2\.png has pixels of mode I;16"),
        (text_file, r"notes\.txt, which is no image file"),
        (empty_class, "train/dog holds no image"),
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


def stored(tree, tmp_path, image, **options):
    """What a tree makes of one picture, saved in place of the first of the dogs."""
    path = tree / "train" / "dog" / "0.png"
    path.unlink()
    image.save(path.with_suffix(options.pop("suffix", ".png")), **options)
    splits, _ = read(tree, tmp_path)
    return splits["train"][0][4]


def test_a_picture_that_a_camera_turned_stands_upright(tree, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn it clockwise
    turned = np.rot90(picture(10))  # what the sensor saw
    found = stored(tree, tmp_path, Image.fromarray(turned), exif=exif)
    np.testing.assert_array_equal(found, picture(10))


def test_a_turned_picture_of_odd_tags_is_named(tree, monkeypatch):
    from PIL import ImageOps

    def odd(image):
        raise TypeError("a tag is of another type")

    monkeypatch.setattr(ImageOps, "exif_transpose", odd)
    with pytest.raises(ValueError, match="has EXIF tags that are none: a tag is of another type"):
        flat(tree / "train" / "dog" / "0.png", channels=3)


def test_transparency_is_flat_on_white(tree, tmp_path):
    pixels = np.concatenate([picture(10), np.zeros((6, 5, 1), np.uint8)], axis=-1)
    pixels[:3, :, 3] = 255
    found = stored(tree, tmp_path, Image.fromarray(pixels))
    np.testing.assert_array_equal(found[:3], picture(10)[:3])
    assert (found[3:] == 255).all()


def test_a_palette_of_greys_stays_grey(tree, tmp_path):
    for path in tree.rglob("*.png"):
        Image.open(path).convert("L").convert("P").save(path)
    splits, _ = read(tree, tmp_path)
    assert splits["train"][0].shape == (8, 6, 5, 1)
    grey = np.asarray(Image.fromarray(picture(0)).convert("L"))
    np.testing.assert_array_equal(splits["train"][0][0][..., 0], grey)


def test_a_camera_s_preview_behind_the_picture_is_no_animation(tree, tmp_path):
    first, second = (Image.fromarray(picture(i)) for i in (10, 11))
    options = {"format": "MPO", "save_all": True, "append_images": [second]}
    found = stored(tree, tmp_path, first, suffix=".jpg", **options)
    assert np.abs(found.astype(int) - picture(10)).mean() < 60  # JPEG of noise


def test_a_bitmap_of_eight_bits_is_not_taken_for_sixteen(tree, tmp_path):
    indexed = Image.fromarray(picture(10)).quantize(16)
    found = stored(tree, tmp_path, indexed, suffix=".bmp")
    np.testing.assert_array_equal(found, np.asarray(indexed.convert("RGB")))


def test_litter_of_operating_systems_and_other_names_of_splits_are_no_trouble(tree, tmp_path):
    (tree / "test").rename(tree / "Valid")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (tree / "train" / "cat" / name).write_bytes(b"x")
    (tree / "train" / "__MACOSX").mkdir()
    (tree / "__MACOSX").mkdir()
    assert len(read(tree, tmp_path)[0]["train"][1]) == 8


def test_a_class_may_lack_test_images_in_a_tree_as_in_arrays(tree, tmp_path):
    shutil.rmtree(tree / "test" / "dog")
    splits, names = read(tree, tmp_path)
    assert names == ("cat", "dog")
    np.testing.assert_array_equal(splits["test"][1], [0, 0, 0, 0])


def test_numbers_that_are_equal_stand_in_one_order(tree, tmp_path):
    for split in ("train", "test"):
        (tree / split / "cat").rename(tree / split / "1")
        (tree / split / "dog").rename(tree / split / "01")
    assert read(tree, tmp_path)[1] == ("01", "1")


def tiny_imagenet(root):
    lines = []
    for label, name in enumerate(("n01", "n02")):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        (root / "train" / name / f"{name}_boxes.txt").write_text("0 0 1 1")
        (root / "val" / "images").mkdir(parents=True, exist_ok=True)
        for i in range(3):
            Image.fromarray(picture(10 * label + i)).save(folder / f"{name}_{i}.png")
        Image.fromarray(picture(50 + label)).save(root / "val" / "images" / f"val_{1 - label}.png")
        lines.append(f"val_{1 - label}.png\t{name}\t0\t0\t1\t1\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "test" / "images").mkdir(parents=True)
    return root


def test_tiny_imagenet_is_read_as_its_archive_lays_it_out(tmp_path):
    splits, names = read(tiny_imagenet(tmp_path / "tiny"), tmp_path)
    assert names == ("n01", "n02")
    np.testing.assert_array_equal(splits["train"][1], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(splits["test"][1], [0, 1])
    np.testing.assert_array_equal(splits["test"][0][1], picture(51))


def test_a_line_of_tiny_imagenet_s_list_that_leads_nowhere_is_named(tmp_path):
    root = tiny_imagenet(tmp_path / "tiny")
    (root / "val" / "images" / "val_0.png").unlink()
    with pytest.raises(ValueError, match=r"val_annotations\.txt, line 2: 'val_0\.png'"):
        read(root, tmp_path)
