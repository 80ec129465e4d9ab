"""Arbitrary numbers for tests, by NumPy: a draw of JAX's is compiled anew for every shape."""

import jax
import numpy as np


def key(seed):
    """A key for `init`, whose draws compile in half the time of JAX's default ones."""
    return jax.random.key(seed, impl="rbg")


def normal(seed, shape):
    """Standard normal, float32."""
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape, np.float32))


def uniform(seed, shape):
    """Uniform in [0, 1), float32."""
    return jax.device_put(np.random.default_rng(seed).random(shape, np.float32))


def init(net, seed, *args, **kwargs):
    """The variables of a network, made by one program instead of one for each operation."""
    return jax.jit(lambda k: net.init(k, *args, **kwargs))(key(seed))
