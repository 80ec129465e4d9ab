"""A run that is interrupted anywhere and resumed ends exactly as one that was not."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
import threadpoolctl

import gloro_jax as gj
from gloro_jax import runs
from gloro_jax.models import GloroCNN
from gloro_jax.paths import locked
from gloro_jax.training import Interrupted, Session
from gloro_jax.training.checkpoint import Checkpoints
from gloro_jax.training.metrics import best_epoch
from gloro_jax.training.trainer import Trainer
from tests.conftest import CHILD_CACHE

MODEL = GloroCNN(convs=((4, 3, 1),), dense=(8,), num_classes=3)
CONFIG = gj.training.TrainConfig(
    epsilon=0.3,
    epochs=6,
    batch_size=20,
    learning_rate=1e-2,
    lookahead=4,
    augmentation=gj.data.Augmentation(crop=1),
)
STEPS = 6 * (120 // 20)


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("resume") / "whole"
    return gj.training.fit(MODEL, tiny_data, CONFIG, run=run)


def final_state(run):
    checkpoints = Checkpoints(run)
    snapshot = checkpoints.restore()
    checkpoints.close()
    assert snapshot is not None
    return snapshot


def without_timing(rows):
    return [{name: value for name, value in row.items() if name != "timing"} for row in rows]


def assert_same_run(run, whole):
    ours, theirs = final_state(run), final_state(whole.run)
    assert ours.step == theirs.step == STEPS
    assert ours.arrays.keys() == theirs.arrays.keys()
    assert {"state/step", "best/params/body/conv1/kernel"} <= ours.arrays.keys()
    assert any("spectral" in name for name in ours.arrays)
    assert any("opt_state" in name for name in ours.arrays)
    for name, array in ours.arrays.items():
        assert array.tobytes() == theirs.arrays[name].tobytes(), name
    rows = without_timing(runs.read_metrics(run))
    assert rows == without_timing(runs.read_metrics(whole.run))
    assert gj.load(run).digest == gj.load(whole.run).digest
    assert gj.load(run, checkpoint="last").digest == gj.load(whole.run, checkpoint="last").digest


@pytest.fixture(autouse=True, scope="module")
def heeds_ctrl_c():
    """A shell that starts the tests with & tells them to ignore SIGINT, and training obeys that."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


def stop_at(monkeypatch, step, number=signal.SIGINT):
    """Sends this process a real signal after a given step."""
    honest = Trainer._settle

    def settle(self):
        honest(self)
        if self.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "_settle", settle)


def resume(data, run, **options):
    session = Session(is_resuming=True, **options)
    return gj.training.fit(MODEL, data, CONFIG, run=run, session=session)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_saves_says_how_to_go_on_and_resuming_is_exact(
    tiny_data, tmp_path, monkeypatch, whole, number, capsys
):
    run = tmp_path / "run"
    for step in (2, 17):  # inside the first epoch, and inside another
        with monkeypatch.context() as patch:
            stop_at(patch, step, number)
            with pytest.raises(Interrupted, match=f"Stopped at step {step + 1}.*--resume") as info:
                resume(tiny_data, run)
            assert info.value.signal == number
    assert "resumed at step 3" in capsys.readouterr().err
    assert gj.load(run).lipschitz > 0  # the best epoch so far, frozen
    resume(tiny_data, run)
    assert_same_run(run, whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_resuming_a_finished_run_changes_nothing(tiny_data, whole, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    (run / "weights" / "best.safetensors").unlink()  # as if killed while freezing
    again = resume(tiny_data, run)
    assert again.best_epoch == whole.best_epoch
    assert_same_run(run, whole)


def test_weights_that_were_moved_away_are_written_again(tiny_data, whole, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    shutil.rmtree(run / "weights")
    resume(tiny_data, run)
    assert_same_run(run, whole)


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tiny_data, whole, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    config = runs.read_config(run)
    config["training"]["seed"] = 1
    runs.write_config(run, config)
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"step 36.*by a run with another config or other data"):
        gj.training.fit(
            MODEL, tiny_data, dataclasses.replace(CONFIG, seed=1), run=run,
            session=Session(is_resuming=True),
        )  # fmt: skip
    assert (run / "metrics.jsonl").read_bytes() == before


def test_how_far_a_training_came_is_said_until_it_has_ended(whole, tmp_path):
    assert runs.unfinished(whole.run) == ""
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    (run / "summary.json").unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:2]))
    assert "2 of 6 epochs are done" in runs.unfinished(run)


def test_going_on_elsewhere_is_said(tiny_data, whole, tmp_path, monkeypatch, capsys):
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    resume(tiny_data, run)
    assert "saved on" not in capsys.readouterr().err
    elsewhere = {"devices": 8, "kind": "TPU v5e", "jax": "0.1"}
    monkeypatch.setattr("gloro_jax.training.scaling.processes.place", lambda: elsewhere)
    resume(tiny_data, run)
    assert "now on 8 x TPU v5e with JAX 0.1" in capsys.readouterr().err


def test_a_run_begun_before_a_setting_came_goes_on(tiny_data, whole, tmp_path):
    """Its config does not say what it had; its checkpoints are of the same run all the same."""
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    config = runs.read_config(run)
    for name in ("momentum", "weight_decay"):
        del config["training"][name]
    runs.write_config(run, config)
    assert runs.identity(run) == runs.identity(whole.run)
    resume(tiny_data, run)
    config["training"]["momentum"] = 0.5
    runs.write_config(run, config)
    assert runs.identity(run) != runs.identity(whole.run)
    with pytest.raises(ValueError, match=r"momentum: 0\.5 in the run"):
        resume(tiny_data, run)


def test_blas_has_one_thread_from_the_first_number_on(tiny_data, tmp_path, monkeypatch):
    seen = []

    def init(self, *args, **kwargs):
        pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
        seen.extend(pool["num_threads"] for pool in pools)
        raise KeyError("seen")

    monkeypatch.setattr(Trainer, "__init__", init)
    with pytest.raises(KeyError, match="seen"):
        gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    assert seen
    assert set(seen) == {1}


def test_of_equal_epochs_the_one_that_certifies_further_is_best_and_then_the_last():
    def row(*numbers):
        names = ("vra_estimate", "clean", "vra_estimate_2x")
        return {"validation": dict(zip(names, numbers, strict=True))}

    assert best_epoch([row(0.5, 0.9, 0.1), row(0.5, 0.9, 0.4), row(0.5, 0.9, 0.2)]) == 2
    assert best_epoch([row(0.5, 0.9, 0.4), row(0.5, 0.9, 0.4), row(0.4, 1.0, 0.9)]) == 2
    assert best_epoch([row(0.5, 0.9, 0.4), row(0.5, 0.8, 0.9)]) == 1


@pytest.mark.slow
def test_stepping_back_in_a_finished_run_leaves_no_mixture(
    tiny_data, whole, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    early = tmp_path / "early"
    with monkeypatch.context() as patch:
        stop_at(patch, 29)
        with pytest.raises(Interrupted):
            resume(tiny_data, early)
    shutil.copytree(early / "checkpoints" / "30", run / "checkpoints" / "30")
    with monkeypatch.context() as patch:
        stop_at(patch, 31)
        with pytest.raises(Interrupted):
            resume(tiny_data, run, resume_step=30)
    assert "what came after step 30 now lies in" in capsys.readouterr().err
    assert not (run / "summary.json").exists()
    assert not (run / "weights" / "last.safetensors").exists()
    assert len(runs.read_metrics(run)) == 5
    aside = run / "set-aside" / "1"
    assert len(runs.read_metrics(aside)) == 6
    assert (aside / "weights" / "last.safetensors").exists()
    assert (aside / "summary.json").exists()
    resume(tiny_data, run)
    assert_same_run(run, whole)


def test_a_finished_run_that_lost_its_checkpoints_is_not_begun_again(tiny_data, whole, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(whole.run, run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ValueError, match=r"they were removed, .* Nothing was touched"):
        resume(tiny_data, run)
    assert len(runs.read_metrics(run)) == 6
    assert gj.load(run).digest == gj.load(whole.run).digest


def test_a_run_that_died_while_being_created_can_be_resumed(tiny_data, whole, tmp_path):
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    (run / "config.json.partial").write_text("{")
    resume(tiny_data, run)
    assert_same_run(run, whole)


def test_a_network_of_ones_own_must_be_the_same(tiny_data, tmp_path, monkeypatch):
    run, session = tmp_path / "run", Session(is_resuming=True)
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(Interrupted):
            gj.training.fit(MODEL.build(), tiny_data, CONFIG, run=run, session=session)
    other = dataclasses.replace(MODEL, activation="relu").build()
    with pytest.raises(ValueError, match="network: GloroNet"):
        gj.training.fit(other, tiny_data, CONFIG, run=run, session=session)
    result = gj.training.fit(MODEL.build(), tiny_data, CONFIG, run=run, session=session)
    assert len(result.history) == 6


def test_what_cannot_be_frozen_does_not_hide_why_training_stopped(tiny_data, tmp_path, monkeypatch):
    from gloro_jax.training import sitting

    def fail(*arguments, **options):
        raise ValueError("the bound is infinite")

    monkeypatch.setattr(sitting, "freeze", fail)
    stop_at(monkeypatch, 10)
    with pytest.raises(Interrupted, match="--resume") as caught:
        resume(tiny_data, tmp_path / "run")
    assert "the bound is infinite" in caught.value.__notes__[0]


CHILD = """
import sys, jax
import gloro_jax as gj
from tests.conftest import make_tiny_data
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
from tests.training.test_resume import CONFIG, MODEL
from gloro_jax.training import Session
gj.training.fit(MODEL, make_tiny_data(), CONFIG, run=sys.argv[1],
                session=Session(is_resuming=True, checkpoint_seconds=0.0))
"""


def killed(run, *, when):
    """Starts or resumes the run in a process of its own and kills it when told."""
    words = [sys.executable, "-c", CHILD, str(run), CHILD_CACHE]
    child = subprocess.Popen(words, stderr=subprocess.PIPE)
    while child.poll() is None and not when(run):
        time.sleep(0.002)
    child.kill()
    _, errors = child.communicate()
    return child.returncode, errors.decode()


def newest(run):
    steps = [int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


def is_saving(run):
    return any((run / "checkpoints").glob("*tmp*"))


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_again_and_again_also_while_saving(kills, tmp_path, whole):
    run = tmp_path / "run"
    for i in range(1, kills + 1):
        past = newest(run) + max(1, (STEPS - 4) // (kills + 1))
        is_time = (lambda r, n=past: newest(r) >= n) if i % 2 else (
            lambda r, n=past: newest(r) >= n - 1 and is_saving(r)
        )  # fmt: skip
        code, errors = killed(run, when=is_time)
        assert code == -signal.SIGKILL, errors
    assert newest(run) < STEPS
    code, errors = killed(run, when=lambda run: False)
    assert code == 0, errors
    assert "resumed at step" in errors
    assert_same_run(run, whole)


def test_before_the_first_checkpoint_it_says_so_and_starts(tiny_data, whole, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole.run / "config.json", run)
    (run / "weights").mkdir()
    (run / "metrics.jsonl").write_text('{"epoch": 1, "stale": true}\n{"half a li')
    resume(tiny_data, run)
    assert "no finished checkpoint yet: starting from the beginning" in capsys.readouterr().err
    assert_same_run(run, whole)


@pytest.fixture(scope="module")
def stopped_twice(tiny_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("stopped") / "run"
    for step in (10, 19):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Interrupted):
                resume(tiny_data, run)
    return run


@pytest.fixture
def interrupted(stopped_twice, tmp_path):
    """A run stopped at step 20, with an older checkpoint at step 11."""
    return shutil.copytree(stopped_twice, tmp_path / "run")


def truncate(folder):
    largest = max(folder.rglob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip(folder):
    largest = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def lose_position(folder):
    shutil.rmtree(folder / "position")


def change_position(folder):
    path = folder / "position" / "metadata"
    path.write_text(path.read_text().replace('"batches": 2', '"batches": 1'))


OTHERS = (truncate, flip, empty, lose_position)


@pytest.mark.slow
def test_a_damaged_checkpoint_ends_in_one_sentence(interrupted):
    """Reads that are under way when another fails come in before the loop they answer to ends."""
    for path in (interrupted / "checkpoints" / "20").rglob("ocdbt.process_0/d/*"):
        path.write_bytes(path.read_bytes()[:100])
    code = f"""
from pathlib import Path
from gloro_jax.training.checkpoint import Checkpoints
try:
    Checkpoints(Path({str(interrupted)!r})).restore()
except ValueError as error:
    print(error)
"""
    for _ in range(5):  # without it, three of four end in tracebacks
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0
        assert "is damaged" in done.stdout
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "damage", [change_position, *(pytest.param(d, marks=pytest.mark.slow) for d in OTHERS)]
)
def test_a_damaged_checkpoint_is_named_and_never_passed_over(tiny_data, whole, interrupted, damage):
    damage(interrupted / "checkpoints" / "20")
    with pytest.raises(ValueError, match=r"step 20, .* is damaged: .*--resume-step 11"):
        resume(tiny_data, interrupted)
    assert (interrupted / "checkpoints" / "20").exists()
    with pytest.raises(ValueError, match=r"no checkpoint at step 12; there is 11, 20"):
        resume(tiny_data, interrupted, resume_step=12)
    resume(tiny_data, interrupted, resume_step=11)
    assert_same_run(interrupted, whole)
    assert (interrupted / "set-aside" / "1" / "checkpoints" / "20").exists()


def test_another_config_is_refused_with_the_difference(tiny_data, interrupted):
    other = dataclasses.replace(CONFIG, epochs=7, learning_rate=0.5)
    session = Session(is_resuming=True)
    with pytest.raises(ValueError, match=r"another config") as caught:
        gj.training.fit(MODEL, tiny_data, other, run=interrupted, session=session)
    assert "training.epochs: 6 in the run, 7 now" in str(caught.value)
    assert "training.learning_rate: 0.01 in the run, 0.5 now" in str(caught.value)
    changed = gj.data.from_arrays(
        (tiny_data.train.images[::-1].copy(), tiny_data.train.labels[::-1].copy()),
        (tiny_data.test.images, tiny_data.test.labels),
        name="tiny",
    )
    with pytest.raises(ValueError, match=r"data\.fingerprint"):
        gj.training.fit(MODEL, changed, CONFIG, run=interrupted, session=session)
    wider = dataclasses.replace(MODEL, dense=(10,))
    with pytest.raises(ValueError, match=r"model\.dense"):
        gj.training.fit(wider, tiny_data, CONFIG, run=interrupted, session=session)


def test_a_state_that_is_not_finite_never_displaces_a_good_one(
    tiny_data, whole, interrupted, monkeypatch
):
    honest = Trainer._settle

    def settle(self):
        honest(self)
        if self.step == 24:  # as if an update had overflowed after a finite loss
            self.state = dataclasses.replace(
                self.state, params=jax.tree.map(lambda a: a * np.inf, self.state.params)
            )

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_settle", settle)
        with pytest.raises(FloatingPointError, match="not finite at step 2"):
            resume(tiny_data, interrupted, checkpoint_seconds=0.0)
    resume(tiny_data, interrupted)
    assert_same_run(interrupted, whole)


def test_a_run_that_failed_before_its_first_checkpoint_begins_again(
    tiny_data, whole, tmp_path, monkeypatch, capsys
):
    honest, run = Trainer._settle, tmp_path / "run"

    def settle(self):
        honest(self)
        if self.step == 9:
            raise OSError("the disk of the photographs is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_settle", settle)
        with pytest.raises(OSError, match="photographs"):
            gj.training.fit(MODEL, tiny_data, CONFIG, run=run)
    learnt = (run / "weights" / "best.safetensors").read_bytes()
    resume(tiny_data, run)
    assert "best weights so far now lie in" in capsys.readouterr().err
    assert (run / "set-aside" / "1" / "weights" / "best.safetensors").read_bytes() == learnt
    assert_same_run(run, whole)


def test_a_run_is_trained_by_one_process_at_a_time(tiny_data, interrupted):
    held = locked(interrupted, busy="")
    with held, pytest.raises(FileExistsError, match="Another process"):
        resume(tiny_data, interrupted)


def test_without_resume_a_run_is_never_touched(tiny_data, interrupted):
    before = sorted((p, p.stat().st_mtime_ns) for p in interrupted.rglob("*"))
    with pytest.raises(FileExistsError, match="--resume"):
        gj.training.fit(MODEL, tiny_data, CONFIG, run=interrupted)
    assert sorted((p, p.stat().st_mtime_ns) for p in interrupted.rglob("*")) == before


FULL = """
import resource, signal, sys
import gloro_jax as gj
from tests.conftest import make_tiny_data
from tests.training.test_resume import CONFIG, MODEL
from gloro_jax.training import Session
from gloro_jax.training.metrics import best_epoch
from gloro_jax.training.trainer import Trainer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
honest = Trainer._settle
def settle(self):
    honest(self)
    if self.step == 22:  # from here on no file can grow beyond this: the disk is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
Trainer._settle = settle
try:
    gj.training.fit(MODEL, make_tiny_data(), CONFIG, run=sys.argv[1],
                    session=Session(is_resuming=True, checkpoint_seconds=0.0))
except OSError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_intact(tiny_data, whole, interrupted):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(interrupted)], capture_output=True, text=True, check=False
    )
    assert "could not be written" in done.stdout, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "then go on with --resume" in done.stdout
    resume(tiny_data, interrupted)
    assert_same_run(interrupted, whole)


@pytest.mark.slow
def test_event_files_and_a_profile_on_request(tiny_data, tmp_path):
    session = Session(is_writing_tensorboard=True, is_profiling=True)
    result = gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "run", session=session)
    events = list((result.run / "tensorboard").glob("events*"))
    assert len(events) == 1
    assert b"validation/vra_estimate" in events[0].read_bytes()
    assert list((result.run / "profile").rglob("*.trace.json.gz"))
    timing = result.history[-1]["timing"]
    assert {"data", "step", "evaluation", "images_per_second"} <= timing.keys()


def test_nothing_in_a_run_folder_is_executed(whole, tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    bomb = pickle.dumps(Bomb())
    run = tmp_path / "run"
    for victim in ("config.json", "weights/best.safetensors"):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole.run, run)
        (run / victim).write_bytes(bomb)
        with pytest.raises(ValueError, match=victim.split("/")[-1]):
            gj.load(run)
    shutil.rmtree(run)
    shutil.copytree(whole.run, run)
    for path in (run / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(bomb)
    checkpoints = Checkpoints(run)
    with pytest.raises(ValueError, match="is damaged"):
        checkpoints.restore()
    checkpoints.close()
    config = json.loads((whole.run / "config.json").read_text())
    config["model"]["__class__"] = "os.system"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no field '__class__'"):
        gj.load(run)
    assert not (tmp_path / "executed").exists()


def test_a_snapshot_does_not_share_memory_with_the_run(tiny_data):
    trainer = Trainer(MODEL.build(), tiny_data, CONFIG, backend="pmap")
    snapshot = trainer.snapshot()
    before = {name: array.copy() for name, array in snapshot.arrays.items()}
    trainer.state, _ = trainer._train(trainer.state, next(batches(tiny_data)))
    jax.block_until_ready(trainer.state.params)
    for name, array in snapshot.arrays.items():
        np.testing.assert_array_equal(array, before[name])


def batches(data):
    return gj.data.training_batches(data.train, batch_size=20, seed=0, epoch=1)


def test_a_signal_between_two_epochs_of_fit_is_heard_as_any_other(tiny_data, tmp_path, monkeypatch):
    """There nobody else has the word, as the caller of an iterator over epochs has."""

    def interrupted(row):
        signal.raise_signal(signal.SIGINT)
        return row

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        handing_over = types.SimpleNamespace(deepcopy=interrupted)
        monkeypatch.setattr("gloro_jax.training.trainer.copy", handing_over)
        with pytest.raises(KeyboardInterrupt) as stopped:
            gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(stopped.value, Interrupted)
    assert "everything is saved" in str(stopped.value)


def test_two_trainings_side_by_side_leave_event_loops_as_they_were(tmp_path, monkeypatch):
    before = asyncio.get_event_loop_policy()
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first, second = Checkpoints(tmp_path / "a"), Checkpoints(tmp_path / "b")
    first.close()
    assert asyncio.get_event_loop_policy() is not before
    second.close()
    assert asyncio.get_event_loop_policy() is before

    def full(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager", full)
    with pytest.raises(OSError, match="no room"):
        Checkpoints(tmp_path / "c")
    assert asyncio.get_event_loop_policy() is before
