"""Training epoch by epoch, with optimisers of one's own, and with averaged weights."""

import dataclasses
import json
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import gloro_jax as gj
from gloro_jax.models import GloroCNN
from gloro_jax.training import Session, TrainConfig

MODEL = GloroCNN(convs=((4, 3, 2),), dense=(8,), num_classes=3)
CONFIG = TrainConfig(epsilon=0.2, epochs=4, batch_size=20)


def weights(run):
    return jax.tree.leaves(gj.runs.load_variables(run, checkpoint="last"))


def rows(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in lines]


@pytest.fixture(scope="module")
def fitted(tiny_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("fitted") / "run"
    return run, gj.training.fit(MODEL, tiny_data, CONFIG, run=run)


def test_epoch_by_epoch_is_fit(fitted, tiny_data, tmp_path):
    run, result = fitted
    training = gj.training.epochs(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    seen = [row["epoch"] for row in training]
    assert seen == [1, 2, 3, 4]
    assert training.result.frozen.digest == result.frozen.digest
    assert rows(tmp_path / "run") == rows(run)
    assert list(training) == []


@pytest.mark.parametrize("leave", ["break", "close", "error"])
def test_leaving_early_saves_and_the_same_call_goes_on(fitted, tiny_data, tmp_path, leave):
    run, result = fitted
    training = gj.training.epochs(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    try:
        for row in training:
            if row["epoch"] == 2:
                if leave == "error":
                    raise KeyError("a mistake in the loop of whoever logs")
                break
    except KeyError:
        pass
    if leave == "close":
        training.close()
    del training
    assert (tmp_path / "run" / "checkpoints").is_dir()
    again = Session(is_resuming=True)
    training = gj.training.epochs(MODEL, tiny_data, CONFIG, run=tmp_path / "run", session=again)
    assert [row["epoch"] for row in training] == [3, 4]
    assert training.result.frozen.digest == result.frozen.digest
    assert rows(tmp_path / "run") == rows(run)


def test_sixty_four_bits_between_epochs_change_nothing(fitted, tiny_data, tmp_path):
    training = gj.training.epochs(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    with jax.enable_x64(True):
        for _ in training:
            assert jax.numpy.zeros(1).dtype == np.float64
    assert training.result.frozen.digest == fitted[1].frozen.digest


def test_an_optimiser_of_ones_own_replaces_that_of_the_config(fitted, tiny_data, tmp_path):
    run, _ = fitted
    still = gj.training.fit(
        MODEL, tiny_data, CONFIG, run=tmp_path / "still", optimizer=optax.sgd(0.0)
    )
    first = gj.training.fit(
        MODEL, tiny_data, dataclasses.replace(CONFIG, epochs=1), run=tmp_path / "one",
        optimizer=optax.sgd(0.0),
    )  # fmt: skip
    assert still.frozen.lipschitz == first.frozen.lipschitz
    steps = len(tiny_data.train) // CONFIG.batch_size
    same = optax.chain(
        optax.clip_by_global_norm(CONFIG.clip_norm),
        optax.nadam(gj.training.optimizers.learning_rate(CONFIG, steps_per_epoch=steps)),
    )
    gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "same", optimizer=same)
    for ours, theirs in zip(weights(run), weights(tmp_path / "same"), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_run_with_an_optimiser_of_ones_own_is_resumed_with_one_only(tiny_data, tmp_path):
    noisy = optax.chain(optax.add_noise(0.1, 0.55, key=7), optax.sgd(0.1))  # keeps a random key
    options = {"run": tmp_path / "run", "optimizer": noisy}
    training = gj.training.epochs(MODEL, tiny_data, CONFIG, **options)
    next(training)
    training.close()
    again = Session(is_resuming=True)
    with pytest.raises(ValueError, match=r"own_optimizer: PyTreeDef.*in the run, absent now"):
        gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "run", session=again)
    resumed = gj.training.fit(MODEL, tiny_data, CONFIG, session=again, **options)
    whole = gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "whole", optimizer=noisy)
    assert resumed.frozen.digest == whole.frozen.digest


@pytest.mark.parametrize("wrong", [optax.adam, "adam", optax.lbfgs()])
def test_what_is_no_such_optimiser_is_refused(tiny_data, tmp_path, untyped, wrong):
    with pytest.raises(TypeError, match=r"optimizer (is an|must take)"):
        gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "run", optimizer=wrong)
    assert not (tmp_path / "run").exists()


def test_rows_are_copies(fitted, tiny_data, tmp_path):
    training = gj.training.epochs(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    for row in training:
        row["validation"]["mine"] = np.float32(1)
        row["train"].clear()
    assert training.result.frozen.digest == fitted[1].frozen.digest
    assert rows(tmp_path / "run") == rows(fitted[0])


@pytest.fixture
def heeded():
    """SIGINT raises KeyboardInterrupt, which a shell may have switched off (a command with &)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_signals_are_the_callers_between_epochs_and_restored(heeded, tiny_data, tmp_path):
    one, two = (gj.training.epochs(MODEL, tiny_data, CONFIG, run=tmp_path / name) for name in "ab")
    next(one)
    next(two)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    one.close()
    next(two)
    with two, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is heeded
    assert len(list((tmp_path / "b" / "checkpoints").iterdir())) > 0


SCRIPT = """
import sys
import gloro_jax as gj
from tests.conftest import make_tiny_data
from tests.training.test_epochs import CONFIG, MODEL
training = gj.training.epochs(MODEL, make_tiny_data(), CONFIG, run=sys.argv[1])
for row in training:
    if row["epoch"] == 2:
        break
"""


@pytest.mark.slow
def test_the_end_of_the_program_saves(fitted, tiny_data, tmp_path):
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "Exception ignored" not in done.stderr
    session = Session(is_resuming=True)
    training = gj.training.epochs(MODEL, tiny_data, CONFIG, run=tmp_path / "run", session=session)
    assert [row["epoch"] for row in training] == [3, 4]
    assert training.result.frozen.digest == fitted[1].frozen.digest


def test_averaged_weights_are_validated_and_kept(fitted, tiny_data, tmp_path):
    run, _ = fitted
    config = dataclasses.replace(CONFIG, average=0.99)
    result = gj.training.fit(MODEL, tiny_data, config, run=tmp_path / "run")
    plain, mean = weights(run), weights(tmp_path / "run")
    assert not any(np.array_equal(a, b) for a, b in zip(plain, mean, strict=True) if a.size > 1)
    # Training itself does not see the mean.
    losses = [[row["train"]["loss"] for row in rows(r)] for r in (run, tmp_path / "run")]
    assert losses[0] == losses[1]
    assert result.history[-1]["validation"] != rows(run)[-1]["validation"]
