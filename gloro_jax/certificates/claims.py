"""The norm claims of a certificate file: a number per layer, and how a checker proves it again.

A claim is tied to what it is about: it carries the digest of its kernel and the layer's geometry,
and the checker refuses it for any other. The claimed norm is the one that `freeze` stored, unless
the checker's methods cannot prove that (it may rest on constraints that the file leaves out); then
it is the least one they can.
"""

import itertools
from typing import Any, cast

import numpy as np

from gloro_jax.certificates import check_certificate as checker
from gloro_jax.lipschitz.geometry import Pads, tap_table
from gloro_jax.lipschitz.lanczos import StrideOne, largest_singular_vectors
from gloro_jax.lipschitz.stride_one import in_cells

_TWISTS = [[y, x] for y, x in itertools.product((0, 1), repeat=2)]
_LANCZOS_TOL = 1e-3
_ZERO = 1e-30


def claim_norm(step: dict[str, Any], kernel: np.ndarray, *, stored: float) -> dict[str, Any]:
    """A claim that the checker proves, as small as it can be and no smaller than `stored`.

    Beside "upper" it says "lower", about the largest singular value from below: how much is lost.

    Args:
        step: the layer, as the file describes it.
        kernel: its float32 kernel.
        stored: the guaranteed norm that `freeze` found.

    Raises:
        ValueError: if no bound can be proved.
    """
    exact = kernel.astype(np.float64)
    about: dict[str, Any] = {
        "lower": _lower(step, exact),
        "kernel_sha256": checker.digest(kernel),
        "shape": list(kernel.shape),
        **{name: step[name] for name in checker.GEOMETRY if name in step},
    }
    # Windows on padding only make a norm of 0, which no factorisation can prove exactly.
    least = stored or _ZERO * float(np.abs(exact).max(initial=0.0))
    excess = 0.0
    while excess < 10.0:
        for method in _methods(step):
            claim = {"upper": least * (1 + excess), **method, **about}
            try:
                if checker.proves(step, exact, claim):
                    return claim
            except checker.Refused:  # this method does not apply
                continue
        excess = max(1e-4, 1.3 * excess)
    raise ValueError(f"No norm of {step['layer']} can be proved in a certificate file.")


def _methods(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["op"] != "conv":
        return [{"method": "matrix"}]
    tori = [{"method": "torus", "twist": twist} for twist in _TWISTS]
    return [{"method": "matrix"}, {"method": "gram"}, *tori]


def _lower(step: dict[str, Any], kernel: np.ndarray) -> float:
    if step["op"] == "scale":
        return abs(float(kernel.reshape(())))
    if step["op"] == "dense":  # a convolution of one pixel
        pixel = {"image_size": (1, 1), "strides": (1, 1), "pads": ((0, 0), (0, 0)), "groups": 1}
        return _lower({"op": "conv", **pixel}, kernel[None, None])
    size, strides = tuple(step["image_size"]), tuple(step["strides"])
    pads = cast(Pads, tuple(map(tuple, step["pads"])))
    largest = float(np.abs(kernel).max(initial=0.0))
    if largest == 0 or not (tap_table(size, kernel.shape[:2], strides, pads) >= 0).any():
        return 0.0
    values = []
    for part in np.split(kernel / largest, step["groups"], axis=3):
        case = in_cells(part, image_size=size, strides=strides, pads=pads)
        linear = StrideOne(
            case.kernel.astype(np.float32),
            image_size=case.image_size,
            pads=case.pads,
            is_input=case.is_input,
        )
        values.append(largest_singular_vectors(linear, tol=_LANCZOS_TOL)[0])
    return largest * max(values)
