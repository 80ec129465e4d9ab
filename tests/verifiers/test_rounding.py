"""Rounding is counted: what float64 cannot tell from a tie is not verified."""

import dataclasses

import numpy as np

from gloro_jax.verifiers import Status
from tests.verifiers import plain_nets
from tests.verifiers.test_incomplete import METHODS


def test_rounding_is_counted():
    """Weights that cancel: float64 sees a lead that real arithmetic does not have."""
    network, _ = plain_nets.redrawn(plain_nets.template("relu", (4, 4)), 0)
    names = [dict(step.options) for step in network.steps if step.op == "dense"]
    arrays = {name: np.zeros_like(array) for name, array in network.arrays.items()}
    # Unit 0 is 1e16 (1 + x), unit 1 is 1e16 x; the second layer has their difference, 1e16 - 1e16.
    large = np.float32(2.0**60)
    arrays[names[0]["kernel"]][0, :2] = large
    arrays[names[0]["bias"]][:3] = large, large, 1
    arrays[names[1]["kernel"]][:3, 0] = 1, -1, 2.0**-3
    arrays[names[2]["kernel"]][0, 0] = 1
    arrays[names[2]["bias"]][1:] = 0.125

    level = dataclasses.replace(network, arrays=arrays)  # all scores are 0.125, everywhere
    x = plain_nets.images(0)
    for method in METHODS:
        held = method._verdicts(level, x, np.zeros(2, int), norm="linf", radius=1e-3, box=None)
        assert not held.is_verified.any(), method.name
        assert (held.status != Status.VERIFIED).all()
