"""The norm claims of a certificate file: a number per layer, and how a checker proves it again.

A claim is tied to what it is about: it carries the digest of its kernel and the layer's geometry,
and the checker refuses it for any other. The claimed norm is the one that `freeze` stored, unless
the checker's methods cannot prove that (it may rest on constraints that the file leaves out); then
it is the least one they can.
"""

import itertools
from typing import Any

import numpy as np

from gloro_jax.certificates import check_certificate as checker

_TWISTS = [[y, x] for y, x in itertools.product((0, 1), repeat=2)]
_ZERO = 1e-30


def claim_norm(
    step: dict[str, Any], kernel: np.ndarray, *, stored: float, lower: float
) -> dict[str, Any]:
    """A claim that the checker proves, as small as it can be and no smaller than `stored`.

    Beside "upper" it says "lower", about the largest singular value from below: how much is lost.

    Args:
        step: the layer, as the file describes it.
        kernel: its float32 kernel.
        stored: the guaranteed norm that `freeze` found.
        lower: the norm as found from below.

    Raises:
        ValueError: if no bound can be proved.
    """
    exact = kernel.astype(np.float64)
    about: dict[str, Any] = {
        "lower": lower,
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
