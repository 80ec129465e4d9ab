"""Threads or processes decode photographs: the same pixels, files and errors by either."""

import concurrent.futures.process
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("array_record", reason="array_record exists for Linux only")
from array_record.python.array_record_module import ArrayRecordWriter

from gloro_jax.data import DataConfig, open_data, prepare, store
from gloro_jax.data.photographs import decoding, shards, workers

SIDE, SIZE, COUNT = 24, 20, 9


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(1)
    for split in ("train", "val"):
        for name in ("bee", "cow"):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(COUNT):
                pixels = rng.integers(0, 256, (30 + i, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.jpg")
    return folder


def prepared(tree, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_PER_SHARD", 5)
        return prepare("zoo", source=tree, directory=place, shorter_side=SIDE)


@pytest.fixture(scope="module")
def directory(tree, tmp_path_factory):
    place = tmp_path_factory.mktemp("sets")
    prepared(tree, place)
    return place


@pytest.fixture(scope="module")
def opened(directory):
    return open_data(DataConfig("zoo", 0.2, directory=str(directory), image_size=SIZE))


@pytest.fixture
def processes():
    """Two processes, for any number of pictures."""
    with pytest.MonkeyPatch.context() as patch:
        workers.lasting.cache_clear()
        patch.setattr(workers, "count", lambda: 2)
        patch.setattr(workers, "_MOST_THREADS", 1)
        patch.setattr(decoding, "_FEW", 1)
        yield
        workers.lasting().shutdown()
        workers.lasting.cache_clear()


def test_processes_give_the_pixels_that_threads_give(opened, processes, monkeypatch):
    pictures, test = opened.train.images, opened.test.images
    which = np.array([11, 3, 7, 0, 3])
    cuts = [
        lambda: pictures[which],
        lambda: test[2:],
        lambda: test[::-1],
        lambda: pictures.random_crops(which, area=0.3, seed=1, epoch=2),
        lambda: test[:0],
    ]
    by_processes = [cut() for cut in cuts]
    assert workers.are_processes()
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_MOST_THREADS", 2)
        patch.setattr(workers, "lasting", functools.cache(workers.pool))
        assert not workers.are_processes()
        by_threads = [cut() for cut in cuts]
    for one, other in zip(by_processes, by_threads, strict=True):
        np.testing.assert_array_equal(one, other)
    by_processes[0][0] = 0  # an array like any other


def test_sets_prepared_by_processes_are_those_prepared_by_threads(
    tree, directory, tmp_path, processes
):
    folder = prepared(tree, tmp_path)
    files = store.contents("zoo", directory)["files"]
    assert len(files) == 8 + 3
    assert store.contents("zoo", tmp_path)["files"] == files
    assert folder.is_dir()


def records(tmp_path, raws):
    path = tmp_path / "train-00000-of-00001.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for raw in raws:
        writer.write(raw)
    writer.close()
    return decoding.Records((path,), np.arange(len(raws)), None, "one of 1990")


@pytest.mark.parametrize("few", [1, 100], ids=["pool", "alone"])
def test_a_damaged_record_is_named(tmp_path, tree, few, monkeypatch):
    monkeypatch.setattr(decoding, "_FEW", few)
    raw = (tree / "val" / "bee" / "0.jpg").read_bytes()
    found = records(tmp_path, [raw, raw, b"no picture", raw])
    cut = decoding.Middle(SIZE, SIDE)
    with pytest.raises(ValueError, match=r"Record 2 of .* is damaged"):
        decoding.decoded(found, cut)
    assert decoding.decoded(found[:2], cut).shape == (2, SIZE, SIZE, 3)


def test_errors_of_processes_arrive_and_a_killed_one_is_replaced(tmp_path, tree, processes):
    raw = (tree / "val" / "bee" / "0.jpg").read_bytes()
    found = records(tmp_path, [raw, raw, raw, b"no picture"])
    cut = decoding.Middle(SIZE, SIDE)
    with pytest.raises(ValueError, match=r"Record 3 of .* is damaged"):
        decoding.decoded(found, cut)
    sleeper = workers.lasting().submit(os.getpid)
    os.kill(sleeper.result(), signal.SIGKILL)

    def until_it_is_seen():
        for _ in range(100):
            decoding.decoded(found[:3], cut)

    with pytest.raises(ChildProcessError, match=r"One of 2 .*--resume.*LOKY_MAX_CPU_COUNT=1"):
        until_it_is_seen()
    assert decoding.decoded(found[:3], cut).shape == (3, SIZE, SIZE, 3)


def test_a_script_needs_no_main_guard_and_its_workers_end_with_it_and_not_by_signals(
    directory, tmp_path
):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import os, signal
            from gloro_jax.data import DataConfig, open_data
            from gloro_jax.data.photographs import decoding, workers
            workers.count, workers._MOST_THREADS, decoding._FEW = lambda: 2, 1, 1
            data = DataConfig("zoo", directory={str(directory)!r}, image_size=8)
            images = open_data(data).test.images
            def ask_all():
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: print("asked to stop", flush=True))
                    os.killpg(os.getpgrp(), number)
            workers.lasting()
            ask_all()  # before workers have begun
            before = images[:]
            ask_all()
            assert (images[:] == before).all()
            print(*{{workers.lasting().submit(os.getpid).result() for _ in range(20)}}, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    *asked, pids = done.stdout.splitlines()
    assert asked == 4 * ["asked to stop"]
    assert "Traceback" not in done.stderr
    assert 1 <= len(pids.split()) <= 2
    last = time.monotonic() + 30
    while any(map(is_running, pids.split())):
        assert time.monotonic() < last, "workers outlive the process that they worked for"
        time.sleep(0.1)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_pool_that_takes_no_more_tasks_is_said_in_the_same_sentence():
    def refused():
        yield from ()
        raise concurrent.futures.process.BrokenProcessPool

    with pytest.raises(ChildProcessError, match="ended from outside"), workers.tasks(refused()):
        pass


def test_what_has_not_begun_is_cancelled_when_a_task_fails(monkeypatch):
    monkeypatch.setattr(workers, "count", lambda: 1)
    gate = threading.Event()

    def fails():
        gate.wait(10)
        raise KeyError("task")

    def first_of(futures):
        with workers.tasks(futures) as tasks:
            gate.set()
            return tasks[0].result()

    with workers.pool() as pool:
        slow = (pool.submit(time.sleep, 0.02) for _ in range(50))
        futures = [pool.submit(fails), *slow]
        with pytest.raises(KeyError):
            first_of(futures)
    assert sum(future.cancelled() for future in futures) > 40
