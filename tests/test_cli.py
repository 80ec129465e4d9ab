"""The command line, end to end on the digits, and its answers to mistakes."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import runs
from gloro_jax.cli import main
from gloro_jax.cli.bars import Bar
from gloro_jax.cli.words import parse
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


def test_a_run_is_averaged_over_views_without_training(trained, capsys, tmp_path):
    out = tmp_path / "averaged"
    code, _, error = run(capsys, "views", str(trained), "--out", str(out), "--views", "edge:1,1")
    assert code == 2
    assert "A view moves pixels" in error
    assert not out.exists()
    few = "identity", "shift:0,1"
    code, said, _ = run(capsys, "views", str(trained), "--out", str(out), "--views", *few)
    assert code == 0
    assert said.count("VRA at l2 radius") == 2
    config = json.loads((out / "config.json").read_text())
    assert config["model"]["views"] == list(few)
    plain, averaged = gj.load(trained), gj.load(out)
    assert averaged.lipschitz == plain.lipschitz
    assert averaged.digest != plain.digest
    assert run(capsys, "certify", str(out))[0] == 0
    code, _, error = run(capsys, "views", str(trained), "--out", str(out), "--views", "mirror")
    assert (code, "exists" in error) == (2, True)


def test_a_radius_that_reaches_every_image_is_refused_and_one_that_certifies_none_explained(
    trained, capsys
):
    code, _, err = run(capsys, "certify", str(trained), "--epsilon", "36")
    assert code == 2
    assert "never further apart than 8" in err
    assert "36/255" in err
    code, out, _ = run(capsys, "certify", str(trained), "--epsilon", "7.9")
    assert code == 0
    assert "No image is certified at epsilon 7.9" in out


def test_a_run_that_has_not_ended_says_so(trained, untyped, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "summary.json").unlink()
    for words in (["certify", str(copy)], ["export", str(copy), "--out", str(tmp_path / "new")]):
        code, _, err = run(capsys, *words)
        assert code == 0
        assert "8 of 8 epochs are done" in err


def test_a_certificate_file_is_written_checked_and_refused(trained, capsys, tmp_path):
    file, digest_only = str(tmp_path / "c"), str(tmp_path / "d")
    words = ["certify", str(trained), "--epsilon", "1/5"]
    code, out, _ = run(capsys, *words, "--out", file)
    assert code == 0
    assert "It proves K <= " in out
    code, out, _ = run(capsys, "check", file, "--run", str(trained), "--data", "digits")
    assert code == 0
    assert "At epsilon 1/5" in out
    assert "359 of its 359 images; weights: those of the run" in out
    assert "test split, those of the data" in out
    code, _, err = run(capsys, *words, "--out", file)
    assert code == 2
    assert "--out takes a new file" in err

    assert run(capsys, *words, "--out", digest_only, "--no-inputs")[0] == 0
    code, out, _ = run(capsys, "check", digest_only)
    assert code == 1
    assert "REFUSED" in out
    assert "bring them with --data" in out
    assert run(capsys, "check", digest_only, "--data", "digits")[0] == 0

    content = bytearray((tmp_path / "c").read_bytes())
    content[-9] ^= 1
    (tmp_path / "c").write_bytes(content)
    code, out, _ = run(capsys, "check", file)
    assert code == 1
    assert "was altered" in out
    code, _, err = run(capsys, "check", str(trained))
    assert code == 2
    assert f"gloro-jax certify {trained} --out FILE" in err
    code, _, err = run(capsys, "certify", str(trained), "--epsilon", "a third")
    assert code == 2
    assert "for example 0.3 or '36/255'" in err


def test_an_existing_run_is_refused(trained, capsys):
    code, _, err = run(capsys, "train", "digits", "--run", str(trained))
    assert code == 2
    assert "Runs are never overwritten" in err
    assert "Session(is_resuming=True)" in err
    code, _, err = run(
        capsys, "train", "digits", "--run", str(trained), "--epochs", "9", "--resume"
    )
    assert code == 2
    assert "training.epochs: 8 in the run, 9 now" in err
    assert f"--init-from {trained}" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "digits"], "no command 'trian'; did you mean train"),
        (["train", "digit", "--run", "x"], "no recipe 'digit'; did you mean digits"),
        (["train", "digits", "--run", "x", "--epocs", "3"], "--epochs"),
        (["train", "digits", "--run", "x", "--epsilon", "0"], "epsilon must be positive"),
        (["train", "digits", "--run", "x", "--epsilon", "nan"], "epsilon must be positive"),
        (["train", "digits", "--run", "x", "--epsilon", "1/0"], "no number such as 0.3 or 36/255"),
        (["train", "digits", "--run", "x", "--loss", "ema"], "emma"),
        (["train", "digits"], "--run"),
        (["train", "digits", "--run", "x", "--resume-step", "3"], "goes with --resume"),
        (["train", "digits", "--run", "x", "--epsilon-schedule", "[1]-sin-[2]"], "[1]-sin-[2]"),
        (["train", "digits", "--run", "x", "--data", "nowhere.npz"], "nowhere.npz is not there"),
        (["train", "mnist_2c2f", "--run", "x", "--data-dir", "."], "gloro-jax data prepare mnist"),
        (["report"], "one or more run folders"),
        (["report", "nowhere"], "is no run folder"),
        (["data", "shwo"], "did you mean show"),
        (["data", "show", "nothing", "--data-dir", "."], "There is no data set 'nothing'"),
        (["data", "prepare", "mine", "--from", "nowhere.npz"], "nowhere.npz is not there"),
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


def test_a_radius_may_be_a_fraction():
    @dataclasses.dataclass
    class Options:
        epsilon: float = 0.5

    assert parse(Options, "train", ["--epsilon", "36/255"]).epsilon == 36 / 255
    assert parse(Options, "train", ["--epsilon", "1e-3"]).epsilon == 1e-3


def test_help_teaches(capsys):
    assert "gloro-jax certify DIR" in run(capsys, "--help")[1]
    assert "digits" in run(capsys, "train")[1]
    code, out, _ = run(capsys, "train", "digits", "--help")
    assert code == 0
    assert "the l2 radius to certify at" in out


def test_a_refuted_certificate_fails_the_command(trained, capsys, monkeypatch):
    broken = with_too_small_a_bound(runs.load(trained), factor=100)
    monkeypatch.setattr(runs, "load", lambda run, checkpoint="best": broken)
    code, _, err = run(capsys, "attack", str(trained), "--steps", "10", "--examples", "30")
    assert code == 1
    assert "certificates are refuted" in err
    page = trained / "report.html"
    words = ["report", str(trained), "--examples", "20", "--steps", "10"]
    code, _, err = run(capsys, *words)
    assert code == 1
    assert "ALARM, run: 2" in err or "ALARM, run: 1" in err
    assert "A certificate on this page is refuted" in page.read_text()


def test_a_norm_five_percent_too_low_fails_the_commands_that_can_see_it(
    trained, capsys, monkeypatch, tmp_path
):
    file = str(tmp_path / "c")
    assert run(capsys, "certify", str(trained), "--epsilon", "1/5", "--out", file)[0] == 0
    layer = next(iter(runs.load(trained).layer_norms()))
    broken = with_too_small_a_bound(runs.load(trained), factor=1.05, layer=layer)
    monkeypatch.setattr(runs, "load", lambda run, checkpoint="best": broken)
    code, out, _ = run(capsys, "check", file, "--run", str(trained))
    assert code == 1
    assert f"REFUSED {file}: the norms of {trained} are false: ALARM" in out
    code, _, err = run(capsys, "attack", str(trained), "--steps", "1", "--examples", "2")
    assert code == 1
    assert "ALARM" in err
    assert layer in err
    code, _, err = run(capsys, "certify", str(trained), "--out", str(tmp_path / "d"))
    assert code == 2
    assert "ALARM" in err
    assert not (tmp_path / "d").exists()
    code, _, err = run(capsys, "report", str(trained), "--steps", "1", "--examples", "2")
    assert code == 1
    assert "stored norms lie below" in err


def test_the_checker_says_which_split_it_confirmed(trained, capsys, tmp_path):
    file = str(tmp_path / "c")
    words = ["certify", str(trained), "--epsilon", "1/5", "--split", "train"]
    assert run(capsys, *words, "--out", file, "--no-inputs")[0] == 0
    code, out, _ = run(capsys, "check", file, "--run", str(trained), "--data", "digits")
    assert code == 0
    assert "train split, those of the data" in out
    assert "the train split is no test: a network may know it by heart" in out


@pytest.mark.slow
def test_resume_goes_on_with_the_same_command(capsys, tmp_path):
    folder = tmp_path / "run"
    words = ["train", "digits", "--run", str(folder), "--epochs", "2", "--model.dense", "8"]
    code, out, err = run(capsys, *words, "--resume")
    assert code == 0
    assert "no finished checkpoint yet: starting from the beginning" in err
    assert "training.epochs │ 2" in out
    code, _, err = run(capsys, *words, "--resume")
    assert code == 0
    assert "resumed at step 34" in err
    code, _, err = run(capsys, *words, "--resume", "--epochs", "3")
    assert code == 2
    assert "training.epochs: 2 in the run, 3 now" in err


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """Nine of the digits as a user would bring them: uint8, and named classes."""
    import gloro_jax as gj

    data = gj.data.digits()
    path = tmp_path_factory.mktemp("own") / "own.npz"
    arrays = {}
    for split in ("train", "test"):
        part = getattr(data, split)
        kept = part.labels < 9
        arrays[f"x_{split}"] = np.round(part.images[kept] * 255).astype(np.uint8)
        arrays[f"y_{split}"] = part.labels[kept]
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"])
    np.savez(path, class_names=names, **arrays)
    return path


@pytest.mark.slow
def test_a_file_of_ones_own_is_prepared_shown_trained_on_and_reported(
    own_file, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    code, out, _ = run(capsys, "data", "list")
    assert "mnist │ - │ - │ not prepared" in out
    code, out, _ = run(capsys, "data", "prepare", "own", "--from", str(own_file))
    assert code == 0
    sheet = tmp_path / "sheet.png"
    code, out, _ = run(capsys, "data", "show", "own", "--sheet", str(sheet))
    assert code == 0
    assert "3 three" in out
    assert sheet.read_bytes().startswith(b"\x89PNG")

    options = ["--epochs", "3", "--model.dense", "8", "--validation", "0.2"]
    first, second = tmp_path / "first", tmp_path / "second"
    code, out, _ = run(
        capsys, "train", "digits", "--run", str(first), "--data", str(own_file), *options
    )
    assert code == 0
    code, _, _ = run(capsys, "train", "digits", "--run", str(second), "--data", "own", *options)
    assert code == 0
    # The same pixels, from a file and from array_record: the same weights.
    digests = [json.loads((r / "config.json").read_text())["data"] for r in (first, second)]
    assert digests[0]["fingerprint"] == digests[1]["fingerprint"]
    assert runs.load(first).digest == runs.load(second).digest

    code, out, _ = run(capsys, "certify", str(first), "--data", "own", "--epsilon", "0.1")
    assert code == 0
    assert "own, test split" in out
    page = tmp_path / "both.html"
    code, out, _ = run(
        capsys, "report", str(first), str(second), "--out", str(page), "--examples", "20",
        "--steps", "5",
    )  # fmt: skip
    assert code == 0
    text = page.read_text()
    assert "first · second" in text
    assert "No attack succeeded inside a certified radius" in text
    assert "http" not in text.replace("http://www.w3.org", "")  # names of XML dialects
    assert 'src="data:image/png' in text


@pytest.fixture(scope="module")
def own_run(own_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own-run") / "[run"
    words = ["train", "digits", "--run", str(folder), "--data", str(own_file), "--epochs", "1"]
    with pytest.raises(SystemExit) as exit_info:
        main([*words, "--model.dense", "8", "--validation", "0.05"])
    assert exit_info.value.code == 0
    return folder


def test_the_number_of_classes_is_that_of_the_data_unless_given(own_run, own_file, capsys):
    assert json.loads((own_run / "config.json").read_text())["model"]["num_classes"] == 9
    words = ["train", "digits", "--run", "unmade", "--data", str(own_file)]
    code, _, err = run(capsys, *words, "--model.num_classes", "10")
    assert code == 2
    assert "network has 10 classes and the data 9" in err


@pytest.mark.slow
def test_the_validation_split_is_the_runs_own(own_run, own_file, capsys):
    tables = []
    for more in ([], ["--data", str(own_file)]):
        code, out, _ = run(capsys, "certify", str(own_run), "--split", "validation", *more)
        assert code == 0
        tables.append(out)
    assert tables[0] == tables[1]
    held_out = json.loads((own_run / "config.json").read_text())["data"]["examples"]
    images = int(tables[0].split("images │ ")[1].split()[0])
    assert images / (images + held_out) == pytest.approx(0.05, abs=0.01)


def rewritten(own_file, path, **changes):
    with np.load(own_file) as file:
        np.savez(path, **{**dict(file), **changes})
    return str(path)


@pytest.mark.slow
def test_other_images_do_not_pass_for_the_runs_validation_images(
    own_run, own_file, capsys, tmp_path
):
    with np.load(own_file) as file:
        order = np.random.default_rng(0).permutation(len(file["y_train"]))
        shuffled = {name: file[name][order] for name in ("x_train", "y_train")}
    other = rewritten(own_file, tmp_path / "own.npz", **shuffled)
    words = ["certify", str(own_run), "--data", other]
    code, _, err = run(capsys, *words, "--split", "validation")
    assert code == 2
    assert "does not hold the images that" in err
    assert run(capsys, *words)[0] == 0  # its test images are what they are


def test_classes_in_another_order_are_refused(own_run, own_file, capsys, tmp_path):
    with np.load(own_file) as file:
        rolled = np.roll(file["class_names"], 1)
    other = rewritten(own_file, tmp_path / "own.npz", class_names=rolled)
    code, _, err = run(capsys, "certify", str(own_run), "--data", other)
    assert code == 2
    assert "labels would mean different things" in err


@pytest.mark.slow
def test_a_page_says_which_images_it_is_about(own_run, own_file, capsys, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = run(
        capsys, "report", str(own_run), "--split", "train", "--data", str(own_file),
        "--out", str(page), "--examples", "5", "--steps", "2",
    )  # fmt: skip
    assert code == 0
    assert "own.npz, train split" in page.read_text()
    assert "[run: VRA" in out


GOLDEN = Path(__file__).parent / "golden" / "liresnet_cifar.npz"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    y = np.tile(np.arange(10), 4)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    return path


@pytest.mark.slow
def test_import_certify_report_export_and_train_on(capsys, tmp_path, images):
    imported, out_folder = tmp_path / "imported", tmp_path / "exported"
    code, out, _ = run(
        capsys, "import-torch", str(GOLDEN), "--out", str(imported), "--epsilon", "1/10"
    )
    assert code == 0
    assert "body/neck_dense" in out
    assert "Next: gloro-jax certify" in out
    code, out, _ = run(capsys, "certify", str(imported), "--data", str(images))
    assert code == 0
    assert "VRA at l2 radius 0.1 (guaranteed bounds)" in out
    code, out, _ = run(
        capsys, "report", str(imported), "--data", str(images), "--examples", "2", "--steps", "2"
    )
    assert code == 0
    page = (imported / "report.html").read_text()
    assert "imported from liresnet_cifar.npz" in page
    assert "<h2>Training</h2>" not in page

    jaxtyping.config.update("jaxtyping_disable", True)  # it does not know symbolic batches
    code, out, _ = run(capsys, "export", str(imported), "--out", str(out_folder))
    jaxtyping.config.update("jaxtyping_disable", False)
    assert code == 0
    assert "| Imported from | liresnet_cifar.npz" in (out_folder / "README.md").read_text()
    code, _, err = run(capsys, "export", str(imported), "--out", str(out_folder))
    assert code == 2
    assert "never overwritten" in err

    words = ["train", "cifar10_liresnet_small", "--init-from", str(imported), "--data", str(images)]
    words += ["--validation", "0.25", "--epochs", "1", "--batch-size", "4", "--warmup-epochs", "0"]
    code, out, _ = run(capsys, *words, "--run", str(tmp_path / "tuned"))
    assert code == 0
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["model"]["width"] == 16  # of the imported network, not of the recipe
    assert len(config["initial"]) == 64
    code, _, err = run(capsys, *words, "--model.width", "32", "--run", str(tmp_path / "no"))
    assert code == 2
    assert "the model options do not apply" in err
    assert not (tmp_path / "no").exists()


def test_a_file_that_is_no_state_dict_is_refused_before_anything_is_written(capsys, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, fc=np.zeros(3))
    code, _, err = run(capsys, "import-torch", str(path), "--out", str(tmp_path / "run"))
    assert code == 2
    assert "no state dict of a LiResNet" in err
    assert not (tmp_path / "run").exists()


def test_long_work_says_what_it_does_where_no_bar_can_be_drawn(capsys, monkeypatch):
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr("gloro_jax.cli.bars.time.monotonic", lambda: float(next(now)))
    with Bar() as bar:
        task = bar.add_task("proving", total=9)
        for _ in range(9):
            bar.advance(task)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "proving ..."
    assert 2 <= len(lines) <= 9
    assert re.fullmatch(r"proving: \d of 9", lines[1])
