"""The run folder: what is damaged, forged or of another kind is refused by name."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import gloro_jax as gj
from gloro_jax import runs
from gloro_jax.identity import digest_of, digest_text
from gloro_jax.models import GloroCNN
from gloro_jax.runs import weights


@pytest.fixture
def run(tmp_path, small_net, small_frozen):
    del small_net
    model = {"convs": [[8, 3, 1], [8, 4, 2]], "dense": [16], "num_classes": 5}
    folder = runs.create(tmp_path / "run")
    runs.write_config(folder, {"model": model})
    runs.save_frozen(folder, "best", small_frozen)
    return folder


def rewrite(run, change):
    """Stores other arrays under the old digest."""
    path = run / "weights" / "best.safetensors"
    arrays, metadata = weights._read_arrays(path)
    arrays, metadata = dict(arrays), dict(metadata)
    change(arrays, metadata)
    path.write_bytes(safetensors.numpy.save(arrays, metadata))


def test_a_round_trip_keeps_every_bit(run, small_frozen, small_net):
    loaded = gj.load(run)
    assert loaded.digest == small_frozen.digest
    assert loaded.layer_norms() == small_frozen.layer_norms()
    for a, b in zip(
        gj.certify(loaded, small_net[2], epsilon=0.1),
        gj.certify(small_frozen, small_net[2], epsilon=0.1),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change",
    [
        lambda a, m: a.update(lipschitz=np.asarray(a["lipschitz"] / 2)),
        lambda a, m: a.update({"body/conv1/linear/norm": np.zeros((), np.float32)}),
        lambda a, m: a.update({"head/distances": a["head/distances"] * 0}),
        lambda a, m: a.update({"head/head/bias": a["head/head/bias"] + 1}),
        lambda a, m: m.update(digest="0" * 64),
    ],
    ids=["K", "norm", "distances", "bias", "digest"],
)
def test_a_file_that_does_not_match_its_digest_is_refused(run, change):
    rewrite(run, change)
    with pytest.raises(ValueError, match=r"best\.safetensors cannot be used: The digest"):
        gj.load(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: a.pop("lipschitz"), "missing \\['lipschitz'\\]"),
        (lambda a, m: a.update(extra=np.zeros(1)), "unknown \\['extra'\\]"),
        (lambda a, m: a.update(lipschitz=np.zeros(2, np.float32)), "another shape or type"),
        (lambda a, m: m.update(format="9"), "has format '9'"),
        (lambda a, m: m.pop("digest"), "digest"),
        (lambda a, m: m.update(digest="xyz"), "cannot be used"),
        (lambda a, m: m.update(input_shape="[8, 8, 3]"), "another shape or type"),
    ],
)
def test_a_file_of_another_kind_is_refused(run, change, message):
    rewrite(run, change)
    with pytest.raises(ValueError, match=message):
        gj.load(run)


def test_a_truncated_file_is_refused(run):
    path = run / "weights" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        gj.load(run)


def test_a_checkpoint_that_is_not_there_is_named(run):
    with pytest.raises(FileNotFoundError, match=r"last\.safetensors is not there"):
        gj.load(run, checkpoint="last")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('{"model": {"convz": []}}', "no field 'convz'; did you mean convs"),
        ('{"model": {"convs": 3, "dense": []}}', "model.convs must be"),
        ('{"model": {"convs": [], "dense": [], "activation": "exec"}}', "model.activation"),
        ('{"model": {"dense": []}}', "missing a required argument|missing 1 required"),
    ],
)
def test_a_config_that_is_not_one_is_refused(run, text, message):
    (run / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        gj.load(run)


def test_weights_of_another_architecture_are_refused(run):
    config = json.loads((run / "config.json").read_text())
    config["model"]["convs"][0][0] = 6
    runs.write_config(run, config)
    with pytest.raises(ValueError, match="do not belong to this network"):
        gj.load(run)


def test_another_layer_without_weights_does_not_keep_too_small_a_bound(run):
    config = json.loads((run / "config.json").read_text())
    config["model"]["activation"] = "relu"
    runs.write_config(run, config)
    with pytest.raises(ValueError, match="layers without weights are others"):
        gj.load(run)  # sound, since ReLU has constant 1 too, but not the network that was frozen
    net = GloroCNN(
        convs=((8, 3, 1), (8, 4, 2)), dense=(16,), num_classes=5, mean=(0.0,), std=(0.5,)
    )
    with pytest.raises(ValueError, match="layers without weights are others"):
        gj.load(run, net=net.build())


def as_version_1(run):
    """Rewrites the weights of a run as an earlier version did: a digest without the steps."""
    path = run / "weights" / "best.safetensors"
    frozen = gj.load(run)
    words = digest_of(frozen._frozen, frozen.input_shape, None)
    metadata = {"format": "1", "digest": digest_text(words)}
    metadata["input_shape"] = json.dumps(frozen.input_shape)
    arrays = {name: array for name, array in frozen.arrays().items() if name != "longest"}
    safetensors.numpy.save_file(arrays, path, metadata)
    return metadata["digest"]


def test_a_folder_of_before_loads_under_its_own_digest_and_one_line_says_so(run, caplog):
    digest = as_version_1(run)
    frozen = gj.load(run)
    assert (frozen.digest, frozen.digest_version) == (digest, 1)
    runs.save_frozen(run, "last", frozen)  # it stays what it is
    assert gj.load(run, checkpoint="last").digest == digest
    assert len(caplog.records) == 2  # once for each loading
    assert "frozen by an earlier version" in caplog.text
    certificate = gj.certify(frozen, np.ones((1, *frozen.input_shape), np.float32), epsilon=1e-6)
    assert certificate.is_certified[0]
    config = json.loads((run / "config.json").read_text())
    runs.write_config(run, {**config, "model": {**config["model"], "activation": "relu"}})
    assert gj.load(run).digest == digest  # what version 1 could not tell apart
    wider = {"mean": [0.0], "std": [0.5]}
    runs.write_config(run, {**config, "model": {**config["model"], **wider}})
    with pytest.raises(ValueError, match="too small for this network"):
        gj.load(run)


def test_nothing_is_left_half_written(run, monkeypatch, small_frozen):
    before = (run / "weights" / "best.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        runs.save_frozen(run, "best", jax.tree.map(lambda a: a, small_frozen))
    assert (run / "weights" / "best.safetensors").read_bytes() == before


def test_a_folder_with_something_in_it_is_not_reused(run):
    with pytest.raises(FileExistsError, match="choose another folder"):
        runs.create(run)


def test_the_same_network_makes_the_same_bytes(small_frozen):
    assert len({runs.frozen_content(small_frozen) for _ in range(8)}) == 1
