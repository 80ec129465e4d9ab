"""State dicts from strangers: what is missing, extra, mis-shaped, not finite, or no state dict."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import gloro_jax as gj
from gloro_jax.torch_import import from_state_dict, import_torch, read_state_dict
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.state import initial_state, started_from

FILE = Path(__file__).parent / "golden" / "liresnet_cifar.npz"


@pytest.fixture
def state():
    return read_state_dict(FILE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("import") / "run"
    import_torch(FILE, out=out, epsilon=0.2)
    return out


def test_every_fault_is_named_at_once(state):
    del state["neck.bias"]
    state["extra"] = np.zeros(3, np.float32)
    state["head.bias"] = state["head.bias"][:-1]
    state["conv.bias"] = state["conv.bias"] * np.nan
    state["linear.gamma"] = np.ones(state["linear.gamma"].shape, np.int64)
    with pytest.raises(ValueError, match="cannot be imported") as caught:
        from_state_dict(state)
    for words in (
        "neck.bias is missing",
        "extra is unknown",
        "head.bias has shape (9,) in place of (10,)",
        "conv.bias holds NaN",
        "linear.gamma is of type int64",
    ):
        assert words in str(caught.value)


def test_numbers_beyond_float32_are_refused(state):
    state["head.bias"] = np.full(10, 1e300)
    with pytest.raises(ValueError, match=r"head.bias holds NaN or infinite.*exceed float32"):
        from_state_dict(state)


def test_a_state_dict_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"no state dict of a LiResNet.*stem.0.weight of 4 axes"):
        from_state_dict({"fc.weight": np.zeros((3, 3))})
    with pytest.raises(ValueError, match="no state dict of a LiResNet"):
        from_state_dict({})


def test_an_odd_width_is_refused(state):
    state["conv.weights"] = state["conv.weights"][:, :15, :15]
    with pytest.raises(ValueError, match=r"width must be even, and conv.weights has 15 channels"):
        from_state_dict(state)


def test_the_cache_of_kernels_is_never_read(state):
    clean = from_state_dict(state)
    state["linear.eval_weight"] = np.full_like(state["linear.eval_weight"], np.nan)
    again = from_state_dict(state)
    np.testing.assert_array_equal(
        clean.variables["params"]["body"]["dense1"]["kernel"],
        again.variables["params"]["body"]["dense1"]["kernel"],
    )


def test_the_image_size_comes_from_the_file_or_the_neck_or_the_caller(state):
    assert from_state_dict(state).input_shape == (32, 32, 3)
    del state["stem.0.init_x"]
    assert from_state_dict(state).input_shape == (32, 32, 3)
    assert from_state_dict(state, image_size=31).input_shape == (31, 31, 3)  # also 16 x 16 inside
    with pytest.raises(ValueError, match=r"Images of 64 x 64 do not fit.*makes 32 x 32.*16 x 16"):
        from_state_dict(state, image_size=64)


def test_a_patch_stem_needs_the_image_size(state):
    rng = np.random.default_rng(0)
    state["stem.0.weight"] = rng.standard_normal((16, 3, 2, 2)).astype(np.float32)
    start = state.pop("stem.0.init_x")
    with pytest.raises(ValueError, match="give the image size"):
        from_state_dict(state)
    found = from_state_dict(state, image_size=33)
    assert found.model.stem == "patches"
    assert found.input_shape == (33, 33, 3)
    frozen = gj.freeze(found.model.build(), found.variables, input_shape=(33, 33, 3))
    assert frozen.operators()["body/stem"].output_shape == (16, 16, 16)
    assert from_state_dict({**state, "stem.0.init_x": start}).input_shape == (32, 32, 3)


def test_without_running_means_the_network_is_not_centred(state):
    del state["conv.running_mean"]
    found = from_state_dict(state)
    assert not found.model.is_centered
    gj.freeze(found.model.build(), found.variables, input_shape=found.input_shape)


def test_safetensors_and_npz_say_the_same_also_with_the_prefix_of_parallel_training(
    state, tmp_path
):
    renamed = {f"module.{name}": np.ascontiguousarray(a) for name, a in state.items()}
    safetensors.numpy.save_file(renamed, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **renamed)
    for name in ("a.safetensors", "b.npz"):
        again = read_state_dict(tmp_path / name)
        assert again.keys() == state.keys()
        assert all(np.array_equal(again[k], state[k]) for k in state)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_a_pickle_executes_nothing(suffix, tmp_path, monkeypatch):
    if suffix == ".pth":
        pytest.importorskip("torch", reason="reading .pth needs the extra 'torch'")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(pickle.dumps({"stem.0.weight": Bomb()}))
    with pytest.raises(ValueError, match="bomb"):
        read_state_dict(path)
    if suffix == ".npz":
        np.savez(path, a=np.array([Bomb()], dtype=object))
        with pytest.raises(ValueError, match=r"cannot be read as an .npz"):
            read_state_dict(path)
    assert not (tmp_path / "exploded").exists()


def test_pth_files_of_the_reference_are_read(state, tmp_path):
    torch = pytest.importorskip("torch", reason="reading .pth needs the extra 'torch'")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    torch.save({"backbone": tensors, "current_epoch": 3}, tmp_path / "a.pth")
    torch.save(tensors, tmp_path / "b.pt")
    for name in ("a.pth", "b.pt"):
        again = read_state_dict(tmp_path / name)
        assert all(np.array_equal(again[k], state[k]) for k in state)
    torch.save(torch.zeros(3), tmp_path / "c.pth")
    with pytest.raises(ValueError, match="holds Tensor and no state dict"):
        read_state_dict(tmp_path / "c.pth")
    torch.save({"epoch": 3}, tmp_path / "d.pth")
    with pytest.raises(ValueError, match="no state dict: epoch are no tensors"):
        read_state_dict(tmp_path / "d.pth")


def test_without_torch_a_pth_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(ImportError, match=r"gloro-jax\[torch\]"):
        read_state_dict(tmp_path / "a.pth")


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.pth is not there"):
        read_state_dict(tmp_path / "no.pth")
    (tmp_path / "a.bin").touch()
    with pytest.raises(ValueError, match=r"one of \['.npz', '.pt', .*'.pth.tar'\]"):
        read_state_dict(tmp_path / "a.bin")
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="damaged, no safetensors file"):
        read_state_dict(tmp_path / "a.safetensors")


def test_a_run_folder_comes_out_that_loads(run, state):
    with np.load(FILE) as golden:
        frozen = gj.load(run)
        np.testing.assert_allclose(frozen(golden["x"]).values, golden["eval/logits"], atol=1e-4)
    with pytest.raises(FileExistsError, match="never overwritten"):
        import_torch(FILE, out=run)


def test_nothing_is_written_for_a_bad_file(state, tmp_path):
    del state["head.bias"]
    np.savez(tmp_path / "bad.npz", **state)
    with pytest.raises(ValueError, match=r"head.bias is missing"):
        import_torch(tmp_path / "bad.npz", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_goes_on_from_an_imported_run(run, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    labels = np.tile(np.arange(10), 4)
    data = gj.data.from_arrays((images, labels), (images, labels), validation=0.25)
    model = gj.models.from_plain_model(gj.runs.read_config(run)["model"])
    # At so small a rate the weights stay what they were, running means apart.
    config = gj.training.TrainConfig(
        epsilon=0.1, epochs=1, batch_size=8, learning_rate=1e-9, power_steps=10
    )
    initial = gj.runs.load_variables(run)
    result = gj.training.fit(model, data, config, run=tmp_path / "tuned", initial=initial)
    before, after = gj.load(run), gj.runs.load_variables(tmp_path / "tuned")
    kernel = initial["params"]["body"]["stem"]["kernel"]
    np.testing.assert_allclose(after["params"]["body"]["stem"]["kernel"], kernel, atol=1e-6)
    moved = after["centering"]["body"]["block1"]["mean"]
    assert not np.allclose(moved, initial["centering"]["body"]["block1"]["mean"])
    assert result.frozen.lipschitz == pytest.approx(before.lipschitz, rel=1e-5)
    # The vectors were brought close to those of the weights before the first step.
    norms = gj.runs.read_summary(tmp_path / "tuned")["norms"]
    for name in ("body/stem", "body/block1"):
        assert norms[name]["estimate"] == pytest.approx(norms[name]["guaranteed"], rel=0.01)


@pytest.mark.slow
def test_initial_weights_of_another_network_are_named(run, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    labels = np.tile(np.arange(10), 4)
    data = gj.data.from_arrays((images, labels), (images, labels), validation=0.25)
    model = gj.models.ChordLiResNet(depth=2, width=16, dense_features=64, dense_depth=3)
    config = gj.training.TrainConfig(epsilon=0.1, epochs=1, batch_size=8)
    with pytest.raises(ValueError, match=r"another network.*block3/bias: \(16,\), wanted none"):
        gj.training.fit(
            model, data, config, run=tmp_path / "no", initial=gj.runs.load_variables(run)
        )
    assert not (tmp_path / "no").exists()


def test_stems_and_sizes_that_make_no_network(state):
    empty = {**state, "conv.weights": state["conv.weights"][:, :0, :0]}
    with pytest.raises(ValueError, match=r"without entries make no network: conv.weights"):
        from_state_dict(empty)
    odd = {**state, "stem.0.weight": state["stem.0.weight"][:, :, :3, :3]}
    with pytest.raises(ValueError, match=r"window is 5, or 2 = sqrt.*stem.0.weight has 3"):
        from_state_dict(odd)
    for size in (0, -1, 32.0, "32"):
        with pytest.raises((ValueError, TypeError), match="image_size"):
            from_state_dict(state, image_size=size)
    with pytest.raises(ValueError, match=r"made for images of 32 x 32, and image_size says 31"):
        from_state_dict(state, image_size=31)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused_before_anything_is_written(epsilon, tmp_path):
    with pytest.raises(ValueError, match="epsilon is an l2 radius"):
        import_torch(FILE, out=tmp_path / "run", epsilon=epsilon)
    assert not (tmp_path / "run").exists()


def test_flipped_bytes_of_variables_are_noticed(run, tmp_path):
    path = run / "weights" / "last.variables.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its arrays are not those of its SHA-256"):
        gj.runs.load_variables(run, checkpoint="last")


@pytest.mark.slow
def test_initial_weights_are_finite_floating_point_numbers(run):
    initial = gj.runs.load_variables(run)
    bias = initial["params"]["head_bias"]
    model = gj.models.from_plain_model(gj.runs.read_config(run)["model"])
    config = gj.training.TrainConfig(epsilon=0.1, epochs=1, batch_size=8)
    optimizer = make_optimizer(config, steps_per_epoch=1)
    net, shape = model.build(), (32, 32, 3)
    state = initial_state(net, optimizer, seed=0, input_shape=shape)
    for wrong, message in (
        (bias * np.nan, "holds NaN"),
        (bias.astype(np.int32), "is of type int32"),
        (bias.astype(np.complex64), "is of type complex64"),
    ):
        initial["params"]["head_bias"] = wrong
        with pytest.raises(ValueError, match=f"initial params/head_bias.*{message}"):
            started_from(state, initial, net=net, optimizer=optimizer, input_shape=shape)
