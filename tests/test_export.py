"""Exports: the program without this library, its digests, and the card."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest

import gloro_jax as gj
from tests.draws import uniform

EPSILON = 0.05


@pytest.fixture(scope="module", autouse=True)
def without_shape_checks():
    """The hook that checks annotations in tests does not know symbolic batches."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def folder(small_frozen, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "net"
    about = {"Class names": "a|b, <c>\n| forged | row |"}
    return gj.export.write(small_frozen, out=out, epsilon=EPSILON, about=about)


def test_the_program_says_what_certify_says_for_any_batch(folder, small_frozen):
    program = gj.export.read(folder)
    for count in (1, 7, 64):
        x = uniform(count, (count, 8, 8, 1))
        ours, theirs = gj.certify(small_frozen, x, epsilon=EPSILON), program(x, epsilon=EPSILON)
        np.testing.assert_array_equal(theirs["prediction"], ours.prediction)
        np.testing.assert_allclose(theirs["radius"], ours.radius, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(theirs["is_refused"], theirs["slack"] <= 0)
        is_clear = np.abs(np.asarray(ours.slack)) > 1e-5
        np.testing.assert_array_equal(
            theirs["is_refused"][is_clear], ~np.asarray(ours.is_certified)[is_clear]
        )


def test_ties_and_nan_are_refused_by_the_program_too(folder):
    program = gj.export.read(folder)
    x = np.full((2, 8, 8, 1), np.nan, np.float32)
    x[1] = np.inf
    out = program(x, epsilon=EPSILON)
    assert np.asarray(out["is_refused"]).all()
    np.testing.assert_array_equal(out["radius"], 0)


# Nothing can be imported but what `pip install jax flatbuffers` brings.
BARE = """
import importlib.metadata, re, sys
def closure(name, into):
    name = re.sub(r"[-_.]+", "_", name).lower()
    if name not in into:
        into.add(name)
        for need in importlib.metadata.requires(name) or ():
            if "extra ==" not in need:
                closure(re.match(r"[\\w.-]+", need)[0], into)
    return into
there = closure("jax", set()) | {"flatbuffers"}
packages = importlib.metadata.packages_distributions()
class Bare:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        owners = {re.sub(r"[-_.]+", "_", owner).lower() for owner in packages.get(top, ())}
        if top == "gloro_jax" or owners and not owners & there:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Bare())
for name in ("gloro_jax", "flax", "optax", "jaxtyping"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} could be imported")
"""


def test_the_card_s_own_lines_run_without_this_library(folder):
    card = (folder / "README.md").read_text()
    code = card.split("```python")[1].split("```")[0]
    assert "pip install jax flatbuffers" in card
    done = subprocess.run(
        [sys.executable, "-c", BARE + code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")


def test_the_program_names_no_file_of_the_machine_that_made_it(folder):
    content = (folder / "certify.stablehlo").read_bytes()
    assert b".py" not in content
    assert str(Path(gj.__file__).parent).encode() not in content
    assert jax.config.jax_traceback_in_locations_limit != 0


def test_the_card_states_the_assumptions_and_keeps_strangers_words_in_their_cells(
    folder, small_frozen
):
    card = (folder / "README.md").read_text()
    assert small_frozen.digest in card
    assert f"{small_frozen.lipschitz:.6g}" in card
    for words in ("||x' - x||_2 < r", "in [0, 1]", "float32 forward pass", "whether the class is"):
        assert words in card
    assert "a&#124;b, &lt;c> &#124; forged &#124; row &#124; |" in card
    for name in small_frozen.layer_norms():
        assert f"| `{name}` |" in card


@pytest.mark.parametrize("name", ["certify.stablehlo", "weights.safetensors", "README.md"])
def test_an_altered_file_is_named(folder, tmp_path, name):
    copy = copied(folder, tmp_path)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"SHA-256 of .*{name} is .*manifest says"):
        gj.export.read(copy)


def test_weights_of_another_export_are_refused(folder, tmp_path):
    copy = copied(folder, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["digest"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"weights in .* carry the digest .*manifest 0000"):
        gj.export.read(copy)


def test_a_program_of_other_weights_is_refused_when_it_runs(folder, small_frozen):
    program = gj.export.read(folder)
    program.manifest["digest"] = "0" * 64
    with pytest.raises(ValueError, match=r"made from the weights .*manifest speaks of 0000"):
        program(np.zeros((1, 8, 8, 1), np.float32), epsilon=EPSILON)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is damaged"),
        ("{", "is damaged"),
        ('{"files": {}, "digest": ""}', "is damaged: KeyError.'input_shape'"),
        ('{"files": {}, "digest": "", "input_shape": []}', "has format None"),
    ],
)
def test_a_damaged_manifest_is_named(folder, tmp_path, content, message):
    copy = copied(folder, tmp_path)
    (copy / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        gj.export.read(copy)


def test_bad_arguments(folder, small_frozen, tmp_path):
    program = gj.export.read(folder)
    good = np.zeros((1, 8, 8, 1), np.float32)
    with pytest.raises(ValueError, match=r"float32 images \(n, 8, 8, 1\).*got uint8"):
        program(good.astype(np.uint8), epsilon=EPSILON)
    with pytest.raises(ValueError, match=r"got float32 of shape \(1, 9, 8, 1\)"):
        program(np.zeros((1, 9, 8, 1), np.float32), epsilon=EPSILON)
    with pytest.raises(ValueError, match=r"at least one, got float32 of shape \(0, 8, 8, 1\)"):
        program(good[:0], epsilon=EPSILON)
    with pytest.raises(ValueError, match="got <class 'list'> of shape"):
        program(good.tolist(), epsilon=EPSILON)
    with pytest.raises(TypeError, match=r"Inside jit, call `program\.call"):
        jax.jit(lambda images: program(images, epsilon=EPSILON))(good)
    for epsilon in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="epsilon is an l2 radius"):
            program(good, epsilon=epsilon)
    with pytest.raises(FileExistsError, match="never overwritten"):
        gj.export.write(small_frozen, out=folder, epsilon=EPSILON)
    with pytest.raises(FileNotFoundError, match=r"is no export: it has no manifest.json"):
        gj.export.read(tmp_path)
    moved = jax.tree.map(lambda leaf: leaf, small_frozen)
    broken = jax.tree.map(lambda leaf: leaf * 2 if leaf.dtype == np.float32 else leaf, moved)
    with pytest.raises(ValueError, match="digest of this FrozenNet does not match"):
        gj.export.write(broken, out=tmp_path / "broken", epsilon=EPSILON)
    assert not (tmp_path / "broken").exists()


def copied(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_folders_beside_it_are_left_alone(small_frozen, tmp_path):
    neighbour = tmp_path / "x.partial"
    neighbour.mkdir()
    (neighbour / "precious").touch()
    gj.export.write(small_frozen, out=tmp_path / "x", epsilon=EPSILON)
    assert (neighbour / "precious").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"x", "x.partial"}


def test_nothing_said_about_a_network_replaces_what_is_known(small_frozen, tmp_path):
    about = {"Digest of weights and bounds": "another"}
    folder = gj.export.write(small_frozen, out=tmp_path / "x", epsilon=EPSILON, about=about)
    card = (folder / "README.md").read_text()
    assert "another |" not in card
    assert f"| Digest of weights and bounds | `{small_frozen.digest}` |" in card


def test_the_card_of_an_imported_network_says_what_its_file_left_open(small_frozen, tmp_path):
    about = {gj.export.IMPORTED: "model.pth"}
    folder = gj.export.write(small_frozen, out=tmp_path / "out", epsilon=EPSILON, about=about)
    card = (folder / "README.md").read_text()
    assert "5. The weights were imported from a file that does not say everything" in card
    assert "6. The weights are those whose digest is above" in card
