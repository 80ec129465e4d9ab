"""Several processes: the same batches and weights as one, and an end together, whatever happens."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.data import evaluation_batches, training_batches
from gloro_jax.runs import load_variables, read_metrics
from gloro_jax.training.interrupt import StopRequest
from gloro_jax.training.scaling import processes
from gloro_jax.training.scaling.parallel import share
from gloro_jax.training.scaling.requests import Requests
from tests.conftest import CHILD_CACHE

# What each process runs; the last words are for fit.
CHILD = """
import json, sys, jax
from tests.conftest import make_tiny_data  # which asks for four devices
number, count, port, devices, run, family, more = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
from gloro_jax.training import Session
from gloro_jax.training.scaling import processes
if int(count) > 1:
    processes.join(coordinator=f"127.0.0.1:{port}", processes=int(count), process=int(number))
print("joined", flush=True)
assert (jax.process_count(), jax.local_device_count()) == (int(count), int(devices))
import gloro_jax as gj
from gloro_jax.models import ChordLiResNet, LiResNet
more = json.loads(more)
sizes = {"depth": 2, "width": 4, "num_classes": 3, "dense_features": 6}
nets = {"liresnet": LiResNet(**sizes), "chord": ChordLiResNet(**sizes, dense_depth=1)}
config = gj.training.TrainConfig(
    epsilon=0.3, epochs=more.get("epochs", 7), batch_size=40, learning_rate=0.01,
    optimizer=more.get("optimizer", "nadam"), seed=more.get("seed", [0] * 9)[int(number)],
)
session = Session(is_resuming=more.get("resume", False), checkpoint_seconds=more.get("every", 60.0))
result = gj.training.fit(nets[family], make_tiny_data(), config, run=run, session=session,
                         backend=more.get("backend", "pmap"))
print("digest", result.frozen.digest)
"""


def free_port():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def start(run, *, count=2, devices=2, family="liresnet", **more):
    """One child per process, their output piped."""
    port = str(free_port())
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": CHILD_CACHE}
    return [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(n), str(count), port, str(devices), str(run), family,
             json.dumps(more)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for n in range(count)
    ]  # fmt: skip


def ends(children, timeout=240):
    """(status, output, errors) of each."""
    told = [child.communicate(timeout=timeout) for child in children]
    return [(child.returncode, *words) for child, words in zip(children, told, strict=True)]


def test_the_rows_of_all_processes_are_the_batches_of_one(tiny_data):
    halves = [slice(0, 20), slice(20, 40)]
    for epoch in (1, 2):
        settings = {"batch_size": 40, "seed": 3, "epoch": epoch}
        parts = [training_batches(tiny_data.train, rows=rows, **settings) for rows in halves]
        for whole, *shares in zip(
            training_batches(tiny_data.train, **settings), *parts, strict=True
        ):
            for name in whole._fields:
                joined = np.concatenate([getattr(share, name) for share in shares])
                np.testing.assert_array_equal(joined, getattr(whole, name))
    whole = list(evaluation_batches(tiny_data.test, batch_size=40))
    parts = [list(evaluation_batches(tiny_data.test, batch_size=40, rows=r)) for r in halves]
    assert sum(batch.is_real.sum() for part in parts for batch in part) == len(tiny_data.test)
    np.testing.assert_array_equal(
        np.concatenate([parts[0][-1].images, parts[1][-1].images]), whole[-1].images
    )


def test_the_shares_of_all_processes_are_the_whole_batch_in_order(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 4)
    rows = []
    for number in range(4):
        monkeypatch.setattr("jax.process_index", lambda number=number: number)
        rows += range(40)[share(40)]
    assert rows == list(range(40))


def test_a_request_is_acted_on_when_every_process_has_seen_it(monkeypatch):
    """Whoever sees the sums of step 7 early waits, as whoever sees them a step later must."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    early, late, stop = Requests(), Requests(), StopRequest()
    stop.signal = signal.SIGINT
    asks = early.added("batch", stop)[1].sum(axis=0)
    assert asks.sum() > 0
    assert early.added("batch", StopRequest())[1].sum() == 0
    assert early.heard(7, {"loss": 1.0, "asks": asks}) == {"loss": 1.0}
    assert not early.is_due(7, stop)  # its own signal alone decides nothing
    assert not late.is_due(7, StopRequest())
    assert late.signal is None
    late.heard(7, {"loss": 1.0, "asks": asks})
    assert late.signal == signal.SIGINT  # so that its status is that of the one that was stopped
    assert early.is_due(8, StopRequest())
    assert late.is_due(8, StopRequest())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "host:1"}, "go together"),
        ({"processes": 2, "process": 0}, "go together"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "HOST:PORT"),
        ({"coordinator": "host:70000", "processes": 2, "process": 0}, "from 1 to 65535"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "from 0 to --processes - 1"),
        ({"coordinator": "host:1", "processes": 0, "process": 0}, "from 0 to --processes - 1"),
    ],
)
def test_half_an_address_is_refused_before_anything_waits(given, message):
    with pytest.raises(ValueError, match=message):
        processes.join(**given)


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_GPUS_ON_NODE": "8"}, list(range(8))),
        ({"SLURM_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "2"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,2", "SLURM_GPUS_ON_NODE": "2"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, None),
        (
            {
                "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
                "SLURM_GPUS_ON_NODE": "8",
                "JAX_LOCAL_DEVICE_IDS": "0,1",
            },
            None,
        ),
        ({}, None),
    ],
)
def test_one_task_a_node_takes_all_its_gpus(monkeypatch, environment, devices):
    """JAX would give each Slurm task the one GPU of its number on the node."""
    seen = {}
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAX_LOCAL_DEVICE")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    monkeypatch.setattr(processes.jax.config, "update", lambda *change: None)
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *a, **b: seen.update(b))
    monkeypatch.setattr(processes, "_arrive", lambda *where: None)
    processes.join(coordinator="127.0.0.1:1234", processes=2, process=1)
    assert seen["local_device_ids"] == devices


def test_a_coordinator_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(processes, "_LONGEST_WAIT", 0)
    where = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=f"does not answer at {where}"):
        processes.join(coordinator=where, processes=2, process=1)


def test_a_port_that_another_program_has_is_named():
    with socket.create_server(("", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(OSError, match="cannot listen at"):
            processes.join(coordinator=where, processes=2, process=0)


# Ctrl-C as in a terminal, also where these tests run in the background, which ignores it.
HEARS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from gloro_jax.cli.main import main
main()
"""


def test_ctrl_c_ends_a_process_that_waits_for_the_others():
    words = ["train", "digits", "--run", "/nowhere/run", "--processes", "2", "--process", "0"]
    command = [sys.executable, "-c", HEARS, *words, "--coordinator", f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        try:
            assert "waits for the others" in waiting.stderr.readline()
            time.sleep(1)  # into JAX's own code
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(timeout=60) == 130
        finally:
            waiting.kill()
        assert "Traceback" not in waiting.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["liresnet", "chord"])
def test_processes_and_devices_do_not_matter(tmp_path, family):
    """1, 2, 4 devices; 2 processes of 2, by pmap and by shard_map: one training, 21 steps."""
    ways = {"1": (1, 1, "pmap"), "2": (1, 2, "pmap"), "4": (1, 4, "shard_map"),
            "2x2": (2, 2, "pmap"), "2x2 s": (2, 2, "shard_map")}  # fmt: skip
    found = {}
    for name, (count, devices, backend) in ways.items():
        children = start(
            tmp_path / name, count=count, devices=devices, family=family, backend=backend,
            optimizer="sgd",
        )  # fmt: skip
        for status, _, errors in ends(children):
            assert status == 0, errors[-2000:]
        assert read_metrics(tmp_path / name)[-1]["step"] == 21
        found[name] = load_variables(tmp_path / name, checkpoint="last")
    flat = {name: gj.identity.named_leaves(tree) for name, tree in found.items()}
    for name, leaves in flat.items():
        for (path, array), (_, first) in zip(leaves, flat["1"], strict=True):
            np.testing.assert_allclose(array, first, rtol=1e-5, atol=1e-5, err_msg=name + path)


def until_epoch(run, epoch, **told):
    """One process trains, begun or resumed, until that epoch's row is there, and is stopped."""
    log = run / "metrics.jsonl"
    [child] = start(
        run, count=1, optimizer="sgd", epochs=4000, resume=(run / "config.json").is_file(), **told
    )
    while not log.is_file() or len(log.read_text().splitlines()) < epoch:
        assert child.poll() is None, child.communicate()[1][-2000:]
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert "everything is saved" in ends([child])[0][2]
    return len(read_metrics(run))


@pytest.mark.slow
def test_on_fewer_and_fewer_devices_the_losses_are_those_on_all(tmp_path):
    """4, then 2, then 1, of 3 steps an epoch; each goes on for 20 steps and more.

    CHORD with so few units does so for 18 steps; then roundings grow, where one step from equal
    weights still differs by 1e-7 at most.
    """
    fewer, all_of_them = tmp_path / "fewer", tmp_path / "all"
    begun = until_epoch(fewer, 2, devices=4)
    shutil.copytree(fewer, all_of_them)
    on_two = until_epoch(fewer, begun + 7, devices=2)
    last = until_epoch(fewer, on_two + 7, devices=1)
    until_epoch(all_of_them, last, devices=4)
    ours, theirs = (
        [row["train"]["loss"] for row in read_metrics(run)[begun:last]]
        for run in (fewer, all_of_them)
    )
    assert len(ours) >= 14
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_signal_at_one_ends_all_after_the_same_step_and_another_number_goes_on(tmp_path):
    run = tmp_path / "run"
    children = start(run, epochs=4000)
    while not (run / "metrics.jsonl").is_file():
        assert all(child.poll() is None for child in children)
        time.sleep(0.2)
    children[1].send_signal(signal.SIGTERM)
    first, second = ends(children)
    assert "everything is saved" in first[2], first[2][-2000:]
    assert first[2].split("Stopped at step ")[1] == second[2].split("Stopped at step ")[1]
    [step] = [int(path.name) for path in (run / "checkpoints").iterdir()]
    [alone] = start(run, count=1, devices=1, epochs=4000, resume=True)
    while True:
        line = alone.stderr.readline()
        if "resumed at step" in line:
            break
    alone.send_signal(signal.SIGTERM)
    assert f"resumed at step {step}" in line
    assert ends([alone])[0][0] != 0


@pytest.mark.slow
def test_processes_that_were_told_different_things_do_not_begin(tmp_path):
    told = ends(start(tmp_path / "run", devices=1, seed=[0, 1]))
    for status, _, errors in told:
        assert status == 1
        assert "training.seed: 0 at process 0, 1 at process 1" in errors
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    told = ends(start(tmp_path / "run", devices=1))
    assert "Runs are never overwritten" in told[0][2]
    assert "Process 0 says: " in told[1][2]
    assert "Runs are never overwritten" in told[1][2]


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_bits_of_one_that_was_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for status, _, errors in ends(start(whole, devices=1, epochs=40)):
        assert status == 0, errors[-2000:]
    rng, kills = np.random.default_rng(0), 0
    while kills < int(os.environ.get("GLORO_JAX_KILLS", "3")):
        children = start(broken, devices=1, epochs=40, resume=True, every=0.0)
        for child in children:
            while child.stdout.readline() != "joined\n":
                assert child.poll() is None
        time.sleep(rng.uniform(0, 20))
        victim = children[int(rng.integers(2))]
        if victim.poll() is not None:
            break  # it had come to its end
        victim.kill()
        before = time.monotonic()
        ends(children, timeout=60)
        assert all(child.returncode != 0 for child in children)
        assert time.monotonic() - before < 60
        kills += 1
    for status, _, errors in ends(start(broken, devices=1, epochs=40, resume=True)):
        assert status == 0, errors[-2000:]
    assert gj.load(broken, checkpoint="last").digest == gj.load(whole, checkpoint="last").digest
    drop = ("timing",)
    rows = [
        [{k: v for k, v in row.items() if k not in drop} for row in read_metrics(run)]
        for run in (whole, broken)
    ]
    assert rows[0] == rows[1]
