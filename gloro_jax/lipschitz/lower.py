"""Norms from below, on the host: a stored norm that one of these exceeds is refuted."""

from typing import Any

import jax
import numpy as np

from gloro_jax.lipschitz.convolutions.lanczos import StrideOne, largest_singular_vectors
from gloro_jax.lipschitz.convolutions.stride_one import in_cells
from gloro_jax.lipschitz.geometry import tap_table
from gloro_jax.lipschitz.norms import power_iteration
from gloro_jax.lipschitz.operators import Convolution, Matrix, Operator, Scaling, WeightedMap

_TOL = 1e-3
# Rounds of power iteration on an operator of one's own, and what float32 may add to what it finds.
_ROUNDS = 10
# The lengths, per entry, of the points at which a map that is not linear is looked at.
_SIZES = (0.01, 1.0, 1.0, 100.0)
_FLOAT32 = 1e-4


def lower_bound(operator: WeightedMap) -> float:
    """A number that the constant of a map reaches, up to float64 rounding.

    Lanczos iteration in float32 finds a direction, and float64 says how far it is stretched. For an
    operator of one's own, power iteration in float32 does both, less what its rounding may add. A
    map that is not linear is stretched most by one of its slopes: those at a few random points.

    Args:
        operator: with a concrete kernel, not stacked.
    """
    if type(operator) is Scaling:
        return abs(float(np.asarray(operator.kernel)))
    if type(operator) is Matrix:  # a convolution of one pixel
        kernel = np.asarray(operator.kernel)[None, None]
        return lower_bound(Convolution(kernel, (1, 1), (1, 1), ((0, 0), (0, 0))))
    if type(operator) is Convolution:
        return _convolution(operator)
    rng, shape = np.random.default_rng(0), operator.input_shape
    start = rng.standard_normal(shape).astype(np.float32)
    points = [np.zeros(shape), *(size * rng.standard_normal(shape) for size in _SIZES)]
    points = np.stack(points[:1] if isinstance(operator, Operator) else points)
    found = np.asarray(_slopes(operator, start, points.astype(np.float32)))
    return float(found.max()) * (1 - _FLOAT32)


@jax.jit
def _slopes(operator: WeightedMap, start: Any, points: Any) -> Any:
    """The norms, from below, of the linear maps that a map is near points."""

    def one(point: Any) -> Any:
        slope = jax.linearize(lambda v: operator(v[None])[0], point)[1]
        return power_iteration(slope, start, steps=_ROUNDS).value

    return jax.lax.map(one, points)


def refutes(lower: Any, stored: Any) -> bool:
    """Whether any norm found from below exceeds the one that is stored."""
    found = np.asarray(lower, np.float64) * (1 - 1e-12)
    return bool((found > np.asarray(stored, np.float64)).any())


def _convolution(operator: Convolution) -> float:
    kernel = np.asarray(operator.kernel, np.float64)
    size, strides, pads = operator.image_size, operator.strides, operator.pads
    largest = float(np.abs(kernel).max(initial=0.0))
    window = (kernel.shape[0], kernel.shape[1])
    if largest == 0 or not (tap_table(size, window, strides, pads) >= 0).any():
        return 0.0
    parts = np.split(kernel / largest, operator.groups, axis=3)
    return largest * max(
        _stretch(in_cells(p, image_size=size, strides=strides, pads=pads)) for p in parts
    )


def _stretch(case: Any) -> float:
    def linear(kernel: np.ndarray) -> StrideOne:
        return StrideOne(kernel, image_size=case.image_size, pads=case.pads, is_input=case.is_input)

    _, vectors = largest_singular_vectors(linear(case.kernel.astype(np.float32)), tol=_TOL)
    exact, top = linear(case.kernel), vectors[..., 0]
    inside = top if case.is_input is None else np.where(case.is_input, top, 0.0)
    length = float(np.linalg.norm(inside))
    return float(np.linalg.norm(exact(inside))) / length if length else 0.0
