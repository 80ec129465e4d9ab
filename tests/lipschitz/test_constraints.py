"""Weinstein's constraints: no target below the truth is ever proved, whatever the constraints."""

import dataclasses

import numpy as np
import pytest

from gloro_jax.lipschitz.convolutions import constraints
from gloro_jax.lipschitz.convolutions.blocks import Blocks
from gloro_jax.lipschitz.convolutions.constraints import prove
from gloro_jax.lipschitz.convolutions.stride_one import (
    StrideOneCase,
    in_cells,
    stride_one_norm_squared,
)
from gloro_jax.lipschitz.convolutions.torus import TWISTS, Torus
from tests.lipschitz.test_upper import exact_conv_norm, random_case

BELOW = 1 - 3e-6


def torus_case(rng):
    """A random torus with its exact norm, kernel entries of size about 1."""
    while True:
        kernel, size, strides, pads, _ = random_case(rng)
        kernel = kernel / np.abs(kernel).max(initial=1e-300)
        exact = exact_conv_norm(kernel, size, strides, pads)
        if exact > 0:
            case = in_cells(kernel, image_size=size, strides=strides, pads=pads)
            torus = Torus.around(
                case.kernel, image_size=case.image_size, pads=case.pads, is_input=case.is_input
            )
            return torus, exact


def random_hints(torus, rng):
    return rng.standard_normal((*torus.sites, torus.channels, 3))


def on_deleted_sites(torus, rng, count):
    """Random orthonormal fields on deleted inputs, and on deleted outputs."""
    fields = []
    for kept in (torus.kept_inputs, torus.kept_outputs):
        rows = rng.standard_normal((int((~kept).sum()), count))
        field = np.zeros((*kept.shape, min(count, len(rows))))
        field[~kept] = np.linalg.qr(rows)[0]
        fields.append(field)
    return fields[0], fields[1] / (1 + 1e-8)


def test_spectra_are_unitary_and_blocks_are_what_the_circular_convolution_does():
    rng = np.random.default_rng(0)
    for twist in TWISTS:
        torus = dataclasses.replace(torus_case(rng)[0], twist=twist)
        a, b = (rng.standard_normal((*torus.sites, torus.channels, 3)) for _ in range(2))
        spectra = torus.spectrum(a)
        np.testing.assert_allclose(torus.fields(spectra), a, atol=1e-12)
        flat = [f.reshape(-1, 3) for f in (a, b)]
        np.testing.assert_allclose(
            torus.inner(spectra, torus.spectrum(b)), flat[0].T @ flat[1], atol=1e-10
        )
        assert torus.norm(spectra) == pytest.approx(np.linalg.norm(a), rel=1e-8)
        image = torus.apply(spectra)
        back = torus.apply(image, is_adjoint=True)
        np.testing.assert_allclose(back, torus.blocks() @ spectra, atol=1e-9)


def test_a_zero_padded_convolution_is_a_part_of_its_torus():
    rng = np.random.default_rng(1)
    for twist in TWISTS:
        kernel = rng.standard_normal((3, 4, 2, 3))
        size, pads = (5, 6), ((2, 1), (0, 3))
        torus = Torus.around(kernel, image_size=size, pads=pads)
        torus = dataclasses.replace(torus, twist=twist)
        x = np.zeros((*torus.sites, 2, 1))
        x[:5, :6] = rng.standard_normal((5, 6, 2, 1))
        image = torus.fields(torus.apply(torus.spectrum(x)))[..., 0]
        padded = np.pad(x[:5, :6, :, 0], (*pads, (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, (3, 4), axis=(0, 1))
        expected = np.einsum("yxcij,ijco->yxo", view, kernel)
        np.testing.assert_allclose(image[torus.kept_outputs].reshape(expected.shape), expected)


@pytest.mark.parametrize("scale", [1.0, 0.37, 1 - 2.0**-20])
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-3])
def test_kernels_of_one_pixel_have_the_norm_of_their_matrix(scale, spread):
    """Near an orthogonal one the torus alone decides, within a millionth of the truth."""
    rng = np.random.default_rng(0)
    matrix = scale * np.linalg.qr(rng.standard_normal((5, 5)))[0]
    matrix += spread * rng.standard_normal((5, 5))
    case = StrideOneCase(matrix[None, None], (7, 6), ((0, 0), (0, 0)))
    bound, exact = stride_one_norm_squared(case, tol=1e-4), np.linalg.norm(matrix, 2) ** 2
    assert exact * (1 - 1e-14) <= bound <= exact * (1 + 4e-4)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))]
)
def test_a_target_just_below_the_truth_is_never_proved(seed):
    rng = np.random.default_rng(seed)
    for _ in range(25):
        torus, exact = torus_case(rng)
        twisted = dataclasses.replace(torus, twist=TWISTS[rng.integers(4)])
        for hints in (None, random_hints(torus, rng)):
            blocks = Blocks(twisted)
            for margin in (1e-6, 2e-7):
                assert prove(blocks, (exact * BELOW) ** 2, margin=margin, hints=hints) is None


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))]
)
def test_no_choice_of_constraints_proves_what_is_false(seed, monkeypatch):
    rng = np.random.default_rng(10 + seed)
    honest = constraints._constrain
    tried = 0

    def adversary(blocks, lift, hints):
        """Constraints from the honest choice, from noise, and too many of them."""
        nonlocal tried
        torus, solve = blocks.torus, constraints._Solver(blocks, lift)
        count = int(rng.integers(1, 30))
        fields = on_deleted_sites(torus, rng, count)
        rho = 10.0 ** rng.uniform(0, 8) * lift.t
        constraint = constraints._Constraint.of(torus, *fields, rho)
        found = honest(blocks, lift, hints)
        if found is not None and rng.random() < 0.5:
            constraint = found[0]
        if constraint.spectra.shape[2] == 0:
            return None
        x, _ = constraints._woodbury(
            torus, solve, lift.fields, solve(lift.fields), constraint.spectra
        )
        tried += 1
        x = x * rng.choice([0.0, 0.5, 1.0])
        return constraint, x * (1 + rng.choice([0, 1e-3]) * rng.standard_normal(x.shape))

    monkeypatch.setattr(constraints, "_constrain", adversary)
    for _ in range(25):
        torus, exact = torus_case(rng)
        twisted = dataclasses.replace(torus, twist=TWISTS[rng.integers(4)])
        assert prove(Blocks(twisted), (exact * BELOW) ** 2, margin=1e-6, hints=None) is None
    assert tried > 5


def test_a_target_just_above_the_truth_is_proved_where_the_torus_alone_is_loose():
    rng = np.random.default_rng(5)
    proved = loose = 0
    while loose < 20:
        torus, exact = torus_case(rng)
        twisted = torus.best_twisted()
        if np.linalg.eigvalsh(twisted.blocks()).max() < (1.001 * exact) ** 2:
            continue
        loose += 1
        target = (exact * (1 + 1e-4)) ** 2
        bound = prove(Blocks(twisted), target, margin=2.5e-5, hints=None)
        proved += bound is not None
        assert bound is None or exact**2 <= bound <= target * (1 + 1e-4)
    assert proved >= 15


def test_constraints_never_touch_kept_sites():
    rng = np.random.default_rng(6)
    torus, _ = torus_case(rng)
    candidates = constraints._Candidates(torus)
    candidates.add_modes(torus.spectrum(random_hints(torus, rng)))
    candidates.add_singular_vectors(random_hints(torus, rng))
    for inputs, outputs in (candidates.orthonormal(), candidates.all()):
        assert not inputs[torus.kept_inputs].any()
        assert not outputs[torus.kept_outputs].any()
        rows = outputs.reshape(-1, outputs.shape[-1])
        assert np.linalg.norm(rows, ord=2) <= 1


def test_outputs_longer_than_one_are_refused():
    rng = np.random.default_rng(7)
    torus, exact = torus_case(rng)
    while not (~torus.kept_outputs).any():
        torus, exact = torus_case(rng)
    inputs, outputs = on_deleted_sites(torus, rng, 3)
    for factor, is_refused in ((1.0, False), (1.0 + 1e-7, True), (1.3, True)):
        constraint = constraints._Constraint.of(torus, inputs, factor * outputs, 100.0)
        answer = constraints._with_data_error(torus, exact**2, constraint, 1.0)
        assert (answer is None) == is_refused
