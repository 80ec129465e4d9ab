"""Photographs read from disk: the same pixels and batches as if memory held them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("array_record", reason="array_record exists for Linux only")

import gloro_jax as gj
from gloro_jax.cli.main import main
from gloro_jax.data import DataConfig, open_data, prepare, store, training_batches
from gloro_jax.data.photographs import shards, workers
from gloro_jax.data.photographs.decoding import random_box
from gloro_jax.data.photographs.pictures import Pictures
from gloro_jax.data.sources import open_test_split

SIDE, SIZE = 24, 21


def photograph(rng, size):
    """Smooth, so that JPEG changes little, and of its own colours."""
    corners = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Parts are replaced in these tests, which processes of many cores would not see."""
    monkeypatch.setattr(workers, "are_processes", lambda: False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 4)):
        for name in ("bee", "cow"):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                size = (int(rng.integers(30, 90)), int(rng.integers(30, 90)))
                photograph(rng, size).save(place / f"{i}.jpg", quality=95)
    turned = photograph(rng, (40, 60))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "val" / "cow" / "0.jpg", exif=exif, quality=95)
    return folder


@pytest.fixture(scope="module")
def directory(tree, tmp_path_factory):
    place = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_PER_SHARD", 5)
        prepare("zoo", source=tree, directory=place, shorter_side=SIDE)
    return place


@pytest.fixture(scope="module")
def opened(directory):
    return open_data(DataConfig("zoo", 0.2, directory=str(directory), image_size=SIZE))


def test_every_photograph_is_there_once_with_its_label_in_shards(opened, directory):
    assert [len(getattr(opened, s)) for s in ("train", "validation", "test")] == [14, 4, 8]
    assert opened.class_names == ("bee", "cow")
    assert list(opened.test.labels) == [0] * 4 + [1] * 4
    names = sorted(p.name for p in store.set_folder("zoo", directory).glob("*.array_record"))
    assert len(names) == 4 + 2
    held = np.concatenate([opened.train.images.index, opened.validation.images.index])
    assert sorted(held) == list(range(18))


def test_pixels_are_the_middle_of_the_whole_upright_picture(opened, tree):
    files = [tree / "val" / name / f"{i}.jpg" for name in ("bee", "cow") for i in range(4)]
    for image, file in zip(opened.test.images[:], files, strict=True):
        with Image.open(file) as source:
            upright = source.transpose(Image.Transpose.ROTATE_270) if file == files[4] else source
            width, height = upright.size
            scale = min(SIDE, round(SIZE * 8 / 7)) / min(width, height)
            wanted = upright.resize((round(width * scale), round(height * scale)))
            left, top = (wanted.size[0] - SIZE) // 2, (wanted.size[1] - SIZE) // 2
            wanted = np.asarray(wanted.crop((left, top, left + SIZE, top + SIZE)), float)
        assert np.abs(image - wanted).mean() < 4  # JPEG once more, and another filter


def test_numbers_slices_and_arrays_of_numbers_read_alike(opened):
    pictures = opened.test.images
    whole = np.asarray(pictures)
    assert whole.shape == pictures.shape == (8, SIZE, SIZE, 3)
    np.testing.assert_array_equal(pictures[3], whole[3])
    np.testing.assert_array_equal(pictures[2:5], whole[2:5])
    np.testing.assert_array_equal(pictures[np.array([6, 0, 6])], whole[[6, 0, 6]])
    np.testing.assert_array_equal(pictures.only(np.arange(8) > 4)[:], whole[5:])
    assert pictures[8:].shape == (0, SIZE, SIZE, 3)
    with pytest.raises(IndexError):
        pictures[8]


@pytest.mark.parametrize("area", [1.0, 0.3])
def test_processes_read_their_shares_of_the_same_batches_and_a_resumed_one_goes_on(opened, area):
    told = {"batch_size": 4, "seed": 3, "epoch": 2, "area": area}
    whole = list(training_batches(opened.train, **told))
    assert len(whole) == 3
    shares = [list(training_batches(opened.train, rows=r, **told)) for r in (slice(2), slice(2, 4))]
    for batch, *parts in zip(whole, *shares, strict=True):
        for field in ("images", "labels", "index"):
            joined = np.concatenate([getattr(part, field) for part in parts])
            np.testing.assert_array_equal(getattr(batch, field), joined)
    (last,) = training_batches(opened.train, skip=2, **told)
    np.testing.assert_array_equal(last.images, whole[2].images)
    other = next(training_batches(opened.train, **{**told, "epoch": 3}))
    assert not np.array_equal(other.index, whole[0].index)
    if area == 1:
        np.testing.assert_array_equal(whole[0].images, opened.train.images[:][whole[0].index])


def test_a_random_part_depends_on_seed_epoch_and_photograph_alone(opened):
    pictures = opened.train.images
    one = pictures.random_crops(np.array([5]), area=0.2, seed=1, epoch=1)[0]
    among = pictures.random_crops(np.array([2, 5, 7]), area=0.2, seed=1, epoch=1)[1]
    np.testing.assert_array_equal(one, among)
    only = pictures.only(np.array([5])).random_crops(np.array([0]), area=0.2, seed=1, epoch=1)[0]
    np.testing.assert_array_equal(one, only)
    for changed in ({"seed": 2}, {"epoch": 2}):
        again = pictures.random_crops(
            np.array([5]), **{"area": 0.2, "seed": 1, "epoch": 1, **changed}
        )
        assert not np.array_equal(one, again[0])


@pytest.mark.parametrize("size", [(50, 50), (64, 48), (400, 30), (31, 77)])
def test_random_parts_lie_inside_and_are_as_large_and_as_square_as_promised(size):
    width, height = size
    for seed in range(300):
        left, top, right, bottom = random_box(size, area=0.25, rng=np.random.default_rng(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        w, h = right - left, bottom - top
        assert 3 / 4 - 0.07 <= w / h <= 4 / 3 + 0.07  # sides are whole numbers
        if max(size) <= 4 / 3 * min(size):
            assert w * h >= 0.25 * width * height - (w + h)


def test_training_from_disk_equals_training_on_the_same_pixels(opened, tmp_path):
    whole = {s: getattr(opened, s) for s in ("train", "validation", "test")}
    held = dataclasses.replace(
        opened,
        **{s: dataclasses.replace(p, images=np.asarray(p.images)) for s, p in whole.items()},
    )
    model = gj.models.GloroCNN(convs=((4, 4, 4),), dense=(8,), num_classes=2)
    config = gj.training.TrainConfig(epsilon=0.1, epochs=2, batch_size=4)
    one, two = (
        gj.training.fit(model, data, config, run=tmp_path / name)
        for name, data in (("disk", opened), ("held", held))
    )
    assert one.frozen.digest == two.frozen.digest
    reports = [
        gj.evaluation.verified_robust_accuracy(
            one.frozen, [(d.test.images, d.test.labels)], epsilon=0.1
        )
        for d in (opened, held)
    ]
    np.testing.assert_array_equal(reports[0].radii, reports[1].radii)
    assert opened.fingerprint != held.fingerprint


def test_decoders_that_give_other_pixels_are_refused(opened):
    pictures = opened.test.images
    other = pictures.digests.copy()
    other[6, 0] ^= 1
    changed = dataclasses.replace(pictures, digests=other)
    changed[:6]
    with pytest.raises(ValueError, match=r"Record 6 of .*other pixels.*Pillow"):
        changed[4:]


def test_pictures_that_memory_cannot_hold_are_not_brought_there(opened, monkeypatch):
    monkeypatch.setattr(
        "gloro_jax.data.photographs.pictures.memory", lambda: 2 * 8 * SIZE * SIZE * 3 - 1
    )
    with pytest.raises(ValueError, match="8 photographs take"):
        np.asarray(opened.test.images)


def test_what_a_size_depends_on_is_asked_for(directory):
    with pytest.raises(ValueError, match=r"zoo holds photographs of many sizes.*--image-size 224"):
        open_data(DataConfig("zoo", directory=str(directory)))
    test, names = open_test_split(DataConfig("zoo", directory=str(directory), image_size=8))
    assert isinstance(test.images, Pictures)
    assert (test.images.shape, names) == ((8, 8, 8, 3), ("bee", "cow"))


def copied(tree, to):
    for path in tree.rglob("*.jpg"):
        target = to / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return to


def test_damaged_photographs_are_counted_and_named_and_what_was_done_is_not_done_again(
    tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "_PER_SHARD", 5)
    own = copied(tree, tmp_path / "own")
    for name in ("bee/3.jpg", "cow/1.jpg"):
        raw = (own / "train" / name).read_bytes()
        (own / "train" / name).write_bytes(raw[: len(raw) // 2])
    place = tmp_path / "sets"
    told = {"source": own, "directory": place, "shorter_side": SIDE}
    with pytest.raises(ValueError, match=r"(?s)2 of 26 .*bee/3.jpg.*cow/1.jpg.*--skip-corrupt"):
        prepare("own", **told)
    assert not store.is_prepared("own", place)
    written = {p: p.stat().st_mtime_ns for p in place.rglob("*.array_record")}
    assert len(written) == 6

    folder = prepare("own", is_skipping_corrupt=True, **told)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.array_record")}
    assert after == {p.name: when for p, when in written.items()}
    opened = open_data(DataConfig("own", 0.2, directory=str(place), image_size=SIZE))
    assert len(opened.train) + len(opened.validation) == 16
    assert len(json.loads((folder / "contents.json").read_text())["skipped"]) == 2
    assert not [p for p in folder.iterdir() if p.suffix in (".partial", ".json")][1:]


def test_a_damaged_photograph_that_is_mended_has_its_shard_alone_written_again(
    tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "_PER_SHARD", 1)  # a shard without a picture, too
    own = copied(tree, tmp_path / "own")
    whole = (own / "train" / "bee" / "3.jpg").read_bytes()
    for path in ("train/bee/3.jpg", "val/cow/1.jpg"):
        (own / path).write_bytes(b"no picture")
    told = {"source": own, "directory": tmp_path / "sets", "shorter_side": SIDE}
    with pytest.raises(ValueError, match="2 of 26 pictures"):
        prepare("own", **told)
    written = {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("*.array_record")}
    (own / "train" / "bee" / "3.jpg").write_bytes(whole)
    folder = prepare("own", is_skipping_corrupt=True, **told)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.array_record")}
    again = [name for name in written if after[name] != written[name]]
    assert again == ["train-00003-of-00018.array_record"]
    opened = open_data(DataConfig("own", 0.2, directory=told["directory"], image_size=SIZE))
    assert len(opened.test.images[:]) == 7

    (folder / "digests-test.npy").unlink()
    with pytest.raises(ValueError, match=r"digests-test\.npy is missing"):
        open_data(DataConfig("own", 0.2, directory=told["directory"], image_size=SIZE))


def test_a_split_without_a_picture_is_refused(tree, tmp_path):
    own = copied(tree, tmp_path / "own")
    for path in (own / "val").rglob("*.jpg"):
        path.write_bytes(b"no picture")
    told = {"source": own, "directory": tmp_path / "sets", "shorter_side": SIDE}
    with pytest.raises(ValueError, match=r"No picture of the test split can be read: .*\.jpg"):
        prepare("own", is_skipping_corrupt=True, **told)


def test_a_preparation_that_was_stopped_goes_on_and_gives_the_same_files(
    tree, directory, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "_PER_SHARD", 5)
    seen, real = [], shards._write_shard

    def stopped(place, shard):
        seen.append(shard.name)
        if len(seen) > 3:
            raise KeyboardInterrupt
        return real(place, shard)

    monkeypatch.setattr(shards, "_write_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare("zoo", source=tree, directory=tmp_path, shorter_side=SIDE)
    monkeypatch.setattr(shards, "_write_shard", real)
    folder = prepare("zoo", source=tree, directory=tmp_path, shorter_side=SIDE)
    whole = store.set_folder("zoo", directory)
    for path in whole.glob("*.npy"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    same = [
        open_data(DataConfig("zoo", directory=str(d), image_size=SIZE))
        for d in (directory, tmp_path)
    ]
    assert same[0].fingerprint == same[1].fingerprint


def test_what_is_left_out_is_counted_and_named_by_the_command(tree, tmp_path, capsys):
    own = copied(tree, tmp_path / "own")
    (own / "train" / "bee" / "0.jpg").write_bytes(b"")
    (own / "train" / "cow" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    words = ["data", "prepare", "own", "--from", str(own), "--data-dir", str(tmp_path / "sets")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--shorter-side", str(SIDE)])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    for word in ("2 of 27", "bee/0.jpg", "cow/gone.jpg", "--skip-corrupt"):
        assert word in said
    with pytest.raises(SystemExit) as ended:
        main([*words, "--shorter-side", str(SIDE), "--skip-corrupt"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("2 pictures", "bee/0.jpg", "cow/gone.jpg", f"--data-dir {tmp_path / 'sets'}"):
        assert word in said


def test_a_full_disk_is_said_in_a_sentence_and_what_is_finished_is_kept(
    tree, directory, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "_PER_SHARD", 5)
    real, written = shards._encoded, []

    def until_it_is_full(file, shard):
        written.append(file)
        if len(written) > 12:
            raise RuntimeError("write() failed: No space left on device; writing a.partial; more")
        return real(file, shard)

    monkeypatch.setattr(shards, "_encoded", until_it_is_full)
    told = {"source": tree, "directory": tmp_path, "shorter_side": SIDE}
    with pytest.raises(OSError, match=r"could not be written: write.. failed.*Make room"):
        prepare("zoo", **told)
    assert list(tmp_path.rglob("*.array_record"))
    monkeypatch.setattr(shards, "_encoded", real)
    prepare("zoo", **told)
    assert store.contents("zoo", tmp_path)["files"] == store.contents("zoo", directory)["files"]


def test_a_stopped_preparation_says_how_to_go_on(tree, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "_write_all", interrupted)
    words = ["data", "prepare", "own", "--from", str(tree), "--data-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--shorter-side", str(SIDE)])
    assert ended.value.code == 130
    assert "What is finished is kept" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_missing_and_shortened_shards_are_named(tree, tmp_path, damage):
    folder = prepare("zoo", source=tree, directory=tmp_path, shorter_side=SIDE)
    damage(folder / "train-00000-of-00001.array_record")
    with pytest.raises(ValueError, match=r"train-00000.*missing or not as long.*--overwrite"):
        open_data(DataConfig("zoo", directory=str(tmp_path), image_size=SIZE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": None, "shorter_side": 256}, "folders of photographs"),
        ({"source": Path("some.npz"), "shorter_side": 256}, "folders of photographs"),
        ({"shorter_side": 3}, "at least 8"),
        ({"shorter_side": 64, "resize": (32, 32)}, "give one of the two"),
        ({"is_skipping_corrupt": True}, "goes with --shorter-side"),
        ({"name": "cifar10", "shorter_side": 256}, "set of small images"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tree, tmp_path, options, message):
    told = {"name": "zoo", "source": tree, "directory": tmp_path, **options}
    with pytest.raises(ValueError, match=message):
        prepare(told.pop("name"), **told)
    assert not list(tmp_path.iterdir())


def test_random_parts_are_for_photographs_on_disk(tmp_path):
    data = gj.data.digits()
    changes = gj.data.Augmentation(area=0.5)
    config = gj.training.TrainConfig(epsilon=0.1, epochs=1, augmentation=changes)
    model = gj.recipes.digits().model
    with pytest.raises(ValueError, match=r"area 0\.5.*held in memory"):
        gj.training.fit(model, data, config, run=tmp_path / "run")
    with pytest.raises(ValueError, match="share above 0"):
        gj.data.Augmentation(area=0.0)
