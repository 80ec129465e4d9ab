"""Rehearsals: what the compiled program says, and what is refused before anything is compiled."""

import dataclasses

import pytest

import gloro_jax as gj
from gloro_jax.cli import main
from gloro_jax.models import ChordLiResNet, LiResNet
from gloro_jax.training.rehearsal import rehearse, task_of

CONFIG = gj.training.TrainConfig(epsilon=0.1, epochs=2, batch_size=64)
SMALL = LiResNet(depth=2, width=16, dense_features=32)


def task(model=SMALL, config=CONFIG, topology=None, devices=4):
    return task_of(
        model, config, input_shape=(32, 32, 3), examples=640, topology=topology, devices=devices
    )


@pytest.mark.slow
def test_one_reduction_of_the_gradient_and_two_for_each_layer_that_centres():
    plain = rehearse(task())
    assert plain.collectives == {"all-reduce": 1}
    assert plain.devices == 4
    body = ChordLiResNet(depth=2, width=16, dense_features=32, dense_depth=1)
    centred = rehearse(task(body))
    assert centred.collectives == {"all-reduce": 1 + 2 * 2}
    wide = rehearse(task(dataclasses.replace(SMALL, width=32)))
    assert wide.flops_per_image > 2 * plain.flops_per_image
    assert wide.parameters > plain.parameters
    half = rehearse(task(config=dataclasses.replace(CONFIG, batch_size=32)))
    assert half.temporaries < plain.temporaries


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology", "v5e:4x4", "--devices", "2"], "leave --devices out"),
        (["--topology", "x9:2x2"], "Kinds: v2, v3"),
        (["--devices", "0"], "--devices is at least 1"),
    ],
)
def test_what_cannot_be_rehearsed_is_said_at_once(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "digits", "--dry-run", *words])
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide_names_those_that_they_do():
    with pytest.raises(ValueError, match="choose a multiple of 5, 60 or 65 for example"):
        rehearse(task(devices=5))


def test_the_devices_of_a_rehearsal_go_with_it(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "digits", "--run", "unmade", "--devices", "2"])
    assert "go with --dry-run" in capsys.readouterr().err
