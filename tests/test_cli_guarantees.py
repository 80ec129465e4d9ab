"""The command line with relaxed guarantees and ensembles, on the digits of the zoo."""

import json
from pathlib import Path

import numpy as np
import pytest

import gloro_jax as gj
from tests.test_cli import run

ZOO = Path(__file__).parent.parent / "experiments" / "zoo" / "digits"
pytestmark = pytest.mark.skipif(not ZOO.is_dir(), reason="experiments/zoo is not there")


def test_sets_are_certified_written_checked_and_attacked(capsys, tmp_path):
    out, save = tmp_path / "c", tmp_path / "c.npz"
    code, said, _ = run(
        capsys, "certify", str(ZOO), "--guarantee", "top-3", "--out", str(out), "--save", str(save)
    )
    assert code == 0
    assert "│ guarantee │ top-3" in said
    with np.load(save) as file:
        vra = (file["has_label"] & file["is_certified"]).mean()
        strict = ((file["predictions"] == file["labels"]) & (file["k"] == 1)).any()
    assert f"{vra:.4f}" in said
    assert strict
    code, said, _ = run(capsys, "check", str(out), "--run", str(ZOO))
    assert code == 0
    assert "the guarantee is relaxed: for some k up to 3" in said
    code, said, _ = run(
        capsys, "attack", str(ZOO), "--guarantee", "top-3", "--examples", "20", "--steps", "3"
    )
    assert code == 0
    assert "attacks that succeeded inside a certified radius │ 0" in said


def test_sets_may_be_in_a_file_and_mistakes_are_named(capsys, tmp_path):
    sets = tmp_path / "sets.txt"
    sets.write_text("[0] [1, 7]\n[2,3,8,9][4][5,6]\n")
    code, said, _ = run(capsys, "certify", str(ZOO), "--guarantee", str(sets))
    assert code == 0
    assert "[0][1,7][2,3,8,9][4][5,6]" in said
    for word, message in (
        ("top-10", "Take k from 1 to 9"),
        ("top", "A guarantee is strict, top-5"),
        ("[0,99]", "names class 99"),
        ("cifar100-superclasses", "there are 0 to 9|names class 95|alphabetical"),
    ):
        code, _, error = run(capsys, "certify", str(ZOO), "--guarantee", word)
        assert code == 2
        assert any(part in error for part in message.split("|"))


def test_a_run_trained_for_sets_is_certified_by_sets(capsys, tmp_path):
    folder = str(tmp_path / "run")
    code, _, error = run(capsys, "train", "digits", "--run", folder, "--guarantee", "top-2")
    assert code == 2
    assert "loss=emma centres on the label" in error
    words = "--guarantee", "top-2", "--loss", "trades_kl", "--epochs", "2"
    assert run(capsys, "train", "digits", "--run", folder, *words)[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["guarantee"] == "top-2"
    assert "│ guarantee │ top-2" in run(capsys, "certify", folder)[1]
    code, said, _ = run(capsys, "certify", folder, "--guarantee", "strict")
    assert code == 0
    assert "guarantee │" not in said
    page, brief = tmp_path / "both.html", ("--examples", "2", "--steps", "2")
    assert run(capsys, "report", str(ZOO), folder, "--out", str(page), *brief)[0] == 0
    text = page.read_text()
    report = gj.evaluation.verified_robust_accuracy(
        gj.load(folder),
        [(gj.data.digits().test.images, gj.data.digits().test.labels)],
        epsilon=config["training"]["epsilon"],
        guarantee=gj.guarantees.TopK(2),
    )
    row = text[text.index("VRA under that guarantee") :][:200]
    assert "as above" in row
    assert f"{100 * report.vra:.2f} %" in row
    assert run(capsys, "report", str(ZOO), "--out", str(page), *brief)[0] == 0
    assert "under that guarantee" not in page.read_text()


@pytest.mark.parametrize("kind", ["voting", "soft", "cascade"])
def test_runs_are_one_classifier(kind, capsys):
    words = "ensemble", str(ZOO), str(ZOO), "--kind", kind, "--examples", "40", "--steps", "2"
    code, said, _ = run(capsys, *words)
    assert code == 0
    assert f"{kind} of 2 runs: 40 images" in said
    assert ("at most 0." in said) == (kind == "cascade")


def test_mistakes_with_ensembles_are_named(capsys, tmp_path):
    for words, message in (
        ((str(ZOO),), "at least two members"),
        ((str(ZOO), str(ZOO), "--weights", "1", "-1"), "at least 0 and not all 0"),
        ((str(ZOO), str(ZOO), "--learn-weights", "--kind", "soft"), "goes with --kind voting"),
        ((str(ZOO), str(tmp_path)), "is no run folder"),
        ((str(ZOO), str(ZOO), "--examples", "0"), "at least 1"),
    ):
        code, _, error = run(capsys, "ensemble", *words)
        assert code == 2
        assert message in error
