"""Prepared sets: what goes in comes out, without TensorFlow; nothing half-made is read."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("array_record", reason="array_record exists for Linux only")

from gloro_jax.data import DataConfig, open_data, prepare, store
from gloro_jax.data.sources import open_test_split
from gloro_jax.paths import locked


def arrays(channels=3, count=40):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 6, 5, channels)).astype(np.uint8)
    return images, (np.arange(count) % 4).astype(np.int64)


@pytest.fixture(scope="module", params=[1, 3])
def npz(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    (x, y), (u, v) = arrays(request.param), arrays(request.param, 12)
    names = np.array(["ant", "bee", "cat", "dog"])
    np.savez(path, x_train=x, y_train=y, x_test=u, y_test=v, class_names=names)
    return path


@pytest.fixture(scope="module")
def prepared(npz, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    seen = []
    prepare("mine", source=npz, directory=directory, on_progress=lambda *a: seen.append(a))
    assert seen == [(i, 52) for i in range(1, 53)]
    return directory


def test_what_is_prepared_is_read_back_pixel_by_pixel_in_order(prepared, npz):
    read, names = store.read("mine", prepared)
    with np.load(npz) as file:
        for split in ("train", "test"):
            np.testing.assert_array_equal(read[split][0], file[f"x_{split}"])
            np.testing.assert_array_equal(read[split][1], file[f"y_{split}"])
    assert names == ("ant", "bee", "cat", "dog")


def test_prepared_sets_and_the_npz_file_are_the_same_data(prepared, npz):
    by_name = open_data(DataConfig("mine", validation=0.2, directory=str(prepared)))
    by_file = open_data(DataConfig(str(npz), validation=0.2))
    assert by_name.fingerprint == by_file.fingerprint
    assert by_name.class_names == by_file.class_names
    np.testing.assert_array_equal(by_name.test.images, by_file.test.images)
    assert len(by_name.validation) == 8


def test_what_a_killed_preparation_left_is_removed_and_a_living_one_is_let_be(npz, tmp_path):
    parent = tmp_path / "gloro_images" / "mine"
    dead, alive = parent / ".preparing-dead", parent / ".preparing-alive"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"half")
    with locked(alive, busy=""):
        prepare("mine", source=npz, directory=tmp_path)
    assert {path.name for path in parent.iterdir()} == {"1.0.0", ".preparing-alive"}
    assert (alive / "half").is_file()


def test_a_set_is_prepared_where_its_folder_lies_on_another_file_system(npz, tmp_path, monkeypatch):
    elsewhere, here = tmp_path / "scratch", tmp_path / "sets"
    elsewhere.mkdir()
    here.mkdir()
    (here / "gloro_images").symlink_to(elsewhere)
    rename = os.rename

    def as_the_kernel_does(a, b):
        if (elsewhere in Path(a).resolve().parents) != (elsewhere in Path(b).resolve().parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(a, b)

    monkeypatch.setattr(os, "rename", as_the_kernel_does)
    for is_overwriting in (False, True):
        prepare("mine", source=npz, directory=here, is_overwriting=is_overwriting)
    assert store.is_prepared("mine", here)


def test_preparing_and_reading_imports_no_tensorflow_and_npz_no_tfds(prepared, npz):
    code = f"""
import sys
from gloro_jax.data import DataConfig, open_data
open_data(DataConfig({str(npz)!r}))
assert not any(m.startswith("tensorflow") for m in sys.modules), "npz"
open_data(DataConfig("mine", directory={str(prepared)!r}))
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules, "set"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tfds_itself_reads_the_set(prepared):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(store.set_folder("mine", prepared))
    assert builder.info.splits["train"].num_examples == 40
    assert builder.info.features["label"].names == ["ant", "bee", "cat", "dog"]


def test_an_existing_set_is_replaced_only_on_request(prepared, npz, tmp_path):
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare("mine", source=npz, directory=prepared)
    prepare("again", source=npz, directory=tmp_path)
    before = store.contents("again", tmp_path)["files"]
    prepare("again", source=npz, directory=tmp_path, is_overwriting=True)
    assert store.contents("again", tmp_path)["files"] == before
    assert [path.name for path in tmp_path.iterdir()] == ["gloro_images"]


def test_a_damaged_or_missing_file_is_named(npz, tmp_path):
    folder = prepare("mine", source=npz, directory=tmp_path)
    record = next(folder.glob("*train*array_record*"))
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    with pytest.raises(ValueError, match=f"{record.name} is missing or damaged.*--overwrite"):
        store.read("mine", tmp_path)
    record.unlink()
    with pytest.raises(ValueError, match=f"{record.name} is missing or damaged"):
        store.read("mine", tmp_path)
    (folder / "contents.json").write_text("{")
    with pytest.raises(ValueError, match=r"contents\.json cannot be read"):
        store.read("mine", tmp_path)


def test_a_half_prepared_set_is_never_read(npz, tmp_path):
    def fail(done, total):
        if done == 30:
            raise InterruptedError("power cut")

    with pytest.raises(InterruptedError, match="power cut"):
        prepare("mine", source=npz, directory=tmp_path, on_progress=fail)
    assert not store.is_prepared("mine", tmp_path)
    assert store.prepared_names(tmp_path) == []
    # A folder without its contents.json, as a copy broken off leaves it, is not read either.
    folder = prepare("mine", source=npz, directory=tmp_path)
    (folder / "contents.json").unlink()
    with pytest.raises(ValueError, match="There is no data set 'mine'"):
        open_data(DataConfig("mine", directory=str(tmp_path)))


def test_an_unprepared_set_names_the_command_and_downloads_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="gloro-jax data prepare cifar10"):
        open_data(DataConfig("cifar10", directory=str(tmp_path)))
    with pytest.raises(ValueError, match="did you mean cifar10"):
        open_data(DataConfig("cifar01", directory=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_stock_sets_need_tensorflow_and_say_so(tmp_path, monkeypatch):
    import importlib.util

    honest = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else honest(name)
    )
    with pytest.raises(ValueError, match=r"gloro-jax\[prepare\].*--from FILE\.npz"):
        prepare("mnist", directory=tmp_path)
    with pytest.raises(ValueError, match="none of the sets that can be downloaded"):
        prepare("imagenet", directory=tmp_path)


def test_a_set_larger_than_memory_is_refused_before_it_is_read(prepared):
    path = store.set_folder("mine", prepared) / "contents.json"
    honest = path.read_text()
    told = json.loads(honest)
    told["splits"]["train"] = 10**12
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="more than half of this machine's"):
        store.read("mine", prepared)
    path.write_text(honest)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "digits", ".x", "x y"])
def test_names_that_could_leave_the_folder_are_refused(name, npz, tmp_path):
    with pytest.raises(ValueError, match="A set is called by letters"):
        prepare(name, source=npz, directory=tmp_path)


def test_float_arrays_stay_in_their_file(tmp_path):
    path = tmp_path / "f.npz"
    x, y = arrays()
    x = x.astype(np.float32) / 255
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="uint8 images of 1 or 3 channels"):
        prepare("mine", source=path, directory=tmp_path)
    assert open_data(DataConfig(str(path))).train.images.dtype == np.float32


def test_to_certify_a_test_split_is_enough(tmp_path):
    path = tmp_path / "only_test.npz"
    x, y = arrays()
    np.savez(path, x_test=x, y_test=y)
    assert len(open_test_split(DataConfig(str(path)))[0]) == 40
    with pytest.raises(ValueError, match="has no train split"):
        open_data(DataConfig(str(path)))


def test_too_few_class_names_are_refused(tmp_path):
    path = tmp_path / "f.npz"
    x, y = arrays()
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, class_names=np.array(["a", "b"]))
    with pytest.raises(ValueError, match="labels run to 3"):
        prepare("mine", source=path, directory=tmp_path)
    with pytest.raises(ValueError, match="Labels run from 0 to 1"):
        open_data(DataConfig(str(path)))


def test_a_hostile_folder_executes_nothing(npz, tmp_path, monkeypatch):
    """TFDS imports the classes that features.json names; we never let it."""
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = prepare("mine", source=npz, directory=tmp_path)
    features = json.loads((folder / "features.json").read_text())
    features["pythonClassName"] = "evilmod.Feature"
    (folder / "features.json").write_text(json.dumps(features))
    told = json.loads((folder / "contents.json").read_text())
    told["files"] = {}
    (folder / "contents.json").write_text(json.dumps(told))
    try:
        open_data(DataConfig("mine", directory=str(tmp_path)))
    finally:
        assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"splits": 3}'])
def test_contents_without_their_fields_are_refused(content, npz, tmp_path):
    folder = prepare("mine", source=npz, directory=tmp_path)
    (folder / "contents.json").write_text(content)
    with pytest.raises(ValueError, match=r"cannot be read \(it lacks"):
        store.read("mine", tmp_path)


def test_a_set_without_known_names_numbers_its_classes(tmp_path):
    path = tmp_path / "f.npz"
    x, y = arrays()
    np.savez(path, x_train=x, y_train=0 * y, x_test=x, y_test=0 * y)
    prepare("mine", source=path, directory=tmp_path)
    assert open_data(DataConfig("mine", directory=str(tmp_path))).class_names == ("0", "1")


def test_something_else_is_not_called_by_the_name_of_a_well_known_set(npz, tmp_path):
    with pytest.raises(ValueError, match=r"cifar10 has images of \(32, 32, 3\).*10 classes.*NAME"):
        prepare("cifar10", source=npz, directory=tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))
