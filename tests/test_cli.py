"""The command line, end to end on the digits, and its answers to mistakes."""

import json

import numpy as np
import pytest

from gloro_jax.cli import main
from tests.broken import with_too_small_a_bound


def run(capsys, *words):
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    captured = capsys.readouterr()
    return exit_info.value.code, " ".join(captured.out.split()), " ".join(captured.err.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "digits", "--run", str(folder), "--epochs", "8", "--model.dense", "32"])
    assert exit_info.value.code == 0
    return folder


def test_train_certify_attack(trained, capsys, tmp_path):
    config = json.loads((trained / "config.json").read_text())
    assert config["training"]["epochs"] == 8
    assert config["model"]["dense"] == [32]

    save = tmp_path / "certificates.npz"
    code, out, _ = run(capsys, "certify", str(trained), "--epsilon", "0.2", "--save", str(save))
    assert code == 0
    assert "VRA at l2 radius 0.2 (guaranteed bounds)" in out
    assert "body/conv1" in out
    with np.load(save) as file:
        vra = ((file["labels"] == file["predictions"]) & file["is_certified"]).mean()
    assert f"{vra:.4f}" in out

    code, out, _ = run(
        capsys, "attack", str(trained), "--epsilon", "0.2", "--steps", "5", "--restarts", "1",
        "--examples", "40",
    )  # fmt: skip
    assert code == 0
    assert "attacks that succeeded inside a certified radius │ 0" in out


def test_an_existing_run_is_refused(trained, capsys):
    code, _, err = run(capsys, "train", "digits", "--run", str(trained))
    assert code == 2
    assert "Runs are never overwritten" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "digits"], "no command 'trian'; did you mean train"),
        (["train", "digit", "--run", "x"], "no recipe 'digit'; did you mean digits"),
        (["train", "digits", "--run", "x", "--epocs", "3"], "--epochs"),
        (["train", "digits", "--run", "x", "--epsilon", "0"], "epsilon must be positive"),
        (["train", "digits", "--run", "x", "--epsilon", "nan"], "epsilon must be positive"),
        (["train", "digits", "--run", "x", "--loss", "ema"], "emma"),
        (["train", "digits"], "--run"),
        (["certify", "nowhere"], "is no run folder"),
        (["certify"], "run"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_with_the_way_out(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err
    assert not (tmp_path / "x").exists()


def test_help_teaches(capsys):
    assert "gloro-jax certify DIR" in run(capsys, "--help")[1]
    assert "digits" in run(capsys, "train")[1]
    code, out, _ = run(capsys, "train", "digits", "--help")
    assert code == 0
    assert "the l2 radius to certify at" in out


def test_a_refuted_certificate_fails_the_command(trained, capsys, monkeypatch):
    from gloro_jax import runs

    broken = with_too_small_a_bound(runs.load(trained), factor=100)
    monkeypatch.setattr(runs, "load", lambda run, checkpoint="best": broken)
    code, _, err = run(capsys, "attack", str(trained), "--steps", "10", "--examples", "30")
    assert code == 1
    assert "certificates are refuted" in err
