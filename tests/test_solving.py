"""LAPACK on stacks: the same numbers as JAX's own functions, gradients, and programs that end."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers, solving


def drawn(*shape, seed=0, is_complex=False):
    random = np.random.default_rng(seed)
    real = random.standard_normal(shape)
    return jnp.asarray(real + 1j * random.standard_normal(shape) if is_complex else real)


def lower(*stack):
    return jnp.tril(drawn(*stack, 4, 4)) + jnp.broadcast_to(4 * jnp.eye(4), (*stack, 4, 4))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("stack", [(), (3,), (2, 3)])
def test_solve_and_its_gradient_are_jax_own(stack, is_complex):
    with jax.enable_x64(True):
        a = drawn(*stack, 4, 4, is_complex=is_complex)
        b = drawn(*stack, 4, 2, seed=1, is_complex=is_complex)
        ours, ours_back = jax.vjp(solving.solve, a, b)
        jax_own, own_back = jax.vjp(jnp.linalg.solve, a, b)
        np.testing.assert_allclose(ours, jax_own, rtol=1e-9, atol=1e-11)
        gradient = drawn(*stack, 4, 2, seed=2, is_complex=is_complex)
        for got, wanted in zip(ours_back(gradient), own_back(gradient), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


def test_a_stack_that_vmap_made_of_one_argument_or_all():
    a, b = drawn(3, 4, 4), drawn(3, 4, 2, seed=1)
    for axes in [(0, 0), (0, None), (None, 0)]:
        one_a, one_b = (a if axes[0] == 0 else a[0]), (b if axes[1] == 0 else b[0])
        got = jax.vmap(solving.solve, axes)(one_a, one_b)
        wanted = jax.vmap(jnp.linalg.solve, axes)(one_a, one_b)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_triangular_systems_and_factors():
    for stack in [(), (3,), (2, 3)]:
        factor, right = lower(*stack), drawn(*stack, 4, 2)
        square = factor @ jnp.swapaxes(factor, -1, -2)
        np.testing.assert_allclose(solving.lower_factor(square), factor, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            factor @ solving.solve_lower(factor, right), right, rtol=0, atol=1e-4
        )
        transposed = jnp.swapaxes(factor, -1, -2)
        np.testing.assert_allclose(
            transposed @ solving.solve_lower_transposed(factor, right), right, rtol=0, atol=1e-4
        )


def test_the_exponential_of_a_stack_of_skew_matrices_is_a_stack_of_rotations():
    angles = jnp.asarray([0.3, 2.0, -1.2])
    skew = jnp.einsum("n,ij->nij", angles, jnp.asarray([[0.0, -1.0], [1.0, 0.0]]))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    wanted = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    np.testing.assert_allclose(solving.matrix_exponential(skew), wanted, rtol=0, atol=1e-5)


def test_networks_initialised_under_vmap_are_those_of_each_key():
    body = nn.Sequential([layers.ChannelMix(), layers.Flatten(), layers.Dense(3)])
    net, keys = gj.GloroNet(body, 2), jax.random.split(jax.random.key(0), 3)

    def params(key):
        return net.init(key, jnp.zeros((1, 2, 2, 4)), norms=gj.PowerIteration(steps=1))["params"]

    together, alone = jax.vmap(params)(keys), params(keys[1])
    for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(many[1], one, rtol=0, atol=1e-6)


_STACKS = """
import jax, jax.numpy as jnp
from gloro_jax import orthogonal, solving
from gloro_jax.layers.bro import reflector

stacks = [jax.random.normal(jax.random.key(seed), (16, 32, 32)) for seed in range(3)]

def step(stacks):
    total = 0.0
    for stack in stacks:
        total += jnp.sum(jnp.sin(jax.vmap(orthogonal.cholesky)(stack)))
        total += jnp.sum(jnp.sin(jax.vmap(orthogonal.cayley)(stack)))
        total += jnp.sum(jnp.sin(reflector(stack[..., :8], ridge=1e-5)))
        total += jnp.sum(solving.matrix_exponential(jax.lax.stop_gradient(stack)))
    return total

step = jax.jit(jax.grad(step))
for _ in range(10):
    jax.block_until_ready(step(stacks))
print("done")
"""


def test_a_program_of_many_stacks_ends():
    """With two threads, as many as such a program needs to hang in jaxlib's own stacked calls."""
    done = subprocess.run(
        [sys.executable, "-c", _STACKS],
        env={**os.environ, "NPROC": "2"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.strip() == "done", done.stderr
