"""Whether what was frozen computes what the network computes that was given.

The frozen program is traced with frozen arrays in place of the network's collections. Code of one's
own that looks whether a variable is there, or reads one with a default, goes another way then, and
what would be certified is another network than the one that was trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.gloro import GloroNet, read_out
from gloro_jax.layers.base import PowerIteration
from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.platforms import random_key
from gloro_jax.program.origin import is_known_through
from gloro_jax.program.settle import evaluated
from gloro_jax.program.trace import Program, body_of

_SIZES = 0.3, 1.0, 3.0
_TIMES = 6  # points of each size: as many as batches usually have, and kinks in the way
_ASTRAY = 1e-6  # of what an image can amount to, by float32


_WHY = (
    "Some code of your own looks whether a variable is there (has_variable, get_variable with a "
    "default), at how norms are obtained, or at the size of the batch, and goes another way where "
    "there are frozen arrays only. Let it do the same in both, with its weights in a map "
    "(docs/adding-a-layer.md)."
)


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
    if is_known_through(net):
        return
    x = random_points(shape, times=_TIMES)

    def given(variables: Any, x: Any) -> Any:
        rngs, rule = {"params": random_key(0)}, PowerIteration(steps=1)
        return net.apply(variables, x, norms=rule, mutable=["spectral"], rngs=rngs)[0].values

    def executed(frozen: Any, x: Any) -> Any:
        features, _ = program(body_of(frozen), x)
        return read_out(features, UpperBound(1.0), frozen["head"]).values

    there, here = _scores(given, variables, x), _scores(executed, frozen, x)
    reach = lipschitz * np.linalg.norm(frozen["head"].head.kernel)
    _check_scores(there, here, reach * np.linalg.norm(x.reshape(len(x), -1), axis=1))


def _check_scores(there: np.ndarray, here: np.ndarray, reach: np.ndarray) -> None:
    """Raises unless scores (n, m) are equal, but for float32 at what points can amount to (n,)."""
    is_finite = np.isfinite(there).all(axis=1)
    if (is_finite != np.isfinite(here).all(axis=1)).any():
        raise ValueError(
            "The network that would be frozen is not the one that these variables make: where one "
            f"of them gives numbers, the other gives NaN or infinity. {_WHY}"
        )
    if not is_finite.any():
        return  # such points are not certified
    there, here, reach = there[is_finite], here[is_finite], reach[is_finite]
    gaps, sizes = np.abs(there - here).max(axis=1), np.abs(there).max(axis=1)
    # What is declared may be generous: scores that cancelled out to a thousandth are rare.
    room = 1e-3 * sizes + _ASTRAY * (1 + np.minimum(reach, 1e3 * sizes.max()))
    if (gaps > room).any():
        raise ValueError(
            "The network that would be frozen is not the one that these variables make: their "
            f"scores differ by {gaps.max():.3g}, of {sizes.max():.3g}. {_WHY}"
        )


def random_points(shape: tuple[int, ...], *, times: int = 1) -> np.ndarray:
    """Inputs of three sizes, at which networks are compared, (3 times, *shape), float32."""
    sizes = np.tile(np.array(_SIZES, np.float32), times).reshape(-1, *[1] * len(shape))
    return sizes * np.random.default_rng(0).standard_normal((len(sizes), *shape), np.float32)


def _scores(fn: Any, tree: Any, x: np.ndarray) -> np.ndarray:
    made = jax.jit(fn).trace(tree, x)
    return np.asarray(evaluated(made.jaxpr, [*map(jnp.asarray, jax.tree.leaves((tree, x)))])[0])
