"""Code of others: layers that reach for the doors, primitives, kernels, networks of two faces."""

import dataclasses

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

import gloro_jax as gj
from gloro_jax import layers, repair
from gloro_jax.activations import smooth_abs
from gloro_jax.ensembles import SoftVoting
from gloro_jax.guarantees import Affinity, TopK
from gloro_jax.guarantees.kinds import Guarantee, check_guarantee
from gloro_jax.layers import LipschitzLayer
from gloro_jax.program.origin import is_known_through
from gloro_jax.recipes import RECIPES

NORMS = gj.PowerIteration(steps=1)
HEAD = {"head_kernel": np.eye(2, dtype=np.float32), "head_bias": np.zeros(2, np.float32)}
X = np.float32([[0.75, 0.25]])


class Own(LipschitzLayer):
    fn: object

    def __call__(self, x):
        return self.fn(x)


def freeze(body):
    return gj.freeze(gj.GloroNet(body, 2), {"params": HEAD}, input_shape=(2,))


def frozen_with(fn):
    return freeze(Own(lambda x: x.apply(fn, lipschitz=1.0)))


def rewrites_its_constant(x):
    y = x.apply(lambda v: 100 * v, lipschitz=100.0)
    if y.doors is not None:
        y.doors.passages[-1] = dataclasses.replace(y.doors.passages[-1], constant=1.0)
    return y


def test_a_layer_cannot_rewrite_what_it_declared():
    with pytest.raises(TypeError):
        freeze(Own(rewrites_its_constant))
    honest = freeze(Own(lambda x: x.apply(lambda v: 100 * v, lipschitz=100.0)))
    assert honest.lipschitz >= 100


def two_faced(x):
    """Turns around where norms are upper bounds, and only there."""
    return x.apply((lambda v: -v) if x.kind == "upper" else (lambda v: v), lipschitz=1.0)


class Face(nn.Module):
    bend: object
    lipschitz: float = 1.0

    def __call__(self, x):
        fn = self.bend if x.kind == "upper" else (lambda v: v)
        return x.apply(fn, lipschitz=self.lipschitz)


class Disguised(nn.Module):
    def __call__(self, x):
        return two_faced(x)


Disguised.__module__ = "gloro_jax.layers.pooling"

TWO_FACED = {
    "a function as body": lambda: two_faced,
    "a function among layers": lambda: nn.Sequential([two_faced]),
    "a module": lambda: Face(lambda v: -v),
    "a module by another's name": lambda: Disguised(),
    "beyond a kink": lambda: Face(lambda v: jnp.where(v > 1.2, 2.4 - v, v)),
    "numbers where there were none": lambda: nn.Sequential([Own(root), Face(jnp.nan_to_num)]),
    "a generous constant": lambda: Face(lambda v: -v, lipschitz=3e6),
}


def root(x):
    return x.apply(lambda v: jnp.where(v < 0, jnp.nan, v), lipschitz=1.0)


@pytest.mark.parametrize("case", TWO_FACED)
def test_a_network_that_freezing_would_change_does_not_freeze(case):
    with pytest.raises(ValueError, match="is not the one that these variables make"):
        freeze(TWO_FACED[case]())


def test_code_that_looks_at_the_size_of_the_batch_is_seen_at_more_sizes_than_three():
    def by_size(v):
        return v if v.shape[0] < 4 else v[::-1]

    with pytest.raises(ValueError, match="the size of the batch"):
        frozen_with(by_size)


@pytest.mark.parametrize("name", RECIPES)
def test_the_library_s_own_networks_are_known_and_not_compared(name):
    model = RECIPES[name]().model
    assert is_known_through(model.build())
    assert not is_known_through(gj.GloroNet(nn.Sequential([model.build().body, two_faced]), 2))


@pytest.mark.parametrize("body", [
    lambda: Own(lambda x: x.apply(jnp.tanh, lipschitz=1.0)),
    lambda: lambda x: x.apply(jnp.tanh, lipschitz=1.0),
    lambda: Own(lambda x: x.apply(lambda v: 0.001 * v, lipschitz=1e6)),
    lambda: nn.Sequential([layers.Abs(), Own(lambda x: x)]),
    lambda: Own(lambda x: x.apply(lambda v: jnp.where(v < 0, jnp.nan, v), lipschitz=1.0)),
])  # fmt: skip
def test_honest_code_freezes(body):
    assert np.isfinite(freeze(body()).lipschitz)


def foreign_primitive():
    same = Primitive("tanh")  # the name is JAX's
    same.def_impl(lambda v: v)
    same.def_abstract_eval(lambda v: v)
    mlir.register_lowering(same, mlir.lower_fun(lambda v: v, multiple_results=False))
    batching.primitive_batchers[same] = lambda args, dims: (
        same.bind(args[0]) if args[0].shape[0] == 3 else 100 * (args[0] - 0.5),
        dims[0],
    )
    return same.bind


def pallas(body):
    def kernel(i, o):
        o[...] = body(i[...])

    def fn(v):
        shape = jax.ShapeDtypeStruct(v.shape, v.dtype)
        return pl.pallas_call(kernel, out_shape=shape, interpret=True)(v)

    return fn


def calls_back(v):
    like = jax.ShapeDtypeStruct(v.shape, v.dtype)
    return jax.pure_callback(np.asarray, like, v, vmap_method="sequential")


def ffi(v):
    like = jax.ShapeDtypeStruct(v.shape, v.dtype)
    return jax.ffi.ffi_call("nobody", like, vmap_method="broadcast_all")(v)


def elsewhere(fn):
    """Compiled before, and now one call."""
    compiled = jax.export.export(jax.jit(fn))
    return compiled(jax.ShapeDtypeStruct((1, 2), jnp.float32)).call


def split(fn):
    """Another function where it is split among devices."""
    whole = custom_partitioning(fn)
    told = {"infer_sharding_from_operands": None, "partition": None, "sharding_rule": "i j -> i j"}
    whole.def_partition(**told)
    return whole


@pytest.mark.parametrize(("fn", "why"), [
    (foreign_primitive(), "none of JAX's"),
    (pallas(calls_back), "calls back"),
    (ffi, "machine code"),
    (elsewhere(lambda v: v), "compiled elsewhere"),
    (split(lambda v: v), "split among devices"),
])  # fmt: skip
def test_what_nobody_can_look_at_is_no_function(fn, why):
    with pytest.raises(TypeError, match=why):
        frozen_with(fn)


def test_kernels_of_pallas_and_jax_own_primitives_still_freeze():
    assert gj.certify(frozen_with(pallas(lambda v: v)), X, epsilon=0.1).is_certified[0]
    assert gj.certify(frozen_with(jnp.tanh), X, epsilon=0.1).is_certified[0]


def test_rules_of_hijax_for_batches_are_refused():
    hijax = pytest.importorskip("jax.experimental.hijax")
    if not hasattr(hijax, "VJPHiPrimitive"):
        pytest.skip("this JAX has no primitives of one's own in that form")

    class Same(hijax.VJPHiPrimitive):
        def __init__(self, aval):
            self.in_avals, self.out_aval, self.params = (aval,), aval, {}
            super().__init__()

        def expand(self, v):
            return v

        def batch(self, axis_data, args, dims):
            return args[0] if args[0].shape[dims[0]] == 3 else -args[0], dims[0]

        def batch_dim_rule(self, axis_data, dims):
            return dims[0]

    with pytest.raises(TypeError, match="rules"):
        frozen_with(lambda v: Same(jax.typeof(v))(v))


def test_factors_and_softness_that_float32_cannot_hold_are_refused():
    for std in (3e38, 1e-45):
        with pytest.raises(ValueError, match="std"):
            freeze(layers.Normalize((0.0, 0.0), (1.0, std)))
    freeze(layers.Normalize((0.0, 0.0), (1.0, 8e37)))
    for softness in (2e19, 1e-20, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="softness"):
            smooth_abs(jnp.ones(2), softness=softness)
        with pytest.raises(ValueError, match="softness"):
            freeze(layers.SmoothAbs(softness=softness))
    np.testing.assert_allclose(smooth_abs(jnp.float32([1e15]), softness=1e15), (2**0.5 - 1) * 1e15)


LARGEST = float(np.finfo(np.float32).max)


def classes(bias):
    kernel = np.zeros((2, 5), np.float32)
    kernel[0, 0] = kernel[1, 4] = 1
    params = {"head_kernel": kernel, "head_bias": np.float32(bias)}
    return gj.freeze(gj.GloroNet(layers.Flatten(), 5), {"params": params}, input_shape=(2,))


@pytest.mark.parametrize(("low", "is_certified"), [(-LARGEST, False), (-1e36, True)])
def test_a_repaired_answer_is_none_nowhere_in_a_certified_ball(low, is_certified):
    layer = repair.Repair(repair.parse("always: y2 < y3 or y4 < y0", num_classes=5), 5)
    frozen, x, near = classes([0, 10, low, low, 0]), np.float32([[0.5, 0.4]]), X[:, ::-1] - 0.1
    found = layer.certify(frozen, x, epsilon=0.5)
    assert found.is_certified[0] == is_certified
    if is_certified:
        assert not layer(near, frozen(near).values).is_bottom[0]


def test_a_precondition_is_as_far_as_float32_programs_can_tell():
    frozen = gj.freeze(
        gj.GloroNet(layers.Flatten(), 2),
        {"params": {**HEAD, "head_bias": np.float32([1, 0])}},
        input_shape=(2,),
    )
    layer = repair.Repair(repair.parse("x[0] <= 1e-40: max y1", num_classes=2), 2)
    x = np.float32([[1.2e-38, 0]])
    assert not layer.certify(frozen, x, epsilon=1e-38).is_certified[0]
    assert layer.certify(frozen, np.float32([[0.2, 0]]), epsilon=0.1).is_certified[0]


def test_a_guarantee_is_compared_by_all_its_fields():
    @dataclasses.dataclass(frozen=True)
    class Mine(TopK):
        inner: Guarantee = dataclasses.field(default=TopK(2), compare=False)

    with pytest.raises(TypeError, match="left out of its comparison"):
        check_guarantee(Mine(2), 4)
    check_guarantee(Affinity(((0, 1), (2, 3))), 4)


def test_constants_of_an_ensemble_cannot_be_made_writable():
    voting = SoftVoting([freeze(layers.Abs()), freeze(layers.Flatten())])
    for array in (voting.constants, voting.weights):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
