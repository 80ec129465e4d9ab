"""Convolutions written for their transposes are those of jax.lax, in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gloro_jax.platforms import in_64_bits
from gloro_jax.verifiers.bounds.convolutions import convolve

CASES = [  # image, kernel, strides, pads, groups
    ((7, 6, 4), (4, 4, 4, 6), (2, 2), ((0, 0), (1, 2)), 1),
    ((9, 8, 4), (3, 5, 2, 6), (2, 3), ((1, 1), (2, 0)), 2),
    ((5, 5, 2), (2, 2, 2, 4), (3, 3), ((0, 0), (0, 0)), 1),
    ((5, 6, 4), (3, 3, 2, 4), (1, 1), ((1, 1), (1, 1)), 2),
    ((4, 4, 3), (1, 1, 3, 2), (2, 1), ((0, 0), (0, 0)), 1),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "window", "strides", "pads", "groups"), CASES)
def test_values_and_transposes_are_those_of_the_definition(
    shape, window, strides, pads, groups, dtype
):
    rng = np.random.default_rng(0)
    with in_64_bits():
        kernel, z = (jnp.asarray(rng.normal(size=s), dtype) for s in (window, (3, *shape)))
        place = {"strides": strides, "pads": pads, "groups": groups}

        def ours(z):
            return convolve(kernel, z, **place)

        def plain(z):
            return jax.lax.conv_general_dilated(
                z, kernel, strides, pads,
                dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
            )  # fmt: skip

        values, close = ours(z), 1e-5 if dtype == np.float32 else 1e-13
        assert values.dtype == dtype
        np.testing.assert_allclose(values, plain(z), rtol=close, atol=close)
        rows = jnp.asarray(rng.normal(size=values.shape), dtype)
        back, expected = (jax.linear_transpose(f, z)(rows)[0] for f in (ours, plain))
        np.testing.assert_allclose(back, expected, rtol=close, atol=close)
