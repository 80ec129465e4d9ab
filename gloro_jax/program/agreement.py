"""Whether what was frozen computes what the network computes that was given.

The frozen program is traced with frozen arrays in place of the network's collections. Code of one's
own that looks whether a variable is there, or reads one with a default, goes another way then, and
what would be certified is another network than the one that was trained.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.gloro import GloroNet, read_out
from gloro_jax.layers.base import PowerIteration
from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.platforms import random_key
from gloro_jax.program.settle import evaluated
from gloro_jax.program.trace import Program, body_of

_SIZES = 0.3, 1.0, 3.0
_ASTRAY = 1e-6  # of what an image can amount to, by float32


def check_agreement(
    net: GloroNet,
    variables: Any,
    program: Program,
    frozen: Any,
    *,
    lipschitz: float,
    shape: tuple[int, ...],
) -> None:
    """Raises a ValueError unless both give the same scores at a few random points.

    A network made of this library's modules alone is not looked at: they read nothing else.

    Args:
        net: the network.
        variables: its collections, as they were given to `freeze`.
        program: what was traced.
        frozen: the frozen tree.
        lipschitz: K of the program, by which float32 may go astray in it.
        shape: one image.
    """
    if _is_ours(net):
        return
    x = random_points(shape)

    def given(variables: Any, x: Any) -> Any:
        rngs, rule = {"params": random_key(0)}, PowerIteration(steps=1)
        return net.apply(variables, x, norms=rule, mutable=["spectral"], rngs=rngs)[0].values

    def executed(frozen: Any, x: Any) -> Any:
        features, _ = program(body_of(frozen), x)
        return read_out(features, UpperBound(1.0), frozen["head"]).values

    there, here = _scores(given, variables, x), _scores(executed, frozen, x)
    if not (np.isfinite(there).all() and np.isfinite(here).all()):
        return  # such points are not certified
    gaps, lengths = np.abs(there - here).max(axis=1), np.linalg.norm(x.reshape(len(x), -1), axis=1)
    reach = lipschitz * np.linalg.norm(frozen["head"].head.kernel) * lengths
    if (gaps > 1e-3 * np.abs(there).max(axis=1) + _ASTRAY * (1 + reach)).any():
        gap, size = gaps.max(), np.abs(there).max()
        raise ValueError(
            "The network that would be frozen is not the one that these variables make: their "
            f"scores differ by {gap:.3g}, of {size:.3g}. Some layer of your own looks whether a "
            "variable is there (has_variable, get_variable with a default), or at how norms are "
            "obtained, and goes another way where there are frozen arrays only. Let it do the same "
            "in both, with its weights in a map (docs/adding-a-layer.md)."
        )


def random_points(shape: tuple[int, ...]) -> np.ndarray:
    """Three inputs of three sizes, at which networks are compared, (3, *shape), float32."""
    sizes = np.array(_SIZES, np.float32).reshape(-1, *[1] * len(shape))
    return sizes * np.random.default_rng(0).standard_normal((len(_SIZES), *shape), np.float32)


def _scores(fn: Any, tree: Any, x: np.ndarray) -> np.ndarray:
    made = jax.jit(fn).trace(tree, x)
    return np.asarray(evaluated(made.jaxpr, [*map(jnp.asarray, jax.tree.leaves((tree, x)))])[0])


def _is_ours(module: Any) -> bool:
    """Whether a module and all modules in its fields are this library's, or nn.Sequential."""
    if isinstance(module, nn.Module):
        kind = type(module)
        is_known = kind is nn.Sequential or kind.__module__.startswith("gloro_jax.")
        fields = [getattr(module, f.name) for f in dataclasses.fields(module) if f.name != "parent"]
        return is_known and all(map(_is_ours, fields))
    if isinstance(module, tuple | list):
        return all(map(_is_ours, module))
    return True
