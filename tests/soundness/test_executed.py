"""What is executed: flags, compilers, overflow and subnormal numbers do not make a certificate."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import export, layers
from tests.compiling import AS_USERS
from tests.draws import init

NORMS = gj.PowerIteration(steps=1)
FAST = {
    "fast math": {"xla_cpu_enable_fast_math": True},
    "and no NaN": {
        "xla_cpu_enable_fast_math": True,
        "xla_cpu_fast_math_honor_nans": False,
        "xla_cpu_fast_math_honor_infs": False,
    },
}
# One call of the library, under flags that must make it fail.
CALL = """
import jax, flax.linen as nn, jax.numpy as jnp
import gloro_jax as gj
from gloro_jax import layers
net = gj.GloroNet(nn.Sequential([layers.Flatten(), layers.Dense(3)]), num_classes=2)
variables = net.init(jax.random.key(0), jnp.ones((1, 2)), norms=gj.PowerIteration(steps=1))
gj.freeze(net, variables, input_shape=(2,))
"""


def users_jit(fn):
    """As a user's own `jax.jit` compiles."""
    return jax.jit(fn, compiler_options=AS_USERS)


@pytest.fixture(scope="module")
def net():
    body = [layers.Flatten(), layers.Dense(8), layers.ReLU(), layers.Dense(6), layers.MinMax()]
    made = gj.GloroNet(nn.Sequential(body), num_classes=3)
    variables = init(made, 0, jnp.ones((1, 4, 4, 1)), norms=NORMS)
    return gj.freeze(made, variables, input_shape=(4, 4, 1))


@pytest.mark.parametrize("options", FAST)
def test_a_users_own_jit_with_fast_math_certifies_nothing(net, options):
    x = np.random.default_rng(0).random((6, 4, 4, 1), np.float32)
    x[1:4, 0, 0, 0] = np.nan, np.inf, -np.inf

    def certify(x):
        return gj.certify(net, x, epsilon=1e-4)

    honest = users_jit(certify)(x)
    assert list(honest.is_certified) == [True, False, False, False, True, True]
    fast = jax.jit(certify, compiler_options=FAST[options])(x)
    assert not fast.is_certified.any()
    assert not fast.radius.any()


def test_flags_of_the_process_are_refused_by_name():
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in FAST["and no NaN"].items())
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", CALL]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "RuntimeError: XLA compiles here as if" in run.stderr
    assert flags in run.stderr


@pytest.mark.usefixtures("untyped")
def test_default_fusions_compile_our_programs_right(net, tmp_path):
    # jax-ml/jax issue 39103: jaxlib 0.10.2 miscompiles a mapped matrix-vector product followed by
    # a reduction where a program is compiled without our options, from about 33,000 rows on.
    rng = np.random.default_rng(1)
    x = rng.random((40_000, 4, 4, 1), np.float32)
    ours = gj.certify(net, x, epsilon=0.05)
    one = lambda image: gj.certify(net, image, epsilon=0.05)  # noqa: E731
    folder = export.write(net, out=tmp_path / "export", epsilon=0.05)
    theirs = {
        "jit": users_jit(one)(x),
        "mapped": users_jit(jax.vmap(one))(x),
        "mapped twice": users_jit(jax.vmap(jax.vmap(one)))(x.reshape(200, 200, 4, 4, 1)),
    }
    for name, found in theirs.items():
        for field, expected in zip(found, ours, strict=True):
            same = np.asarray(field).reshape(expected.shape)
            np.testing.assert_allclose(same, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    program = export.read(folder).program
    out = users_jit(lambda x: program.call(x, np.float32(0.05)))(x)
    np.testing.assert_array_equal(out["is_refused"], ~ours.is_certified)
    np.testing.assert_allclose(out["radius"], ours.radius, rtol=1e-4, atol=1e-6)


def frozen(kernels, biases, head, *, activation):
    parts = [layers.Flatten()]
    for kernel in kernels:
        parts += [layers.Dense(np.shape(kernel)[1]), activation]
    params = {
        f"layers_{2 * i + 1}": {"kernel": np.float32(kernel), "bias": np.float32(bias)}
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True))
    }
    heads = {"head_kernel": np.float32(head), "head_bias": np.zeros(np.shape(head)[1], np.float32)}
    made = gj.GloroNet(nn.Sequential(parts), num_classes=np.shape(head)[1])
    return gj.freeze(made, {"params": {"body": params, **heads}}, input_shape=(len(kernels[0]),))


EYE = np.eye(2)


@pytest.mark.parametrize("bias", [-3e38, 3e38])
def test_an_overflow_that_an_activation_swallows_is_not_certified(bias):
    # -inf after the second layer is 0 after a ReLU, and the scores look finite.
    net = frozen([EYE, EYE], [[bias, 1], [bias, 1]], EYE, activation=layers.ReLU())
    x = np.float32([[0.1, 0.5], [0.5, 0.1]])
    certificate = gj.certify(net, x, epsilon=1e-6)
    assert not certificate.is_certified.any()
    assert not certificate.radius.any()
    twin = frozen([EYE, EYE], [[0, 1], [0, 1]], EYE, activation=layers.ReLU())
    assert gj.certify(twin, x, epsilon=1e-6).is_certified.all()


def test_an_input_so_long_that_a_layer_could_overflow_is_not_certified():
    net = frozen([1e10 * EYE, 1e-10 * EYE], [[0, 0], [0, 0]], EYE, activation=layers.ReLU())
    near, far = np.float32([[1.0, 0.5]]), np.float32([[1e9, 0.5]])
    assert gj.certify(net, near, epsilon=1e-6).is_certified.all()
    certificate = gj.certify(net, far, epsilon=1e-6)
    assert not certificate.is_certified.any()
    assert not certificate.radius.any()


def test_subnormal_weights_are_0_in_the_frozen_copy_and_counted():
    kernel = np.float32([[1e-40, 1], [0, -1e-45]])
    net = frozen([kernel], [[1e-39, 0]], EYE, activation=layers.ReLU())
    assert net.flushed == 3
    stored = net.operators()["body/layers_1"].kernel
    np.testing.assert_array_equal(stored, np.float32([[0, 1], [0, 0]]))
    again = jax.tree.map(lambda leaf: leaf, net)
    assert again.flushed == 3
    assert frozen([EYE], [[0, 0]], EYE, activation=layers.ReLU()).flushed == 0


def test_bounds_are_those_of_the_float32_weights_that_run_whatever_type_was_given(small_net):
    net, variables, _ = small_net

    def just_below(
        leaf,
    ):  # what float32 rounds up, so that norms of the exact numbers are too small
        return np.sign(np.asarray(leaf, np.float64)) * (1 + 0.6 * 2.0**-23)

    exact = jax.tree.map(just_below, variables["params"])
    rounded = jax.tree.map(lambda leaf: leaf.astype(np.float32), exact)
    ours, theirs = (
        gj.freeze(net, {"params": params}, input_shape=(8, 8, 1)) for params in (exact, rounded)
    )
    assert ours.digest == theirs.digest
