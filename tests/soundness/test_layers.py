"""The soundness table: every layer x {exact Jacobian, pairs, zero, scaled, jit, remat, tightness}.

`check_lipschitz` compares the declared constant with the exact Jacobian and an ascent over pairs,
in float64. A layer that is exported but not in this table fails the last test.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.layers.base import LipschitzLayer
from gloro_jax.testing import check_lipschitz
from tests.draws import key, normal

IMAGE = (6, 5, 4)
TABLE = {
    "Dense": (layers.Dense(5), (7,)),
    "Dense without bias": (layers.Dense(9, use_bias=False), (7,)),
    "Conv SAME": (layers.Conv(3, 3), IMAGE),
    "Conv VALID": (layers.Conv(3, (2, 3), padding="VALID"), IMAGE),
    "Conv even, strided": (layers.Conv(5, 4, strides=2), IMAGE),
    "Conv explicit padding": (layers.Conv(3, 3, strides=(1, 2), padding=((2, 0), (1, 1))), IMAGE),
    "Conv grouped": (layers.Conv(6, 3, groups=2), IMAGE),
    "Conv depthwise": (layers.Conv(4, 3, groups=4), IMAGE),
    "Conv patches": (layers.Conv(5, 2, strides=2, padding="VALID"), (6, 6, 2)),
    "AveragePool": (layers.AveragePool(2), IMAGE),
    "AveragePool overlapping": (layers.AveragePool(3, strides=1, padding="SAME"), IMAGE),
    "MaxPool": (layers.MaxPool(2), IMAGE),
    "MaxPool sparse": (layers.MaxPool(2, strides=3, padding="SAME"), IMAGE),
    "Flatten": (layers.Flatten(), IMAGE),
    "SpaceToDepth": (layers.SpaceToDepth(2), (6, 4, 3)),
    "Scale": (layers.Scale(0.3), IMAGE),
    "Scale negative": (layers.Scale(-2.0), IMAGE),
    "Normalize": (layers.Normalize((0.1, 0.2, 0.3, 0.4), (0.5, 0.1, 0.7, 0.9)), IMAGE),
    "LinearResidual": (layers.LinearResidual(3, scale=0.5), IMAGE),
    "LinearResidual even": (layers.LinearResidual(4, scale=0.5), IMAGE),
    "LinearResidual centered": (layers.LinearResidual(3, is_centered=True), IMAGE),
    "OrthogonalDense": (layers.OrthogonalDense(5), (7,)),
    "OrthogonalDense wider": (layers.OrthogonalDense(9, method="cayley"), (7,)),
    "OrthogonalPatches": (layers.OrthogonalPatches(5, 2), (6, 4, 3)),
    "OrthogonalPatches ragged": (layers.OrthogonalPatches(5, 4, use_bias=True), IMAGE),
    "ChordDense": (layers.ChordDense(0.5), (6,)),
    "ChordDense Newton-Schulz": (layers.ChordDense(method="newton_schulz"), (6,)),
    "AolDense": (layers.AolDense(5), (7,)),
    "AolConv": (layers.AolConv(3, 3), IMAGE),
    "AolConv strided": (layers.AolConv(6, (2, 3), strides=2, padding=1), IMAGE),
    "CplDense": (layers.CplDense(), (7,)),
    "CplDense wider": (layers.CplDense(hidden=9), (5,)),
    "CplConv": (layers.CplConv(3), IMAGE),
    "CplConv even": (layers.CplConv((2, 3), hidden=6), IMAGE),
    "BroDense": (layers.BroDense(), (7,)),
    "BroDense of rank 1": (layers.BroDense(rank=1, use_bias=False), (6,)),
    "BroConv": (layers.BroConv(3), IMAGE),
    "BroConv even": (layers.BroConv(2, rank=1), (4, 6, 3)),
    "ChannelMix": (layers.ChannelMix(), IMAGE),
    "ChannelMix with bias": (layers.ChannelMix(use_bias=True), IMAGE),
    "ChannelShift": (layers.ChannelShift(0.25), IMAGE),
    "ChannelShift zeros": (layers.ChannelShift(1 / 5, is_circular=False), (4, 3, 5)),
    "Position": (layers.Position(), IMAGE),
    "BetaAbs": (layers.BetaAbs(0.5), IMAGE),
    "L2Pool": (layers.L2Pool(), IMAGE),
    "FirstFeatures": (layers.FirstFeatures(3), (7,)),
    "Residual": (layers.Residual(layers.Conv(4, 3)), IMAGE),
    "Residual nested": (layers.Residual(layers.Residual(layers.Dense(6))), (6,)),
    "MinMax": (layers.MinMax(), IMAGE),
    "MinMax adjacent": (layers.MinMax(pairing="adjacent", order="min_max"), IMAGE),
    "ReLU": (layers.ReLU(), IMAGE),
    "Abs": (layers.Abs(), IMAGE),
    "SmoothMinMax": (layers.SmoothMinMax(), IMAGE),
    "SmoothAbs": (layers.SmoothAbs(softness=0.02), IMAGE),
}


# The first of each class; variants that compile long are run by `make test-all`.
FIRST = {type(layer): name for name, (layer, _) in reversed(TABLE.items())}.values()
QUICK = {*FIRST, "Conv even, strided", "Conv grouped", "AveragePool overlapping", "MaxPool sparse"}
QUICK |= {"ChannelShift zeros", "Scale negative", "MinMax adjacent"}


def _cases(is_slow):
    return [pytest.param(name, marks=[pytest.mark.slow] * is_slow(name)) for name in TABLE]


@pytest.mark.parametrize("name", _cases(lambda name: name not in QUICK))
def test_no_point_and_no_pair_stretches_more_than_declared_at_any_scale_of_weights(name):
    # The scales include 0 and 1e-16, where published bounds broke.
    assert check_lipschitz(*TABLE[name]) > 0.5


# One of each way in which a layer keeps its weights.
REMATTED = {"Conv", "LinearResidual centered", "OrthogonalDense", "CplDense", "Position", "MinMax"}


@pytest.fixture(params=_cases(lambda name: name not in FIRST))
def case(request):
    return TABLE[request.param]


def _net(layer):
    return gj.GloroNet(nn.Sequential([layer, layers.Flatten()]), num_classes=3)


@pytest.mark.parametrize("case", _cases(lambda name: name not in REMATTED), indirect=True)
def test_jit_and_remat_change_neither_values_nor_bounds(case):
    layer, shape = case
    x = normal(0, (2, *shape))
    plain, norms = _net(layer), gj.PowerIteration(steps=1)
    fields = {k: getattr(layer, k) for k in type(layer).__annotations__ if k in vars(layer)}
    fields = {k: v for k, v in fields.items() if k not in ("parent", "name")}
    remat = _net(nn.remat(type(layer))(**fields))
    variables = jax.jit(lambda k: plain.init(k, x, norms=norms))(key(1))

    def both(variables, x):
        return [net.apply(variables, x, norms=norms) for net in (plain, remat)]

    jitted, rematted = jax.jit(both)(variables, x)
    np.testing.assert_allclose(rematted.values, jitted.values, rtol=1e-4, atol=1e-5)
    assert float(rematted.lipschitz) == pytest.approx(float(jitted.lipschitz), rel=1e-5)

    frozen = gj.freeze(plain, variables, input_shape=shape)
    assert gj.freeze(remat, variables, input_shape=shape).lipschitz == frozen.lipschitz
    # Estimates err low; orthonormal kernels, whose norm is a little below 1, train with 1.
    highest = max(frozen.lipschitz, 1.0) if "spectral" not in variables else frozen.lipschitz
    assert float(jitted.lipschitz) <= highest * (1 + 1e-5)
    eager = frozen(x)
    np.testing.assert_allclose(eager.values, jitted.values, rtol=1e-4, atol=1e-5)


def test_gradients_through_every_layer_are_finite_at_zero_weights(case):
    layer, shape = case
    net, x = _net(layer), jnp.ones((2, *shape))
    init = jax.jit(lambda k: net.init(k, x, norms=gj.PowerIteration(steps=1)))
    variables = init(key(0))

    def loss(params):
        y = net.apply({**variables, "params": params}, x, norms=gj.PowerIteration(steps=1))
        return gj.losses.emma(y, jnp.zeros(2, int), epsilon=0.1).sum() + y.lipschitz.value

    gradients = jax.jit(jax.grad(loss))(jax.tree.map(jnp.zeros_like, variables["params"]))
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_a_wrong_constant_is_found_out():
    class Loose(layers.LipschitzLayer):
        def __call__(self, x):
            return x.apply(lambda v: 1.001 * v, lipschitz=1.0)

    class Mixing(layers.LipschitzLayer):
        def __call__(self, x):
            return x.apply(lambda v: v - v.mean(axis=0, keepdims=True), lipschitz=1.0)

    with pytest.raises(AssertionError, match="declares Lipschitz constant 1 but stretches"):
        check_lipschitz(Loose(), (3,))
    with pytest.raises(AssertionError, match="examples one by one"):
        check_lipschitz(Mixing(), (3,))


def test_every_exported_layer_is_in_the_table():
    exported = {
        name
        for name in dir(layers)
        if isinstance(cls := getattr(layers, name), type)
        and issubclass(cls, LipschitzLayer)
        and cls is not LipschitzLayer
    }
    assert exported == {type(layer).__name__ for layer, _ in TABLE.values()}
