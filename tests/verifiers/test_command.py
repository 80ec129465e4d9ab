"""`gloro-jax verify`: one table, one JSON, and options that are refused before anything runs."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.cli import main

RUN = "experiments/zoo/digits"


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main(["verify", RUN, *map(str, words)])
    return ended.value.code


def test_it_counts_proofs_apart_and_writes_every_verdict(tmp_path, capsys):
    out = tmp_path / "verdicts.json"
    words = ("--with", "lipschitz,interval,smoothing", "--examples", 2, "--out", out)
    assert run(*words, "--box", 0, 1) == 0
    shown = capsys.readouterr().out
    assert "pixels between 0 and 1" in " ".join(shown.split())
    told = json.loads(out.read_text())
    assert told["norm"] == "l2"
    assert told["box"] == [0.0, 1.0]
    assert set(told["methods"]) == {"lipschitz", "interval", "smoothing"}
    for name, method in told["methods"].items():
        assert len(method["status"]) == 2
        kinds = {"numerical"} if name == "smoothing" else {"rounded"}
        assert {word for word in method["semantics"] if word} <= kinds
        counts = ("verified_rounded", "verified_numerical", "falsified", "unknown")
        assert sum(method[count] for count in counts) == 2


def test_its_file_names_images_and_holds_witnesses(tmp_path):
    out = tmp_path / "verdicts.json"
    assert run("--with", "lipschitz", "--examples", 60, "--out", out) == 0
    told, test = json.loads(out.read_text()), gj.data.digits().test
    assert told["labels"] == np.asarray(test.labels)[told["places"]].tolist()
    method = told["methods"]["lipschitz"]
    pairs = zip(told["places"], method["status"], strict=True)
    wrong = {str(place) for place, status in pairs if status == "FALSIFIED"}
    assert wrong == set(method["witnesses"])
    assert wrong
    frozen = gj.load(RUN)
    for place, witness in method["witnesses"].items():
        scores = frozen(jnp.asarray(witness, jnp.float32)[None])
        assert scores.prediction[0] != test.labels[int(place)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--with", "crwn"), "did you mean crown"),
        (("--norm", "linf"), "--radius says how large the linf ball is"),
        (("--radius", "0.1", "--epsilon", "0.1"), "Leave --epsilon out"),
        (("--examples", 0), "--examples is at least 1"),
        (("--out", "verdicts.txt"), "ends in .json"),
        (("--box", 0.5, 1), "does not contain x"),
        (("--with", "mixed-integer"), "mixed-integer verifies linf balls"),
    ],
)
def test_bad_options_are_refused(words, says, capsys):
    assert run(*words) == 2
    assert says in " ".join(capsys.readouterr().err.split())
