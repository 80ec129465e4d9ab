"""Runs and prepared sets in buckets, on a stand-in: an object store in this process's memory.

What orbax writes of checkpoints goes past this layer, to its own driver of the bucket: it lies in
a folder here.
"""

import dataclasses
import itertools
import json
import shutil
import threading

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import gloro_jax as gj
from gloro_jax import paths
from gloro_jax.cli import main
from gloro_jax.data import DataConfig, mirror
from gloro_jax.data.preparing import prepare
from gloro_jax.data.store import data_directory
from gloro_jax.models import GloroCNN
from gloro_jax.paths import is_in_bucket, local, place
from gloro_jax.training import checkpoint, sitting

MODEL = GloroCNN(convs=((4, 3, 1),), dense=(8,))
CONFIG = gj.training.TrainConfig(epsilon=0.1, epochs=3, batch_size=256)
RUN = "gs://bucket/runs/one"
DATA = "gs://bucket/data"
FOLDER = "/bucket/data/gloro_images/mine/1.0.0"


class Store(MemoryFileSystem):
    """Objects by key; a file is there when it is closed, and never grows."""

    protocol = ("gcs", "gs")
    store, pseudo_dirs = {}, [""]  # as the class above has them

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs:/").removeprefix("gcs:/"))

    def _open(self, path, mode="rb", **options):
        if "a" in mode:
            raise NotImplementedError("objects do not grow")
        return super()._open(path, mode, **options)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: Store())
    monkeypatch.setattr(Store, "store", {})
    monkeypatch.setattr(Store, "pseudo_dirs", ["", "/bucket"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()

    class Here(checkpoint.Checkpoints):
        def __init__(self, run, *, identity=""):
            super().__init__(tmp_path, identity=identity)

    monkeypatch.setattr(sitting, "Checkpoints", Here)
    yield Store
    forget()


def forget():
    """Buckets are looked at once a process, and the layer below keeps its file systems."""
    paths._reach.cache_clear()
    from etils.epath import backend

    backend._FileSystemSpecBackend._get_filesystem.cache_clear()


def test_a_run_in_a_bucket_is_the_run_of_a_folder(bucket, tmp_path):
    data = gj.data.digits()
    there = gj.training.fit(MODEL, data, CONFIG, run=RUN)
    (tmp_path / "checkpoints").rename(tmp_path / "first")
    here = gj.training.fit(MODEL, data, CONFIG, run=tmp_path / "run")
    assert str(there.run) == RUN
    names = {key.removeprefix("/bucket/runs/one/") for key in bucket.store}
    expected = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*")}
    assert names == {n for n in expected if "." in n and not n.startswith("checkpoints")}
    assert gj.load(RUN).digest == here.frozen.digest
    assert gj.runs.read_config(RUN) == gj.runs.read_config(tmp_path / "run")
    rows = [{k: row[k] for k in ("epoch", "train")} for row in gj.runs.read_metrics(RUN)]
    assert rows == [{k: row[k] for k in ("epoch", "train")} for row in here.history]
    digests = [
        gj.runs.variables_digest(gj.runs.load_variables(run, checkpoint="last"))
        for run in (RUN, tmp_path / "run")
    ]
    assert digests[0] == digests[1]
    with pytest.raises(FileExistsError, match="never overwritten"):
        gj.training.fit(MODEL, data, CONFIG, run=RUN)


def test_a_run_that_was_stopped_goes_on_in_its_bucket(bucket, tmp_path):
    data, rows = gj.data.digits(), []
    for row in gj.training.epochs(MODEL, data, CONFIG, run=RUN):
        rows.append(row)
        if len(rows) == 2:
            break
    assert [row["epoch"] for row in gj.runs.read_metrics(RUN)] == [1, 2]
    session = gj.training.Session(is_resuming=True)
    other = dataclasses.replace(CONFIG, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.002 in the run, 0\.001 now"):
        gj.training.fit(MODEL, data, other, run=RUN, session=session)
    found = gj.training.fit(MODEL, data, CONFIG, run=RUN, session=session)
    assert [row["epoch"] for row in gj.runs.read_metrics(RUN)] == [1, 2, 3]
    assert gj.load(RUN).digest == found.frozen.digest


def test_commands_take_a_bucket(bucket, capsys):
    words = ["--epochs", "2", "--checkpoint-seconds", "600"]
    status(["train", "digits", "--run", RUN, *words])
    assert f"next: gloro-jax certify {RUN}" in told(capsys)
    for command in (["certify"], ["attack", "--examples", "5", "--steps", "2"]):
        status([command[0], RUN, *command[1:]])
    assert "VRA" in told(capsys)
    status(["views", RUN, "--out", "gs://bucket/runs/two", "--views", "identity", "mirror"])
    assert gj.load("gs://bucket/runs/two").net.views == ("identity", "mirror")
    status(["report", RUN, "--examples", "3", "--steps", "2"])
    assert b"<html" in bucket.store["/bucket/runs/one/report.html"].getvalue()[:200]


def status(words):
    with pytest.raises(SystemExit, match="0"):
        main(words)


def told(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_weights_that_were_altered_in_a_bucket_are_refused(bucket):
    gj.training.fit(MODEL, gj.data.digits(), dataclasses.replace(CONFIG, epochs=1), run=RUN)
    key = "/bucket/runs/one/weights/best.safetensors"
    content = bytearray(bucket.store[key].getvalue())
    content[-1] ^= 1
    place(f"{RUN}/weights/best.safetensors").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="digest"):
        gj.load(RUN)


@pytest.fixture
def arrays(tmp_path):
    """An .npz file of 40 training and 20 test images."""
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 3), np.uint8)
    labels = np.arange(60) % 4
    np.savez(
        tmp_path / "mine.npz",
        x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:],
    )  # fmt: skip
    return images, tmp_path / "mine.npz"


@pytest.fixture
def prepared(bucket, arrays):
    """The same as a set in the bucket."""
    prepare("mine", source=arrays[1], directory=data_directory(DATA))
    return DataConfig("mine", directory=DATA)


def cached(tmp_path):
    return tmp_path / "cache/gloro_jax/gs" / FOLDER[1:]


def test_a_set_in_a_bucket_is_that_of_a_folder(prepared, arrays, tmp_path):
    prepare("mine", source=arrays[1], directory=tmp_path / "data")
    here = gj.data.open_data(DataConfig("mine", directory=str(tmp_path / "data")))
    there = gj.data.open_data(prepared)
    np.testing.assert_array_equal(there.test.images, arrays[0][40:])
    np.testing.assert_array_equal(there.train.images, here.train.images)
    assert there.fingerprint == here.fingerprint


def test_a_set_is_copied_once_and_anew_when_it_changed(prepared, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "cache")  # another machine than the one that prepared it
    opened, copied = gj.data.open_data(prepared), []
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "_stream", lambda source, target: copied.append(str(source)))
        gj.data.open_data(prepared)
    assert not copied
    changed = 255 - opened.test.images
    np.savez(tmp_path / "other.npz", x_train=changed, y_train=opened.test.labels, x_test=changed,
             y_test=opened.test.labels)  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    prepare(
        "mine", source=tmp_path / "other.npz", directory=data_directory(DATA), is_overwriting=True
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.testing.assert_array_equal(gj.data.open_data(prepared).test.images, changed)


def test_a_copy_that_was_stopped_goes_on(prepared, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "cache")
    stream, copied = mirror._stream, []

    def one(source, target):
        if copied:
            raise OSError("the network is gone")
        copied.append(target)
        stream(source, target)

    monkeypatch.setattr(mirror, "_stream", one)
    with pytest.raises(OSError, match="the network is gone"):
        gj.data.open_data(prepared)
    assert not (cached(tmp_path) / "contents.json").exists()
    monkeypatch.setattr(mirror, "_stream", lambda *at: (copied.append(at[1]), stream(*at)))
    assert len(gj.data.open_data(prepared).test) == 20
    assert len(copied) == len(set(copied)) > 2


def test_a_file_of_a_set_that_is_missing_or_another_is_named(prepared, bucket, tmp_path):
    shutil.rmtree(tmp_path / "cache")
    key = next(k for k in bucket.store if "test.array_record" in k)
    whole = bucket.store[key].getvalue()
    place(f"gs:/{key}").write_bytes(whole[:-1] + b"?")
    with pytest.raises(ValueError, match=r"test\.array_record.* is not the file that was prepared"):
        gj.data.open_data(prepared)
    place(f"gs:/{key}").unlink()
    with pytest.raises(ValueError, match=r"test\.array_record.* is not there"):
        gj.data.open_data(prepared)
    assert not (cached(tmp_path) / "contents.json").exists()


def test_a_copy_that_was_damaged_says_how_to_have_it_again(prepared, tmp_path):
    file = next(cached(tmp_path).glob("*test.array_record*"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"missing or damaged\..* remove that folder"):
        gj.data.open_data(prepared)
    shutil.rmtree(cached(tmp_path))
    assert len(gj.data.open_data(prepared).test) == 20


def test_of_several_processes_one_copies_and_the_others_wait(prepared, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(mirror, "_WAIT", 0.01)
    cached(tmp_path).parent.mkdir(parents=True)
    fetching = threading.Thread(target=mirror.fetch, args=("mine", data_directory(DATA)))
    with paths.locked(cached(tmp_path).parent, busy=""):
        fetching.start()
        fetching.join(0.2)
        assert fetching.is_alive()
        assert not cached(tmp_path).exists()
    fetching.join(30)
    assert (cached(tmp_path) / "contents.json").is_file()


def test_a_bucket_writes_nowhere_but_into_its_copy(prepared, bucket, tmp_path):
    shutil.rmtree(tmp_path / "cache")
    key = f"{FOLDER}/contents.json"
    told = json.loads(bucket.store[key].getvalue())
    for file in ("../../stolen", "/stolen", "a/b", "..\\stolen"):
        place(f"gs:/{key}").write_text(json.dumps({**told, "files": {file: "0" * 64}}))
        with pytest.raises(ValueError, match="is no file beside it"):
            gj.data.open_data(prepared)
    with pytest.raises(ValueError, match="would be elsewhere"):
        mirror.here(place("gs://bucket/../../data"))
    assert not cached(tmp_path).exists()


def test_what_cannot_be_sent_is_kept_here(bucket, arrays, tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError("no credentials")

    monkeypatch.setattr(mirror, "_stream", fail)
    with pytest.raises(OSError, match=r"mine is prepared in .*cache.*no credentials"):
        prepare("mine", source=arrays[1], directory=data_directory(DATA))
    assert (cached(tmp_path) / "contents.json").is_file()
    assert not bucket.store.get(f"{FOLDER}/contents.json")


def test_half_a_set_in_a_bucket_is_none(prepared, bucket):
    del bucket.store[f"{FOLDER}/contents.json"]
    with pytest.raises(ValueError, match="There is no data set 'mine'"):
        gj.data.open_data(prepared)


def test_photographs_in_a_bucket_are_read_from_the_copy(bucket, tmp_path):
    tree(tmp_path / "zoo", 8)
    prepare("zoo", source=tmp_path / "zoo", directory=data_directory(DATA), shorter_side=16)
    shutil.rmtree(tmp_path / "cache")
    opened = gj.data.open_data(DataConfig("zoo", directory=DATA, image_size=16, validation=0.25))
    assert (len(opened.train), len(opened.test)) == (12, 16)
    assert opened.test.images[np.arange(16)].shape == (16, 16, 16, 3)


def tree(folder, count):
    from PIL import Image

    for split, kind, i in itertools.product(("train", "test"), ("cat", "dog"), range(count)):
        path = folder / split / kind / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 24), (i * 20, 90, 40 + 80 * (kind == "cat"))).save(path)


def test_commands_know_data_in_a_bucket(prepared, arrays, capsys):
    status(["data", "list", "--data-dir", DATA])
    assert "mine" in told(capsys)
    status(["data", "prepare", "yours", "--from", str(arrays[1]), "--data-dir", DATA])
    assert f"yours is in {DATA}/gloro_images/yours" in told(capsys)
    status(["data", "show", "yours", "--data-dir", DATA, "--sheet", "sheet.png"])
    with pytest.raises(SystemExit, match="2"):
        main(["data", "prepare", "yours", "--from", str(arrays[1]), "--data-dir", DATA])
    assert "is prepared already" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["is_profiling", "is_writing_tensorboard"])
def test_what_writes_files_of_this_machine_is_refused(field, bucket):
    session = gj.training.Session(**{field: True})
    with pytest.raises(ValueError, match="write files of this machine"):
        gj.training.fit(MODEL, gj.data.digits(), CONFIG, run=RUN, session=session)
    assert not bucket.store


def test_one_slash_is_as_good_as_two():
    for path in ("gs:/bucket/run", "s3://bucket/run", "az://bucket/run"):
        assert is_in_bucket(path)
    for path in ("/gs/run", "gs", "http://host/run", "file:/run"):
        assert not is_in_bucket(path)
    with pytest.raises(ValueError, match="only run folders and data directories may"):
        local("gs://bucket/data.npz")


@pytest.mark.parametrize(("kind", "package"), [("gs", "gcsfs"), ("s3", "s3fs"), ("az", "adlfs")])
def test_without_its_package_a_bucket_is_refused_with_the_cure(kind, package, monkeypatch):
    forget()

    def missing(name, **options):
        raise ImportError(f"Please install {package}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ValueError, match=f"pip install {package}. Or mount the bucket"):
        gj.load(f"{kind}://bucket/run")
    with pytest.raises(ValueError, match=f"pip install {package}"):
        gj.training.fit(MODEL, gj.data.digits(), CONFIG, run=f"{kind}://bucket/run")


def test_a_bucket_that_cannot_be_reached_is_said_so(monkeypatch):
    forget()

    class Closed(Store):
        def exists(self, path, **options):
            raise PermissionError("403 Forbidden")

    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: Closed())
    with pytest.raises(ValueError, match=r"cannot be reached: PermissionError: 403.*credentials"):
        gj.load(RUN)
    forget()
