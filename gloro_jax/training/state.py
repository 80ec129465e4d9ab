"""The state of a training run: everything a step reads and writes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gloro_jax.gloro import GloroNet
from gloro_jax.layers import PowerIteration
from gloro_jax.pytrees import pytree_dataclass


@pytree_dataclass()
class TrainState:
    """One pytree, the same on every device.

    Attributes:
        step: steps taken.
        params: weights.
        spectral: power-iteration vectors.
        opt_state: of the optimiser.
    """

    step: Any
    params: Any
    spectral: Any
    opt_state: Any


def initial_state(
    net: GloroNet,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    input_shape: tuple[int, ...],
) -> TrainState:
    """Fresh weights, vectors and optimiser state."""
    example = jnp.zeros((1, *input_shape), jnp.float32)

    def init(key: Any) -> TrainState:
        variables = net.init(key, example, norms=PowerIteration(steps=1))
        params = variables["params"]
        spectral = variables.get("spectral", {})
        return TrainState(jnp.zeros((), jnp.int32), params, spectral, optimizer.init(params))

    return jax.jit(init)(jax.random.key(seed))
