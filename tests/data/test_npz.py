"""Files of arrays: what is accepted, and what is refused by name."""

import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.data.npz import read_npz

X = np.random.default_rng(0).integers(0, 256, (10, 4, 4)).astype(np.uint8)
Y = np.arange(10) % 2


def write(path, **changes):
    named = {"x_train": X, "y_train": Y, "x_test": X[:4], "y_test": Y[:4]} | changes
    arrays = {name: array for name, array in named.items() if array is not None}
    np.savez(path, **arrays)
    return path


def test_grey_images_get_their_channel_and_columns_become_labels(tmp_path):
    splits, names = read_npz(write(tmp_path / "a.npz", y_train=Y[:, None]))
    np.testing.assert_array_equal(splits["train"][0], X[..., None])
    np.testing.assert_array_equal(splits["train"][1], Y)
    assert names == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "one of x_train and y_train"),
        ({"y_train": Y[:3]}, "train: There is one label per image"),
        ({"y_test": Y[:4] - 1}, "test: Labels run from 0"),
        ({"x_test": X[:4] / 100.0}, "test: Images are a NumPy array of uint8"),
        ({"x_test": (X[:4] / 100.0).astype(np.float32)}, r"test: float32 images lie in \[0, 1\]"),
        ({"x_train": X[:, 0, 0]}, "train: Images have shape"),
        ({"x_train": np.array([{"a": 1}] * 10)}, "no .npz file of plain arrays"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(changes, message, tmp_path):
    path = write(tmp_path / "bad.npz", **changes)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        read_npz(path)
    assert "bad.npz" in str(caught.value)


def test_damaged_files_are_named(tmp_path):
    whole = write(tmp_path / "whole.npz").read_bytes()
    cases = {"cut.npz": whole[: len(whole) // 2], "empty.npz": b"", "text.npz": b"hello"}
    flipped = bytearray(whole)
    flipped[200] ^= 255
    for name, content in {**cases, "flipped.npz": bytes(flipped)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_npz(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.npz is not there"):
        read_npz(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", a=X)
    with pytest.raises(ValueError, match=r"holds \['a'\]"):
        read_npz(tmp_path / "other.npz")


def test_a_pickle_is_not_opened(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "bomb.npz").write_bytes(pickle.dumps(Bomb()))
    objects = np.empty(1, object)
    objects[0] = Bomb()
    np.savez(tmp_path / "inside.npz", x_test=objects, y_test=Y[:1])
    for name in ("bomb.npz", "inside.npz"):
        with pytest.raises(ValueError, match=name):
            read_npz(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_members_that_are_no_arrays_and_sizes_that_cannot_be_are_refused(tmp_path):
    import zipfile

    path = write(tmp_path / "odd.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match=r"odd\.npz is damaged, or no \.npz"):
        read_npz(path)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x_test.npy", (header % 2**50).ljust(127) + b"\n")
    with pytest.raises(ValueError, match=r"huge\.npz"):
        read_npz(tmp_path / "huge.npz")


def test_an_archive_that_unpacks_beyond_memory_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=np.zeros((4, 256, 256, 1), np.uint8))
    monkeypatch.setattr("gloro_jax.data.npz.memory", lambda: 2**18)
    with pytest.raises(ValueError, match=r"bomb\.npz takes .* GiB unpacked"):
        read_npz(path)


def test_a_label_of_two_to_the_forty_makes_no_names(tmp_path):
    path, x = tmp_path / "f.npz", np.zeros((4, 3, 3, 1), np.uint8)
    np.savez(path, x_train=x, y_train=np.array([0, 1, 0, 2**40]), x_test=x, y_test=np.arange(4) % 2)
    with pytest.raises(ValueError, match="without gaps"):
        gj.data.prepare("bomb", source=path, directory=tmp_path)
