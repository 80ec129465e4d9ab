"""Norms beside each other are those of one after another."""

import numpy as np

from gloro_jax.lipschitz import many
from gloro_jax.lipschitz.operators import Convolution, Matrix, Scaling


def some_operators():
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((3, 3, 2, 4)).astype(np.float32)
    return [
        Matrix(rng.standard_normal((5, 6)).astype(np.float32)),
        Convolution(kernels, (5, 6), (1, 1), ((1, 1), (1, 1))),
        Matrix(rng.standard_normal((3, 4, 4)).astype(np.float32)),  # stacked by nn.scan
        Scaling(np.float32(-2.0), (3,)),
    ]


def test_parallel_norms_are_the_serial_ones_in_order(monkeypatch):
    operators, seen = some_operators(), []
    serial = many.norms(operators, on_progress=seen.append)
    assert seen == [1] * 6
    assert [bound.shape for bound in serial] == [(), (), (3,), ()]
    for bound, operator in zip(serial, operators[:2], strict=False):
        assert float(bound) == float(operator.norm())
    exact = np.linalg.norm(operators[2].kernel.astype(np.float64), ord=2, axis=(1, 2))
    assert (serial[2] >= exact).all()
    monkeypatch.setattr(many, "_LARGE", 1)
    parallel = many.norms(operators, on_progress=seen.append)
    assert seen == [1] * 12
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
