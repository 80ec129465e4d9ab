"""Guaranteed norms: never below dense SVD, at most 2 % above, exact at closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloro_jax.lipschitz import gram, torus, upper
from gloro_jax.lipschitz.geometry import resolve_padding
from gloro_jax.lipschitz.upper import average_pool_norm, conv_norm, matrix_norm


def exact_conv_norm(kernel, size, strides, pads, groups=1):
    """Dense SVD of the convolution as XLA executes it, in float64."""
    shape = (*size, kernel.shape[2] * groups)
    basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    with jax.enable_x64(True):
        image = jax.lax.conv_general_dilated(
            jnp.asarray(basis),
            jnp.asarray(np.asarray(kernel, np.float64)),
            strides,
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return float(np.linalg.norm(np.asarray(image).reshape(len(basis), -1), ord=2))


def random_case(rng):
    """A random small convolution of every kind: kernel, stride, padding, groups, family."""
    kh, kw = (int(k) for k in rng.choice([1, 2, 3, 4, 5], 2))
    strides = tuple(int(s) for s in rng.choice([1, 1, 2, 3], 2))
    size = tuple(int(n) for n in rng.integers(5, 9, 2))
    groups = int(rng.choice([1, 1, 2]))
    inputs, outputs = int(rng.integers(1, 4)), int(rng.integers(1, 4)) * groups
    pads = tuple((int(rng.integers(0, k)), int(rng.integers(0, k))) for k in (kh, kw))
    kernel = rng.standard_normal((kh, kw, inputs, outputs))
    family = rng.choice(["random", "positive", "high-pass", "sparse", "identity"])
    if family == "positive":
        kernel = np.abs(kernel) * 0.2 + 1
    if family == "high-pass":
        signs = (-1.0) ** np.add.outer(np.arange(kh), np.arange(kw))
        kernel = (np.abs(kernel) * 0.1 + 1) * signs[..., None, None]
    if family == "sparse":
        kernel *= rng.random(kernel.shape) < 0.3
    if family == "identity":
        kernel = 0.1 * kernel
        kernel[kh // 2, kw // 2, 0, 0] += 1
    return (kernel * 10.0 ** rng.integers(-20, 20)).astype(np.float64), size, strides, pads, groups


@pytest.mark.parametrize("seed", range(4))
def test_small_convolutions_are_bounded_within_two_percent(seed):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        kernel, size, strides, pads, groups = random_case(rng)
        exact = exact_conv_norm(kernel, size, strides, pads, groups)
        bound = float(
            conv_norm(kernel, image_size=size, strides=strides, padding=pads, groups=groups)
        )
        assert exact * (1 - 1e-13) <= bound <= 1.02 * exact, (kernel.shape, size, strides, pads)


@pytest.mark.parametrize("seed", range(4))
def test_the_route_for_large_convolutions_is_sound_on_small_ones(seed, monkeypatch):
    # Looser here, where borders dominate; what counts is that it never falls below.
    monkeypatch.setattr(upper, "EXPLICIT_SIDE", 0)
    rng = np.random.default_rng(100 + seed)
    for _ in range(40):
        kernel, size, strides, pads, groups = random_case(rng)
        exact = exact_conv_norm(kernel, size, strides, pads, groups)
        bound = float(
            conv_norm(kernel, image_size=size, strides=strides, padding=pads, groups=groups)
        )
        assert exact * (1 - 1e-13) <= bound, (kernel.shape, size, strides, pads)


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.999])
def test_a_guess_that_is_too_low_costs_time_and_not_soundness(factor, monkeypatch):
    honest, honest_torus = gram._largest_eigenvalue, torus._guess
    monkeypatch.setattr(gram, "_largest_eigenvalue", lambda g: factor * honest(g))
    monkeypatch.setattr(torus, "_guess", lambda s: max(factor, 0.1) * honest_torus(s))
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 3))
    exact = exact_conv_norm(kernel, (6, 6), (1, 1), ((1, 1), (1, 1)))
    options = {"image_size": (6, 6), "strides": 1, "padding": "SAME"}
    assert exact <= float(conv_norm(kernel, **options)) <= 2.1 * exact
    monkeypatch.setattr(upper, "EXPLICIT_SIDE", 0)
    assert exact <= float(conv_norm(kernel, **options))


def test_a_large_convolution_is_tight(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 8))
    explicit = conv_norm(kernel, image_size=(20, 20), strides=1, padding="SAME")
    monkeypatch.setattr(upper, "EXPLICIT_SIDE", 0)
    through_torus = conv_norm(kernel, image_size=(20, 20), strides=1, padding="SAME")
    assert float(explicit) <= float(through_torus) <= 1.01 * float(explicit)


def test_a_torus_of_the_image_size_would_be_below_the_truth(monkeypatch):
    # The classical mistake: [-1/2, 0, 1/2] at 6 pixels has circular norm 0.866 and true norm 0.901.
    kernel = np.zeros((1, 3, 1, 1))
    kernel[0, :, 0, 0] = [-0.5, 0, 0.5]
    exact = np.cos(np.pi / 7)
    assert exact_conv_norm(kernel, (1, 6), (1, 1), ((0, 0), (1, 1))) == pytest.approx(exact)
    symbol = torus.Symbol(torus._gram_kernel(kernel)[0], (1, 6), (0, 0), 0.0)
    circular = max(np.linalg.eigvalsh(b)[-1] for chunk in symbol.chunks() for b in chunk) ** 0.5
    assert circular == pytest.approx(np.sqrt(3) / 2)
    monkeypatch.setattr(upper, "EXPLICIT_SIDE", 0)
    bound = conv_norm(kernel, image_size=(1, 6), strides=1, padding=((0, 0), (1, 1)))
    assert exact <= float(bound)


@pytest.mark.parametrize("side", [0, 2048])
@pytest.mark.parametrize(
    ("taps", "norm"),
    [
        ([0.25, 0.5, 0.25], (1 + np.cos(np.pi / 13)) / 2),
        ([1 / 3, 1 / 3, 1 / 3], (1 + 2 * np.cos(np.pi / 13)) / 3),
        ([-0.5, 0, 0.5], np.cos(np.pi / 13)),
        ([0, 1, 0], 1.0),
        ([1, 0, 0], 1.0),
    ],
    ids=["binomial", "box", "difference", "identity", "shift"],
)
def test_closed_forms_on_twelve_pixels(taps, norm, side, monkeypatch):
    monkeypatch.setattr(upper, "EXPLICIT_SIDE", side)
    kernel = np.asarray(taps).reshape(1, 3, 1, 1)
    bound = conv_norm(kernel, image_size=(1, 12), strides=1, padding=((0, 0), (1, 1)))
    assert norm * (1 - 1e-15) <= float(bound) <= norm * (1.03 if side == 0 else 1 + 1e-5)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (1, 9), (5, 8), (8, 5), (70, 66)]),
    rank=st.integers(1, 12),
    exponent=st.integers(-900, 900),
    seed=st.integers(0, 2**31 - 1),
)
def test_matrix_norms_lie_just_above_the_truth_at_every_scale(shape, rank, exponent, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    exact = np.linalg.norm(matrix, ord=2)
    bound = float(matrix_norm(np.ldexp(matrix, exponent)))
    assert exact * (1 - 1e-14) <= np.ldexp(bound, -exponent) <= exact * (1 + 1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-16, 1e-5, 1e30])
def test_the_bound_of_a_convolution_scales_exactly_with_powers_of_two(scale):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 2)).astype(np.float32)
    power = 2.0 ** np.round(np.log2(scale))
    one, other = (
        float(conv_norm(k, image_size=(6, 6), strides=1, padding="SAME"))
        for k in (kernel, kernel.astype(np.float64) * power)
    )
    assert other == pytest.approx(power * one, rel=1e-15)


def test_only_a_zero_operator_has_bound_zero():
    assert float(matrix_norm(np.zeros((3, 4)))) == 0
    assert float(matrix_norm(np.full((1, 1), 5e-324))) > 0
    zero = conv_norm(np.zeros((3, 3, 1, 1)), image_size=(5, 5), strides=1, padding="SAME")
    assert float(zero) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match=r"matrix holds 1 NaN or infinite"):
        matrix_norm(np.asarray([[1.0, bad]]))
    kernel = np.zeros((1, 1, 1, 1))
    kernel[:] = bad
    with pytest.raises(ValueError, match=r"kernel holds 1 NaN or infinite"):
        conv_norm(kernel, image_size=(4, 4), strides=1, padding="SAME")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": -1}, "must not be negative"),
        ({"strides": 0}, "strides is a positive integer"),
        ({"groups": 2}, "groups must divide"),
        ({"image_size": (2, 2), "padding": "VALID"}, "does not fit an image"),
    ],
)
def test_geometry_that_does_not_fit_is_refused(options, message):
    arguments = {"image_size": (5, 5), "strides": 1, "padding": "SAME", **options}
    with pytest.raises(ValueError, match=message):
        conv_norm(np.ones((3, 3, 1, 1)), **arguments)


@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
@pytest.mark.parametrize("window", [(2, 2), (3, 3), (3, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_average_pooling_is_exact(size, window, strides, padding):
    pads = resolve_padding(padding, image_size=size, window=window, strides=strides)
    kernel = np.full((*window, 1, 1), 1 / np.prod(window))
    exact = exact_conv_norm(kernel, size, strides, pads)
    bound = average_pool_norm(image_size=size, window=window, strides=strides, pads=pads)
    assert exact * (1 - 1e-13) <= bound <= exact * (1 + 1e-5)


def test_patches_are_one_matrix():
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 5))
    bound = conv_norm(kernel, image_size=(16, 16), strides=4, padding="VALID")
    exact = np.linalg.norm(kernel.reshape(-1, 5), ord=2)
    assert exact <= float(bound) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("image", [(9, 8), (5, 7)])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_that_of_xla(image, k, stride):
    expected = jax.lax.padtype_to_pads(image, (k, k), (stride, stride), "SAME")
    pads = resolve_padding("SAME", image_size=image, window=(k, k), strides=(stride, stride))
    assert [tuple(p) for p in pads] == [tuple(int(v) for v in p) for p in expected]
