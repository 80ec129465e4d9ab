"""The checker's own mathematics: norms against dense SVD, layers against JAX, errors counted."""

import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.certificates import check_certificate as checker
from tests.lipschitz.test_upper import exact_conv_norm, random_case

TWISTS = [[0, 0], [0, 1], [1, 0], [1, 1]]
METHODS = [{"method": "gram"}, *({"method": "torus", "twist": twist} for twist in TWISTS)]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_norm_below_the_truth_is_ever_proved_and_one_above_is(seed):
    rng = np.random.default_rng(200 + seed)
    for _ in range(40):
        kernel, size, strides, pads, groups = random_case(rng)
        exact = exact_conv_norm(kernel, size, strides, pads, groups)
        if exact == 0:
            continue
        step = {
            "op": "conv",
            "layer": "conv",
            "image_size": list(size),
            "strides": list(strides),
            "pads": [list(pair) for pair in pads],
            "groups": groups,
        }
        for method in METHODS:
            for factor in (1 - 3e-6, 1 - 1e-9, 0.5, 0.0):
                assert not checker.proves(step, kernel, {"upper": factor * exact, **method})
            assert checker.proves(step, kernel, {"upper": 3 * exact, **method})
        assert checker.proves(step, kernel, {"upper": exact * (1 + 1e-8), "method": "gram"})


def test_a_torus_claim_is_as_tight_as_the_torus():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 6)) / 6
    exact = float(gj.conv_norm(kernel, image_size=(20, 20), strides=1, padding="SAME"))
    pads = [[1, 1], [1, 1]]
    step = {"op": "conv", "layer": "c", "image_size": [20, 20], "strides": [1, 1], "pads": pads}
    claims = [{"upper": 1.01 * exact, **method} for method in METHODS[1:]]
    assert any(checker.proves({**step, "groups": 1}, kernel, claim) for claim in claims)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_dense_and_scale(scale):
    matrix = np.random.default_rng(0).standard_normal((7, 5)) * scale
    exact = np.linalg.norm(matrix, ord=2)
    step = {"op": "dense"}
    for factor, is_proved in ((1 - 1e-9, False), (1 + 1e-9, True), (0.0, False)):
        claim = {"upper": factor * exact, "method": "matrix"}
        assert checker.proves(step, matrix, claim) == is_proved
    factor = np.array(-2.5 * scale)
    assert not checker.proves({"op": "scale"}, factor, {"upper": 2.4999999 * scale})
    assert checker.proves({"op": "scale"}, factor, {"upper": 2.5000001 * scale})
    assert checker.proves(step, np.zeros((3, 2)), {"upper": 0.0, "method": "matrix"})


def pool(op, window, strides, size=(6, 7), pads=((0, 0), (0, 0))):
    return {
        "op": op,
        "image_size": list(size),
        "window": list(window),
        "strides": list(strides),
        "pads": [list(pair) for pair in pads],
    }


def network(*steps, **weights):
    weights |= {"head": np.zeros((1, 2), np.float32), "bias": np.zeros(2, np.float32)}
    head = {"kernel": "head", "bias": "bias"}
    return checker.Network({"network": list(steps), "head": head}, weights)


@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((1, 0), (1, 1))])
def test_average_pooling_is_bounded_by_its_constant(strides, pads):
    step = pool("average_pool", (2, 3), strides, pads=pads)
    net, basis = network(step), np.eye(42).reshape(42, 6, 7, 1)
    image, _ = net.run([step], basis, np.zeros(42))
    exact = np.linalg.norm(image.reshape(42, -1), ord=2)
    assert exact * (1 - 1e-12) <= net.constant(step) <= 2 * exact


def test_errors_pass_through_every_layer_at_the_rate_of_its_constant():
    # An error of 1 at the input may be the constant, and no less, at the output.
    steps = [
        {"op": "normalize", "mean": [0.5], "factor": [4.0]},
        pool("average_pool", (2, 2), (2, 2), size=(4, 4)),
        {"op": "sum", "branches": [[], [{"op": "abs"}]]},
        pool("max_pool", (2, 2), (2, 2), size=(2, 2)),
        {"op": "flatten"},
        {"op": "relu"},
        {"op": "dense", "layer": "dense", "kernel": "dense", "bias": None},
        {"op": "scale", "layer": "scale", "kernel": "scale", "bias": None},
    ]
    net = network(*steps, dense=np.eye(1, 3, dtype=np.float32), scale=np.float32(-2.0).reshape(()))
    net.norms = {"dense": 1.0, "scale": 2.0}
    _, errors = net.run(steps, np.random.default_rng(0).uniform(size=(3, 4, 4, 1)), np.ones(3))
    assert net.lipschitz(steps) == pytest.approx(4 * 0.5 * 2 * 2)
    assert (errors >= 8).all()
    assert (errors < 8.001).all()


def test_overlapping_windows_and_nonsense_geometry_are_refused():
    for step in (
        pool("max_pool", (2, 2), (1, 2)),
        pool("max_pool", (2, 2), (2, -2)),
        pool("average_pool", (2, 2), (0, 2)),
        pool("average_pool", (9, 2), (2, 2)),
        pool("average_pool", (2, 2), (2, 2), pads=((-1, 0), (0, 0))),
        {**pool("average_pool", (2, 2), (2, 2)), "window": [2.0, 2]},
    ):
        with pytest.raises(checker.Refused):
            network(step).lipschitz([step])


def test_the_length_of_tiny_values_is_not_zero():
    # Their squares are: a rounding error measured by them would count for nothing.
    for size in (1e-300, 1e-180, 1e-163, 1.0, 1e160):
        values = np.full((2, 3, 4), size)
        assert (checker.lengths(values) >= np.sqrt(12) * size).all()
        assert (checker.lengths(values) <= np.sqrt(12) * size * (1 + 1e-8) + 1e-199).all()


def test_an_overflow_is_found_where_it_happens():
    # -inf after the pool would be 0 after relu, and its error would be small.
    huge = np.full((1, 4, 4, 1), -1.7e308)
    steps = [pool("average_pool", (4, 4), (4, 4), size=(4, 4)), {"op": "relu"}]
    with np.errstate(over="ignore"), pytest.raises(checker.Refused, match="average_pool overflow"):
        network(*steps).run(steps, huge, np.zeros(1))


def test_a_shift_of_a_whole_image_leaves_zeros():
    step = {"op": "channel_shift", "count": 1, "is_circular": False}
    values, _ = network(step).run([step], np.ones((1, 1, 2, 5)), np.zeros(1))
    assert values[0, 0].tolist() == [[0, 0, 1, 0, 1], [0, 0, 0, 1, 1]]


@pytest.mark.parametrize(("low", "high", "is_read"), [(4, 0, True), (0, 4, True), (5, 0, False)])
def test_windows_of_padding_alone_are_refused(low, high, is_read):
    # A window of 3 at stride 2: the first window sees the image with 4 zeros before it.
    step = pool("average_pool", (3, 3), (2, 2), pads=((low, high), (1, 1)))
    if is_read:
        network(step)
    else:
        with pytest.raises(checker.Refused, match="holds whole windows of 3 at stride 2"):
            network(step)


def test_a_short_file_cannot_ask_for_a_large_image():
    step = pool("max_pool", (2, 2), (1, 1), pads=((0, 0), (10**6, 10**6)))
    with pytest.raises(checker.Refused, match="whole windows"):
        network(step)
