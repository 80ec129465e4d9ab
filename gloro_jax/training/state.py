"""The state of a training run: everything a step reads and writes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gloro_jax.gloro import GloroNet
from gloro_jax.identity import named_leaves, shape_differences
from gloro_jax.layers import PowerIteration
from gloro_jax.lipschitz.rounding import nearest_float32
from gloro_jax.platforms import random_key
from gloro_jax.pytrees import pytree_dataclass
from gloro_jax.training import manifold
from gloro_jax.training.optimizers import Averaged

# Rounds of power iteration on weights that were trained elsewhere, from random vectors.
_FIRST_ROUNDS = 100
# A training can put back what is nearer than this, and is given something else where it is not.
_FAR_FROM_ORTHOGONAL = 0.1


@pytree_dataclass()
class TrainState:
    """One pytree, the same on every device.

    Attributes:
        step: steps taken.
        params: weights.
        spectral: power-iteration vectors.
        centering: running means of layers that centre.
        opt_state: of the optimiser.
    """

    step: Any
    params: Any
    spectral: Any
    centering: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The network's collections, as they are trained."""
        return {"params": self.params, "spectral": self.spectral, "centering": self.centering}

    @property
    def judged(self) -> dict[str, Any]:
        """As they are validated and kept: with the mean of the weights where there is one."""
        if not isinstance(self.opt_state, Averaged):
            return self.variables
        return {**self.variables, "params": manifold.put_back(self.opt_state.mean)}


def initial_state(
    net: GloroNet,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    input_shape: tuple[int, ...],
) -> TrainState:
    """Fresh weights, vectors and optimiser state.

    They are waited for: whoever changed BLAS's threads meanwhile would change their numbers.
    """
    made = jax.jit(_init(net, optimizer, input_shape))(random_key(seed))
    return jax.block_until_ready(made)


def state_shapes(
    net: GloroNet, optimizer: optax.GradientTransformation, *, input_shape: tuple[int, ...]
) -> TrainState:
    """`initial_state` with shapes and types in place of arrays: nothing is computed."""
    return jax.eval_shape(_init(net, optimizer, input_shape), random_key(0))


def _init(
    net: GloroNet, optimizer: optax.GradientTransformation, input_shape: tuple[int, ...]
) -> Callable[[Any], TrainState]:
    example = jnp.zeros((1, *input_shape), jnp.float32)

    def init(key: Any) -> TrainState:
        variables = net.init(key, example, norms=PowerIteration(steps=1))
        params = variables["params"]
        spectral, centering = (variables.get(name, {}) for name in ("spectral", "centering"))
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, spectral, centering, optimizer.init(params))

    return init


def started_from(
    state: TrainState,
    initial: Mapping[str, Any],
    *,
    net: GloroNet,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
) -> TrainState:
    """A fresh `state` with the weights and running means of another training.

    Its power-iteration vectors are brought close to the singular vectors of those weights.

    Raises:
        TypeError: if `initial` is no mapping of collections.
        ValueError: if names or shapes are not those of the network, all of which are listed; or
            if an entry is not a finite number.
    """
    given = _checked(initial, {"params": state.params, "centering": state.centering})
    example = jnp.zeros((1, *input_shape), jnp.float32)

    def start(spectral: Any, kept: Any) -> TrainState:
        norms = PowerIteration(steps=_FIRST_ROUNDS)
        variables = {**kept, "spectral": spectral}
        moved = net.apply(variables, example, norms=norms, mutable=["spectral"])[1]
        return TrainState(
            jnp.zeros((), jnp.int32),
            kept["params"],
            moved.get("spectral", {}),
            kept["centering"],
            optimizer.init(kept["params"]),
        )

    return jax.block_until_ready(jax.jit(start)(state.spectral, given))


def _checked(initial: Mapping[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """The collections of `initial` that `fresh` has, in float32."""
    if not isinstance(initial, Mapping):
        raise TypeError(
            "initial is a mapping with 'params', as gj.runs.load_variables(run) returns it; got "
            f"{type(initial).__name__}."
        )
    given = {name: initial.get(name, {}) for name in fresh}
    if differences := shape_differences(given, fresh):
        raise ValueError(
            f"The initial weights belong to another network: {'; '.join(differences)}. Start from "
            "a run of the same network on images of the same size, with as many classes."
        )
    for name, leaf in named_leaves(given):
        array = np.asarray(leaf)
        is_float = jnp.issubdtype(array.dtype, np.floating)
        if not (is_float and np.isfinite(nearest_float32(array)).all()):
            raise ValueError(
                f"The initial {name} is of type {array.dtype}, or holds NaN, infinite or too large "
                "entries: training starts from finite floating-point numbers."
            )
    far = {name: float(d) for name, d in manifold.distances(given["params"]).items()}
    if strayed := {name: d for name, d in far.items() if not d < _FAR_FROM_ORTHOGONAL}:
        raise ValueError(
            "Initial matrices are to be orthogonal and are not: the Frobenius norm of X^T X - I is "
            + ", ".join(f"{d:.3g} for {name}" for name, d in strayed.items())
            + f", above {_FAR_FROM_ORTHOGONAL}. Give orthogonal ones, those of a training for "
            "example, or orthonormalise them (gloro_jax.orthogonal.orthogonalized)."
        )
    return jax.tree.map(lambda leaf: jnp.asarray(nearest_float32(np.asarray(leaf))), given)
