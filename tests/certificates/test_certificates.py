"""A certificate file proves what it says, says no more than is true, and needs nobody's word."""

import dataclasses
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import certificates, layers
from gloro_jax.certificates import check_certificate as checker
from gloro_jax.layers.base import Frozen
from gloro_jax.lipschitz.steps import Step
from tests.certificates import forge
from tests.draws import key, uniform

CHECKER = Path(checker.__file__)


def frozen_net(body, shape, *, classes=3, seed=0):
    net = gj.GloroNet(body, num_classes=classes)
    x = uniform(seed, (2, *shape))
    variables = jax.jit(lambda k: net.init(k, x, norms=gj.PowerIteration(steps=1)))(key(seed + 1))
    rng = np.random.default_rng(seed)
    noisy = jax.tree.map(
        lambda p: np.asarray(p + 0.1 * rng.standard_normal(p.shape), np.float32),
        variables["params"],
    )
    return gj.freeze(net, {"params": noisy}, input_shape=shape)


BODIES = {
    "stem, strided, ragged": (
        [layers.Conv(6, 3), layers.MinMax(), layers.Conv(4, 4, strides=3), layers.ReLU()],
        (7, 9, 2),
    ),
    "groups, adjacent pairs": (
        [
            layers.Conv(8, (3, 2), groups=2, padding=((2, 0), (1, 1)), use_bias=False),
            layers.MinMax(pairing="adjacent", order="min_max"),
            layers.Conv(8, 3, groups=8),
            layers.Abs(),
        ],
        (6, 6, 4),
    ),
    "pools, patches": (
        [
            layers.Normalize((0.3, 0.4), (0.2, 0.5)),
            layers.SpaceToDepth(2),
            layers.AveragePool(2, strides=1, padding="SAME"),
            layers.MaxPool(2),
            layers.Conv(4, 2, strides=2, padding="VALID"),
            layers.Scale(-0.7),
        ],
        (8, 8, 2),
    ),
    "residual, dense": (
        [
            layers.Residual(nn.Sequential([layers.Conv(2, 3), layers.MinMax(order="min_max")])),
            layers.Residual(layers.Residual(layers.Conv(2, 1))),
        ],
        (5, 6, 2),
    ),
    "shifts, lengths": (
        [
            layers.SpaceToDepth(2),
            layers.Position(),
            layers.ChannelMix(),
            layers.ChannelShift(1 / 8),
            layers.ChannelShift(1 / 4, is_circular=False),
            layers.ChannelMix(use_bias=True),
            layers.BetaAbs(0.5),
            layers.L2Pool(),
            layers.FirstFeatures(5),
        ],
        (6, 8, 2),
    ),
}


def build(name, seed=15):
    steps, shape = BODIES[name]
    body = nn.Sequential([*steps, layers.Flatten(), layers.Dense(10), layers.MinMax()])
    return frozen_net(body, shape, seed=seed)


def some_images(frozen):
    return np.random.default_rng(0).integers(0, 256, (70, *frozen.input_shape)).astype(np.uint8)


def write(frozen, folder):
    images = some_images(frozen)
    labels = np.random.default_rng(1).integers(0, 3, len(images))
    return certificates.write(frozen, images, labels, epsilon="1/10", out=folder / "c")


@pytest.fixture(scope="module")
def frozen():
    return build("stem, strided, ragged")


@pytest.fixture(scope="module")
def images(frozen):
    return some_images(frozen)


@pytest.fixture
def written(frozen, tmp_path):
    return write(frozen, tmp_path)


@pytest.fixture(scope="module", params=BODIES)
def any_case(request, tmp_path_factory):
    frozen = build(request.param)
    return frozen, some_images(frozen), write(frozen, tmp_path_factory.mktemp("any"))


def test_every_layer_goes_through_the_file_and_the_checker_agrees_with_certify(any_case):
    frozen, images, written = any_case
    proved = certificates.check(written.path)
    x = images.astype(np.float32) / 255
    ours = gj.certify(frozen, x, epsilon=0.1)
    np.testing.assert_array_equal(written.predictions, ours.prediction)
    # The file's K is certify's, but for the rounding of K to float32 and of overlapping averages.
    assert proved["lipschitz"] == pytest.approx(frozen.lipschitz, rel=1e-6) or (
        proved["lipschitz"] > frozen.lipschitz
    )
    np.testing.assert_allclose(
        written.radii * proved["lipschitz"], ours.radius * frozen.lipschitz, rtol=1e-3, atol=1e-5
    )
    assert written.is_certified.any()
    assert proved["notes"] == []


def test_float32_inputs_and_inputs_left_out(frozen, images, tmp_path):
    x, labels = images.astype(np.float32) / 255, np.zeros(len(images), int)
    options = {"epsilon": 0.1, "out": tmp_path / "c"}
    written = certificates.write(frozen, x, labels, **options, has_inputs=False)
    with pytest.raises(certificates.Refused, match="bring them with --data"):
        certificates.check(written.path)
    proved = certificates.check(written.path, data=(x, labels))
    assert "those of the data" in proved["words"][1]
    altered = x.copy()
    altered[3, 0, 0, 0] += 1e-3
    with pytest.raises(certificates.Refused, match="inputs are not those of the data"):
        certificates.check(written.path, data=(altered, labels))


def exact_scores(network, x):
    """The scores in rational arithmetic, for chains of convolutions, dense layers and MinMax."""
    value = np.vectorize(Fraction)(x.astype(np.float64))
    for step in network.steps:
        if step["op"] in ("conv", "dense"):
            kernel = np.vectorize(Fraction)(network.weights[step["kernel"]])
            bias = np.vectorize(Fraction)(network.weights[step["bias"]])
            value = _exact_conv(value, kernel, step) if step["op"] == "conv" else value @ kernel
            value = value + bias
        elif step["op"] == "minmax":
            a, b = np.split(value, 2, axis=-1)
            value = np.concatenate([np.maximum(a, b), np.minimum(a, b)], axis=-1)
        else:
            assert step["op"] == "flatten"
            value = value.reshape(-1)
    kernel = np.vectorize(Fraction)(network.weights[network.head["kernel"]])
    bias = np.vectorize(Fraction)(network.weights[network.head["bias"]])
    return value @ kernel + bias


def _exact_conv(value, kernel, step):
    (kh, kw), pads = kernel.shape[:2], step["pads"]
    padded = np.pad(value, (*map(tuple, pads), (0, 0)), constant_values=Fraction(0))
    (sy, sx), (height, width) = step["strides"], padded.shape[:2]
    return np.array(
        [
            [
                np.tensordot(padded[i : i + kh, j : j + kw], kernel, axes=3)
                for j in range(0, width - kw + 1, sx)
            ]
            for i in range(0, height - kh + 1, sy)
        ]
    )


def test_the_error_of_the_scores_is_bounded_by_the_allowance_and_not_absurdly(tmp_path):
    body = nn.Sequential(
        [
            layers.Conv(4, 3, strides=2),
            layers.MinMax(),
            layers.Flatten(),
            layers.Dense(6),
            layers.MinMax(),
        ]
    )
    frozen = frozen_net(body, (5, 4, 2))
    x = np.random.default_rng(0).uniform(size=(3, 5, 4, 2)).astype(np.float32)
    path = certificates.write(frozen, x, np.zeros(3, int), epsilon=0.1, out=tmp_path / "c").path
    header, arrays = checker.read_certificate(path)
    network = checker.Network(header, arrays)
    checker.check_norms(header, network, is_tight=False)
    predictions = arrays["prediction"]
    leads, allowance = network.leads(*network.scores(x), predictions)
    for point in range(3):
        scores = exact_scores(network, x[point])
        exact = scores[predictions[point]] - scores
        errors = [abs(Fraction(lead) - e) for lead, e in zip(leads[point], exact, strict=True)]
        assert all(e <= Fraction(a) for e, a in zip(errors, allowance[point], strict=True))
    assert allowance.max() < 1e-12


def test_no_attack_in_float64_succeeds_at_the_radius_of_the_file(any_case):
    frozen, images, written = any_case
    with jax.enable_x64(True):
        tree = jax.tree.map(lambda a: np.asarray(a, np.float64), frozen.tree_flatten()[0][0])
        clean = jnp.asarray(images[:32].astype(np.float32) / np.float32(255), jnp.float64)
        radii, own = written.radii[:32] * (1 - 1e-6), written.predictions[:32]

        def lead(x, other):
            values = frozen.net.apply({"frozen": tree}, x, norms=Frozen()).values
            rows = np.arange(len(own))
            return values[rows, own] - values[rows, other]

        slope = jax.jit(jax.grad(lambda x, other: lead(x, other).sum()))
        for shift in (1, 2):
            other, x = (own + shift) % 3, clean
            for _ in range(30):
                g = slope(x, other)
                length = jnp.sqrt(jnp.sum(g**2, axis=(1, 2, 3), keepdims=True))
                x = clean - radii[:, None, None, None] * g / jnp.where(length > 0, length, 1)
                certified = written.radii[:32] > 0
                assert (np.asarray(lead(x, other)) > 0)[certified].all()


def test_the_checker_is_one_short_file_that_imports_neither_jax_nor_this_library(written, tmp_path):
    assert len(CHECKER.read_text().splitlines()) <= 950
    copy = tmp_path / "alone.py"
    copy.write_text(CHECKER.read_text())
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['alone.py', {str(written.path)!r}]\n"
        "try: runpy.run_path('alone.py', run_name='__main__')\n"
        "except SystemExit as end: print('status', end.code)\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('jax', 'gloro_jax', 'scipy')))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    lines = out.stdout.splitlines()
    assert lines[0].startswith("CONFIRMED: 70 points")
    assert lines[-2:] == ["status 0", "[]"]


def test_the_checker_on_its_own_takes_data_from_an_npz_file(written, images, tmp_path, capsys):
    data = tmp_path / "data.npz"
    np.savez(data, x_test=images, y_test=written.labels)
    assert checker.main([str(written.path), "--data", str(data)]) == 0
    assert "those of the data" in capsys.readouterr().out
    labels = written.labels.copy()
    labels[5] = (labels[5] + 1) % 3
    np.savez(data, x_test=images, y_test=labels)
    assert checker.main([str(written.path), "--data", str(data)]) == 1
    assert "label of point [5]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("epsilon", "exact"),
    [
        (0.3, Fraction(3, 10)),
        (36 / 255, Fraction(12, 85)),
        ("36/255", Fraction(12, 85)),
        (Fraction(1, 3), Fraction(1, 3)),
        (2.0**-40 + 1, Fraction(2**40 + 1, 2**40)),
        (1, Fraction(1)),
    ],
)
def test_epsilon_is_the_number_that_is_meant_rounded_up(epsilon, exact):
    assert certificates.as_fraction(epsilon) == exact
    value = checker.rounded_up(exact)
    assert Fraction(value) >= exact > Fraction(np.nextafter(value, 0))


@pytest.mark.parametrize("epsilon", [0, -1.0, float("nan"), float("inf"), "a lot", "1/0"])
def test_epsilon_must_be_a_radius(epsilon):
    with pytest.raises(ValueError, match="epsilon is an l2 radius"):
        certificates.as_fraction(epsilon)


class Tanh(layers.LipschitzLayer):
    """A layer of a user's own."""

    step: object = None

    def __call__(self, x):
        return x.apply(jnp.tanh, lipschitz=1.0, step=self.step)


def test_a_layer_without_a_proof_is_refused(tmp_path):
    frozen = frozen_net(nn.Sequential([layers.Dense(4), Tanh(), layers.Dense(4)]), (5,))
    x = np.random.default_rng(0).uniform(size=(2, 5)).astype(np.float32)
    with pytest.raises(ValueError, match="Layer 2 of 3 applies a function of its own"):
        certificates.describe(frozen)
    branch = nn.Sequential([layers.Dense(5), Tanh()])
    inside = frozen_net(nn.Sequential([layers.Residual(branch)]), (5,))
    with pytest.raises(ValueError, match="a function of its own"):
        certificates.describe(inside)
    assert gj.certify(frozen, x, epsilon=0.1).radius.shape == (2,)


def test_a_layer_that_does_not_do_what_its_name_says_is_refused(tmp_path):
    body = nn.Sequential(
        [layers.Flatten(), layers.Dense(16), Tanh(step=Step.of("relu")), layers.Dense(4)]
    )
    frozen = frozen_net(body, (3, 3, 1))
    x = np.random.default_rng(0).uniform(size=(4, 3, 3, 1)).astype(np.float32)
    with pytest.raises(ValueError, match="they are not the same"):
        certificates.write(frozen, x, np.zeros(4, int), epsilon=0.1, out=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_stacked_layers_are_refused_with_a_way_out():
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = nn.scan(
                Block, variable_axes={"params": 0, "spectral": 0, "operators": 0, "frozen": 0},
                split_rngs={"params": True}, length=2,
            )  # fmt: skip
            return block(name="blocks")(x, None)[0]

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return layers.Dense(4)(x), None

    frozen = frozen_net(Scanned(), (4,))
    with pytest.raises(ValueError, match=r"nn.scan.*one after another"):
        certificates.describe(frozen)


def test_nothing_is_overwritten_and_nothing_partial_is_left(frozen, images, tmp_path, monkeypatch):
    labels, out = np.zeros(len(images), int), tmp_path / "c"
    out.write_text("mine")
    with pytest.raises(FileExistsError):
        certificates.write(frozen, images, labels, epsilon=0.1, out=out)
    assert out.read_text() == "mine"
    out.unlink()
    with pytest.raises(FileNotFoundError, match="no folder"):
        certificates.write(frozen, images, labels, epsilon=0.1, out=tmp_path / "no" / "c")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        certificates.write(frozen, images, labels, epsilon=0.1, out=out)
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_are_refused(frozen, images, tmp_path):
    labels, out = np.zeros(len(images), int), tmp_path / "c"
    with pytest.raises(TypeError):
        certificates.write(frozen, images.astype(np.float64), labels, epsilon=0.1, out=out)
    with pytest.raises(ValueError, match="images of shape"):
        certificates.write(frozen, images[:, :-1], labels, epsilon=0.1, out=out)
    with pytest.raises(ValueError):
        certificates.write(frozen, images, labels + 3, epsilon=0.1, out=out)
    nan = images.astype(np.float32) / 255
    nan[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError):
        certificates.write(frozen, nan, labels, epsilon=0.1, out=out)
    assert list(tmp_path.iterdir()) == []


def test_a_tie_and_an_even_smaller_lead_are_not_certified(tmp_path):
    # Two equal columns of the head: their lead is exactly 0 and its allowance is not.
    frozen = frozen_net(nn.Sequential([layers.Flatten(), layers.Dense(4)]), (2, 2, 1))
    params = {name: np.array(value) for name, value in frozen.arrays().items()}
    head = params["head/head/kernel"]
    head[:, 1] = head[:, 0]
    bias = np.float32([1e-45, 0, 0])  # a lead that no allowance bears
    layer = "body/layers_1/linear/linear"
    dense = {"kernel": params[f"{layer}/operator/kernel"], "bias": params[f"{layer}/bias"]}
    weights = {"body": {"layers_1": dense}, "head_kernel": head, "head_bias": bias}
    net, variables = frozen.net, {"params": weights}
    tied = gj.freeze(net, variables, input_shape=(2, 2, 1))
    x = np.random.default_rng(0).uniform(size=(50, 2, 2, 1)).astype(np.float32)
    written = certificates.write(tied, x, np.zeros(50, int), epsilon=1e-30, out=tmp_path / "c")
    is_tied = written.predictions < 2
    assert is_tied.any()
    assert not written.is_certified[is_tied].any()
    assert (written.radii[is_tied] == 0).all()
    certificates.check(written.path)


def test_the_header_speaks_of_itself(written):
    header, arrays = forge.read(written.path)
    assert header["semantics"] == "real"
    assert header["epsilon"] == {"numerator": 1, "denominator": 10}
    assert set(header["made_with"]) == {"gloro-jax", "jax", "numpy", "python"}
    assert arrays["inputs"].dtype == np.uint8
    json.dumps(header)
    assert dataclasses.asdict(written)["epsilon"] == Fraction(1, 10)


class AlmostReLU(layers.LipschitzLayer):
    """Leaks three thousandths, and says that it does not."""

    def __call__(self, x):
        leaky = lambda v: jnp.where(v > 0, v, 0.003 * v)  # noqa: E731
        return x.apply(leaky, lipschitz=1.0, step=Step.of("relu"))


def test_a_layer_that_almost_does_what_its_name_says_is_refused(tmp_path):
    body = nn.Sequential([layers.Flatten(), layers.Dense(16), AlmostReLU(), layers.Dense(4)])
    frozen = frozen_net(body, (3, 3, 1))
    x = np.random.default_rng(0).uniform(size=(4, 3, 3, 1)).astype(np.float32)
    x[0] *= 1000  # one large score does not hide the others
    with pytest.raises(ValueError, match="they are not the same"):
        certificates.write(frozen, x / 1000, np.zeros(4, int), epsilon=0.1, out=tmp_path / "c")


def test_smooth_activations_have_no_proof_in_a_file():
    frozen = frozen_net(nn.Sequential([layers.Dense(4), layers.SmoothAbs()]), (5,))
    with pytest.raises(ValueError, match="Layer 2 of 2 applies 'smooth_abs'"):
        certificates.describe(frozen)


def test_windows_that_see_padding_only(tmp_path):
    conv = layers.Conv(4, 1, strides=3, padding=((0, 0), (2, 0)))
    frozen = frozen_net(nn.Sequential([conv, layers.Flatten()]), (5, 1, 1))
    x = np.random.default_rng(0).uniform(size=(4, 5, 1, 1)).astype(np.float32)
    written = certificates.write(frozen, x, np.zeros(4, int), epsilon=0.1, out=tmp_path / "c")
    certificates.check(written.path)
