"""Guaranteed norms: never below dense SVD, hardly above it, exact at closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from gloro_jax.lipschitz import gram, upper
from gloro_jax.lipschitz.convolutions import stride_one
from gloro_jax.lipschitz.convolutions.torus import TWISTS, Torus
from gloro_jax.lipschitz.geometry import resolve_padding
from gloro_jax.lipschitz.upper import average_pool_norm, conv_norm, matrix_norm


def executed(images, kernel, strides, pads, groups=1):
    """The convolution of `images` (n, h, w, c), tap by tap in float64."""
    taps_h, taps_w, inputs, outputs = kernel.shape
    rows, columns = (
        (n + sum(pad) - k) // s + 1
        for n, pad, k, s in zip(images.shape[1:3], pads, kernel.shape, strides, strict=False)
    )
    padded = np.pad(images, ((0, 0), *pads, (0, 0)))
    apart = kernel.astype(np.float64).reshape(taps_h, taps_w, inputs, groups, outputs // groups)
    out = 0
    for i in range(taps_h):
        for j in range(taps_w):
            seen = padded[:, i:, j:][:, :: strides[0], :: strides[1]][:, :rows, :columns]
            seen = seen.reshape(*seen.shape[:3], groups, inputs)
            out = out + np.einsum("nhwgi,igo->nhwgo", seen, apart[i, j], optimize=True)
    return out.reshape(*out.shape[:3], outputs)


def exact_conv_norm(kernel, size, strides, pads, groups=1):
    """Dense SVD of the convolution, in float64."""
    shape = (*size, kernel.shape[2] * groups)
    basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    image = executed(basis, np.asarray(kernel), strides, pads, groups)
    return float(np.linalg.norm(image.reshape(len(basis), -1), ord=2))


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


def excess_over_exact(rng, count):
    """What bounds of random convolutions exceed dense SVD by, relative."""
    excess = []
    while len(excess) < count:
        kernel, size, strides, pads, groups = random_case(rng)
        exact = exact_conv_norm(kernel, size, strides, pads, groups)
        bound = conv_norm(kernel, image_size=size, strides=strides, padding=pads, groups=groups)
        if exact == 0:
            assert float(bound) == 0
        else:
            excess.append(float(bound) / exact - 1)
    return np.array(excess)


def test_the_truth_that_bounds_are_compared_with_is_what_xla_executes():
    rng = np.random.default_rng(0)
    for _ in range(6):
        kernel, size, strides, pads, groups = random_case(rng)
        images = rng.standard_normal((2, *size, kernel.shape[2] * groups))
        with jax.enable_x64(True):
            wanted = jax.lax.conv_general_dilated(
                images, kernel, strides, pads,
                dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
            )  # fmt: skip
        scale = np.abs(kernel).max() or 1
        found = executed(images, kernel, strides, pads, groups)
        np.testing.assert_allclose(found / scale, np.asarray(wanted) / scale, atol=1e-12)


# The constrained torus is meant for operators too large to write out; here borders dominate.
@pytest.mark.parametrize("route", ["written out", "constrained torus"])
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))]
)
def test_small_convolutions_are_bounded_tightly_by_every_route(seed, route, monkeypatch):
    if route != "written out":
        monkeypatch.setattr(upper, "EXPLICIT_SIDE", 0)
    excess = excess_over_exact(np.random.default_rng(seed), 70)
    assert excess.min() >= -1e-13
    assert excess.max() <= 1e-3
    assert np.median(excess) <= (2e-4 if route != "written out" else 1e-6)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_torus_alone_is_sound(seed, monkeypatch):
    monkeypatch.setattr(upper, "EXPLICIT_SIDE", 0)
    monkeypatch.setattr(stride_one, "prove", lambda *arguments, **options: None)
    assert excess_over_exact(np.random.default_rng(100 + seed), 40).min() >= -1e-13


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("twist", TWISTS)
def test_frequencies_that_are_their_own_conjugates_count(twist, sign):
    # Where the norms of kernels of one sign, and of alternating signs, are nearly attained.
    kernel = (sign ** np.add.outer(np.arange(3), np.arange(3)))[..., None, None]
    pads = ((1, 1), (1, 1))
    torus = Torus.around(kernel, image_size=(20, 20), pads=pads)
    bound = stride_one.torus_norm_squared(dataclasses.replace(torus, twist=twist))
    assert bound >= exact_conv_norm(kernel, (20, 20), (1, 1), pads) ** 2


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.999])
def test_a_guess_that_is_too_low_costs_time_and_not_soundness(factor, monkeypatch):
    honest, honest_vectors = gram._largest_eigenvalue, stride_one.largest_singular_vectors
    honest_torus = Torus.largest_eigenvalue

    def low_vectors(linear, *, tol):
        value, vectors = honest_vectors(linear, tol=tol)
        return factor * value, np.zeros_like(vectors)

    monkeypatch.setattr(gram, "_largest_eigenvalue", lambda g: factor * honest(g))
    monkeypatch.setattr(stride_one, "largest_singular_vectors", low_vectors)
    low = property(lambda t: max(factor, 0.1) * honest_torus.func(t))
    monkeypatch.setattr(Torus, "largest_eigenvalue", low)
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
    assert float(explicit) * (1 - 1e-6) <= float(through_torus) <= 1.0002 * float(explicit)
    tighter = conv_norm(kernel, image_size=(20, 20), strides=1, padding="SAME", tol=1e-6)
    assert float(explicit) * (1 - 1e-6) <= float(tighter) <= 1.00001 * float(explicit)


def test_tol_must_be_a_small_excess():
    for tol in (0.0, -1.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="tol is a relative excess"):
            conv_norm(np.ones((1, 1, 1, 1)), image_size=(4, 4), strides=1, padding=0, tol=tol)


@pytest.mark.parametrize("strides", [1, 2])
def test_operators_of_a_few_thousand_rows_are_tight(strides):
    # Too large to be written out, small enough for an eigenvalue solver.
    kernel = np.random.default_rng(1).standard_normal((4, 3, 6, 9)) / 7
    size, pads = (25, 26), ((1, 2), (1, 1))
    bound = conv_norm(kernel, image_size=size, strides=strides, padding=pads)
    linear = stride_one.in_cells(kernel, image_size=size, strides=(strides,) * 2, pads=pads)
    operator = stride_one.StrideOne(
        linear.kernel, image_size=linear.image_size, pads=linear.pads, is_input=linear.is_input
    )
    n = int(np.prod(operator.input_shape))

    def gram_of(v):
        return operator.adjoint(operator(v.reshape(operator.input_shape))).ravel()

    square = scipy.sparse.linalg.LinearOperator((n, n), matvec=gram_of, dtype=np.float64)
    top = scipy.sparse.linalg.eigsh(square, k=1, tol=1e-10, return_eigenvectors=False)[0]
    assert 2500 < n < 5500
    assert np.sqrt(top) * (1 - 1e-9) <= float(bound) <= np.sqrt(top) * 1.0003


def test_a_torus_of_the_image_size_would_be_below_the_truth(monkeypatch):
    # The classical mistake: [-1/2, 0, 1/2] at 6 pixels has circular norm 0.866 and true norm 0.901.
    kernel = np.zeros((1, 3, 1, 1))
    kernel[0, :, 0, 0] = [-0.5, 0, 0.5]
    exact = np.cos(np.pi / 7)
    assert exact_conv_norm(kernel, (1, 6), (1, 1), ((0, 0), (1, 1))) == pytest.approx(exact)
    torus = Torus.around(kernel, image_size=(1, 6), pads=((0, 0), (0, 0)))
    torus = dataclasses.replace(torus, sites=(1, 6))
    circular = np.linalg.eigvalsh(torus.blocks()).max() ** 0.5
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


@pytest.mark.parametrize("strides", [1, 2])
def test_where_lapack_fails_the_bound_is_loose_and_finite(strides, monkeypatch):
    rng = np.random.default_rng(0)
    kernel, matrix = rng.standard_normal((3, 3, 2, 4)), rng.standard_normal((5, 4))
    options = {"image_size": (6, 5), "strides": strides, "padding": 1, "groups": 2}
    honest = float(conv_norm(kernel, **options)), float(matrix_norm(matrix))
    monkeypatch.setattr(upper, "eigenvalue_bound", lambda *_, **__: np.inf)
    loose = float(conv_norm(kernel, **options)), float(matrix_norm(matrix))
    for found, truth in zip(loose, honest, strict=True):
        assert truth * (1 - 1e-6) <= found < 10 * truth


@pytest.mark.usefixtures("untyped")
def test_numpys_integers_are_integers_and_exact_types_are_taken_as_they_are():
    kernel = np.ones((3, 3, 1, 1), np.int8)
    options = {"image_size": np.array([5, 5]), "strides": np.int32(1)}
    expected = float(conv_norm(kernel, image_size=(5, 5), strides=1, padding=((1, 1), (1, 1))))
    for padding in (np.int64(1), ((np.int8(1), 1), (1, 1)), np.ones((2, 2), int), 1):
        assert float(conv_norm(kernel, **options, padding=padding)) == expected
    for dtype in (np.float16, jnp.bfloat16, np.float32, np.int64, np.uint8):
        assert float(matrix_norm(np.eye(2).astype(dtype))) == float(matrix_norm(np.eye(2)))
