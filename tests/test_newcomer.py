"""What a newcomer met: mistakes that must be said at once, before any work, and leave nothing."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import repair, verifiers
from gloro_jax.ensembles import Compositional, EntropyGate, SoftVoting, Voting
from gloro_jax.ensembles.consistency import ssim
from gloro_jax.guarantees import Affinity
from gloro_jax.models import GloroCNN
from gloro_jax.verifiers import Crown, Lipschitz
from tests import draws
from tests.test_cli import run

ZOO = Path(__file__).parent.parent / "experiments" / "zoo" / "digits"
here = pytest.mark.skipif(not ZOO.is_dir(), reason="experiments/zoo is not there")


@here
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["certify", ZOO, "--out", "none/a.cert"], "--out none/a.cert: there is no folder none"),
        (["certify", ZOO, "--save", "none/a.npz"], "--save none/a.npz: there is no folder none"),
        (["certify", ZOO, "--save", "there.npz"], "--save takes a new file, and there.npz exists"),
        (["certify", ZOO, "--save", "a.txt"], "--save takes a file that ends in .npz, got a.txt"),
        (["report", ZOO, "--out", "folder"], "--out takes a file, and folder is a folder"),
        (["report", ZOO, "--out", "none/a.html"], "there is no folder none"),
        (["verify", ZOO, "--out", "none/a.json"], "there is no folder none"),
        (["verify", ZOO, "--out", "there.json"], "--out takes a new file, and there.json exists"),
        (["verify", ZOO, "--with", ""], "There is no method of --with ''"),
        (["verify", ZOO, "--radius", "36"], "--radius is 36, and two images"),
        (["verify", ZOO, "--norm", "linf", "--radius", "2"], "never further apart than 1 in linf"),
        (["verify", ZOO, "--with", "mixed-integer"], "--norm linf --radius 2/255, for example"),
        (["train", "digits", "--run", "there.npz/x"], "there.npz is a file, so there can be no"),
        (["train", "digits", "--run", "gs://"], "gs: names no bucket: gs://BUCKET/FOLDER"),
        (["train", "digits", "--run", "new", "--init-from", ZOO], "keeps what certifies and not"),
        (["train", "digits", "--dry-run", "--init-from", ZOO], "keeps what certifies and not"),
        (["train", "digits", "--run", "new", "--init-from", "nowhere"], "nowhere is no run folder"),
        (["certify", ZOO, "--guarantee", "[0,0]"], "names a class twice"),
        (["certify", ZOO, "--guarantee", "noise.npz"], "a file that holds them: it holds no text"),
        (["certify", ZOO, "--guarantee", "nofile.txt"], "--guarantee is words, or a file that"),
        (["ensemble", ZOO, ZOO, "--kind", "cascade", "--weights", "1", "2"], "a cascade asks one"),
        (["attack", ZOO, "--targets", "0"], "targets is at least 1, got 0"),
        (["certify", ZOO, "--data", "big.npz"], "big.npz are (9, 9, 1), and the network of"),
    ],
)
def test_it_is_said_before_any_work(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("there.npz", "there.json"):
        (tmp_path / name).touch()
    (tmp_path / "noise.npz").write_bytes(bytes(range(128, 256)))
    images, labels = np.zeros((20, 9, 9, 1), np.uint8), np.arange(20) % 10
    np.savez("big.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    code, _, error = run(capsys, *map(str, words))
    assert code == 2
    assert message in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@here
def test_sets_may_have_comments_and_the_table_names_classes_in_none(capsys, tmp_path):
    file = tmp_path / "sets.txt"
    file.write_text("[0,6] # round\n[1,7]\n")
    _, said, _ = run(capsys, "certify", str(ZOO), "--guarantee", str(file))
    assert "classes in no set │ 2, 3, 4, 5, 8, 9" in said


def test_arrays_of_jax_are_arrays(small_frozen, tmp_path):
    x, labels = jnp.full((2, 8, 8, 1), 0.5), jnp.array([0, 1])
    written = gj.certificates.write(
        small_frozen, x, labels, epsilon="1/100", out=tmp_path / "a.cert"
    )
    assert gj.certificates.check(written.path)["header"]["summary"]["points"] == 2


@pytest.mark.parametrize("verifier", [Lipschitz(), Crown()])
def test_pixels_of_bytes_are_verified_nowhere(verifier, small_frozen):
    x = np.full((2, 8, 8, 1), 128, np.float32)
    with pytest.raises(ValueError, match="pixels of 0 to 255"):
        verifier.verify(small_frozen, x, [0, 1], norm="l2", radius=0.1)
    with pytest.raises(ValueError, match="pixels of 0 to 255"):
        verifier.certified_radius(small_frozen, x)


@pytest.fixture(scope="module")
def of_three(small_frozen):
    net = GloroCNN(convs=((4, 3, 1),), dense=(), num_classes=3).build()
    x = jnp.zeros((1, 8, 8, 1))
    variables = draws.init(net, 0, x, norms=gj.PowerIteration(steps=1))
    return gj.freeze(net, variables, input_shape=(8, 8, 1))


def test_parts_of_an_ensemble_are_called_what_they_are(small_frozen, of_three, untyped):
    gate = EntropyGate(1.0)
    with pytest.raises(ValueError, match=r"The core of Compositional has 3 classes, and the cert"):
        Compositional(of_three, small_frozen, gate)
    with pytest.raises(TypeError, match="certified is the FrozenNet whose certificates count"):
        Compositional(small_frozen, lambda x: x, gate)
    for made in (Voting, SoftVoting):
        with pytest.raises(TypeError, match=r"takes a list of members, \[one, another\]"):
            made(small_frozen)
    both = SoftVoting([small_frozen, small_frozen])
    with pytest.raises(TypeError, match="about one FrozenNet, got SoftVoting"):
        gj.certificates.write(
            both, np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, int), epsilon=0.1, out="never"
        )


def test_orders_name_scores_that_are_there(small_frozen, untyped):
    for text in ("always: y0 < y9", "class in {1}: max y5 or y0 < y1"):
        with pytest.raises(ValueError, match=r"Line 1, .*there is no y[59]: scores are y0 to y4"):
            repair.parse(text, num_classes=5)
    with pytest.raises(TypeError, match="Properties are text"):
        repair.parse(5, num_classes=5)
    layer = repair.Repair(repair.parse("always: y0 < y1", num_classes=5), 5)
    x = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(TypeError, match=r"give their \.values"):
        layer(x, small_frozen(x))


def test_an_affinity_set_names_a_class_once():
    with pytest.raises(ValueError, match="names a class twice"):
        Affinity([[0, 1, 0]])
    assert dataclasses.replace(Affinity([[0, 1], [1, 2]])).without(5) == [3, 4]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: verifiers.BranchAndBound(time_limit="a"), "time_limit is a number such as 0.3"),
        (lambda: verifiers.MixedInteger(time_limit=None), "time_limit is a number, got None"),
        (lambda: verifiers.MixedInteger(time_limit=0), "a positive number of seconds, got 0"),
        (lambda: verifiers.BranchAndBound(steps=0), "steps and cases of at least 1"),
        (lambda: verifiers.BranchAndBound(restarts=-1), "restarts of at least 0"),
        (lambda: verifiers.AlphaCrown(steps=2.5), "steps is a whole number, got 2.5"),
        (lambda: verifiers.Crown(is_rounding_counted="no"), "is True or False, got 'no'"),
        (lambda: verifiers.Projections(mode="all"), "mode is one of .*complete.*, got 'all'"),
        (lambda: verifiers.Smoothing(sigma="much"), "sigma is a number such as"),
        (lambda: verifiers.Smoothing(sigma=0.1, n=1e9 + 0.5), "n is a whole number"),
        (lambda: EntropyGate("a"), "threshold is a number such as"),
        (lambda: ssim(np.ones((1, 8, 8, 1)), np.ones((1, 9, 8, 1))), "two arrays of one shape"),
        (lambda: ssim(np.ones((1, 3, 3, 1)), np.ones((1, 3, 3, 1))), "at least window=7"),
    ],
)
def test_a_field_of_another_kind_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_folder_is_no_certificate(tmp_path):
    with pytest.raises(gj.certificates.Refused, match="is a folder, and a certificate is one file"):
        gj.certificates.check(tmp_path)
