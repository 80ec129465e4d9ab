"""Paths as people write them: home directories, addresses, and letters that storage misreads."""

import fsspec
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.paths import local, storable
from gloro_jax.training.checkpoint import Checkpoints, Snapshot

DOORS = {
    "runs": lambda path: gj.runs.check_new(path),
    "load": lambda path: gj.load(path),
    "npz": lambda path: gj.data.open_data(gj.data.DataConfig(f"{path}.npz")),
    "import": lambda path: gj.torch_import.import_torch(path, out="new"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://bucket/run", "file:/data/run"])
def test_addresses_elsewhere_are_refused_and_nothing_is_made(door, path, tmp_path, monkeypatch):
    def missing(name, **options):
        raise ImportError(name)

    monkeypatch.setattr(fsspec, "filesystem", missing)  # whatever is installed
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"names storage elsewhere|not installed: pip install"):
        DOORS[door](path)
    assert not list(tmp_path.iterdir())


def test_the_home_directory_is_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local("~/run") == tmp_path / "run"
    with pytest.raises(ValueError, match="HOME"):
        local("~nobody-of-that-name/run")


@pytest.mark.parametrize("name", ["[x]", "a\\b", "gs:"])
def test_where_checkpoints_could_not_be_read_again_no_run_begins(name, tmp_path):
    with pytest.raises(ValueError, match="could not be read again"):
        storable(tmp_path / name / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a b", "a[b", "*", "{x}", "é", "%20", "~", "it's"])
def test_everywhere_else_they_can(name, tmp_path):
    run = storable(tmp_path / name / "run")
    run.mkdir(parents=True)
    checkpoints = Checkpoints(run)
    checkpoints.save(Snapshot(1, {"a": np.ones(3)}, {"p": 1}))
    checkpoints.finish()
    found = checkpoints.restore()
    checkpoints.close()
    assert found is not None
    np.testing.assert_array_equal(found.arrays["a"], 1)
