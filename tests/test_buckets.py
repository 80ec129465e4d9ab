"""Run folders in buckets, on a stand-in: an object store in this process's memory.

What orbax writes of checkpoints goes past this layer, to its own driver of the bucket: it lies in
a folder here.
"""

import dataclasses

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import gloro_jax as gj
from gloro_jax import paths
from gloro_jax.cli import main
from gloro_jax.models import GloroCNN
from gloro_jax.paths import is_in_bucket, local, place
from gloro_jax.training import checkpoint, sitting

MODEL = GloroCNN(convs=((4, 3, 1),), dense=(8,))
CONFIG = gj.training.TrainConfig(epsilon=0.1, epochs=3, batch_size=256)
RUN = "gs://bucket/runs/one"


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
    with pytest.raises(ValueError, match="run folders alone may lie in a bucket"):
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
