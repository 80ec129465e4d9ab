"""Rounding is counted: what float64 cannot tell from a slope of 0 is not verified."""

import itertools

import numpy as np
import pytest

from gloro_jax.verifiers import BallBox, Crown, Dual, FastLin, IntervalBounds, Lipschitz
from tests.verifiers.test_hostile import frozen_of

LARGE = 2.0**60
ORDERS = list(itertools.permutations([LARGE, 1.0, -LARGE]))[:4]


@pytest.mark.parametrize("relu", [False, True])
def test_a_slope_that_float64_loses(relu):
    """Score 0 is the sum of three units, LARGE x + x - LARGE x + 0.1, and score 1 is 0.

    In float64, LARGE + 1 - LARGE is 0 or 1, as the order has it; the lead seems constant where it
    is 0, and at x = -1 it is -0.9.
    """
    x = np.zeros((1, 1), np.float32)
    for order in ORDERS:
        hidden, head, bias = [([list(order)], [0.0] * 3, False)], [[1.0, 0.0]] * 3, [0.1, 0.0]
        if relu:  # units |o| (x + 2), which stay positive, and their signs in the head
            hidden = [([np.abs(order)], [2 * abs(o) for o in order], True)]
            head, bias = [[float(np.sign(o)), 0.0] for o in order], [0.1 - 2.0, 0.0]
        frozen = frozen_of(hidden, (head, bias), relu=relu)
        for method in (Lipschitz(), IntervalBounds(), BallBox(), FastLin(), Crown(), Dual()):
            held = method.verify(frozen, x, np.array([0]), norm="linf", radius=1.0)
            assert not held.is_verified[0], (method.name, order)
