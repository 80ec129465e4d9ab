"""Rehearsals: what the compiled program says, and what is refused before anything is compiled."""

import dataclasses

import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.cli import main
from gloro_jax.models import ChordLiResNet, LiResNet, as_plain
from gloro_jax.recipes import RECIPES
from gloro_jax.runs.folder import write_config
from gloro_jax.training.scaling import rehearsal
from gloro_jax.training.scaling.rehearsal import Found, Task, rehearse, task_of

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


class Chip:
    """Rehearsals on a chip that holds so many images at once, without compiling."""

    def __init__(self, images: int) -> None:
        self.images, self.tried = images, []

    def __call__(self, task: Task) -> Found:
        config = task.training
        at_once = config.batch_size // (task.devices * config.microbatches)
        self.tried.append(config.microbatches)
        error = "" if at_once <= 4 * self.images else "RESOURCE_EXHAUSTED: too many images"
        return Found(
            devices=task.devices, kind="v5e", parameters=1, flops_per_image=1.0, arguments=0,
            temporaries=2 * at_once, chip_bytes=int(2 * self.images), peak_flops=1.0,
            collectives={}, seconds=0.0, error=error,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("images", "tried", "message"),
    [
        (64, [1], ""),
        (16, [1, 2, 4], "It fits with --microbatches 4"),
        (9, [1, 2, 4, 8], "It fits with --microbatches 8"),
        (1, [1, 2, 4, 8, 16, 32, 64], "It fits with --microbatches 64"),
        (0.5, [1, 2, 4, 8, 16, 32, 64], "No number of microbatches that was tried fits"),
    ],
)
def test_a_step_that_does_not_fit_is_tried_in_finer_parts(
    images, tried, message, capsys, monkeypatch
):
    chip = Chip(images)
    monkeypatch.setattr(rehearsal, "rehearse", chip)
    words = ["digits", "--dry-run", "--batch-size", "64", "--topology", "v5e:1x1"]
    with pytest.raises(SystemExit, match="1" if message else "0"):
        main(["train", *words])
    assert message in " ".join(capsys.readouterr().out.split())
    assert chip.tried == tried


def test_a_rehearsal_takes_the_network_of_the_run_to_start_from(tmp_path, monkeypatch):
    seen = []

    def note(task: Task) -> Found:
        seen.append(task.model)
        return Chip(10**9)(task)

    monkeypatch.setattr(rehearsal, "rehearse", note)
    model = dataclasses.replace(SMALL, width=40)
    config = {"model": as_plain(model), "training": {}, "data": {}}
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", config)
    gj.runs.save_variables(tmp_path / "run", "best", {"params": {"a": np.zeros(1)}})
    start = ["--init-from", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="0"):
        main(["train", "digits", "--dry-run", *start])
    assert seen == [as_plain(model)]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "digits", "--dry-run", *start, "--model.width", "8"])


def test_a_rehearsal_is_of_the_images_and_classes_that_are_asked_for(tmp_path, monkeypatch):
    seen = []

    def note(task: Task) -> Found:
        seen.append((task.input_shape, task.model["num_classes"], task.examples))
        return Chip(10**9)(task)

    monkeypatch.setattr(rehearsal, "rehearse", note)
    file, labels = tmp_path / "mine.npz", np.arange(40) % 4
    images = np.zeros((40, 6, 6, 1), np.uint8)
    np.savez(file, x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    classes = ["--model.num-classes", "5"]
    for words in (["digits", "--data", str(file), "--validation", "0.5"],
                  ["digits", "--data", str(file), *classes],
                  ["imagenet_liresnet_l12w588", "--image-size", "128"]):  # fmt: skip
        with pytest.raises(SystemExit, match="0"):
            main(["train", *words, "--dry-run"])
    examples = RECIPES["imagenet_liresnet_l12w588"]().examples
    assert seen == [((6, 6, 1), 4, 20), ((6, 6, 1), 5, 32), ((128, 128, 3), 1000, examples)]
