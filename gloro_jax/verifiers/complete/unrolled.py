"""A network as linear functions of the image and of the outputs of its ReLUs, in float64."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gloro_jax.network import Network
from gloro_jax.platforms import in_64_bits
from gloro_jax.verifiers.bounds.operations import Affine, Chain, Kinked, Parallel, Relu, relus
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.scores import in_float64


class Unrolled(NamedTuple):
    """Linear functions of variables v, the image's entries and then the ReLUs' outputs, in order.

    Attributes:
        units: the inputs of all ReLUs are units[0] v + units[1], (h, d + h) and (h,).
        scores: the scores likewise, (m, d + h) and (m,).
        pixels: d.
    """

    units: tuple[np.ndarray, np.ndarray]
    scores: tuple[np.ndarray, np.ndarray]
    pixels: int


def unrolled(network: Network) -> Unrolled:
    """The network, unrolled; for networks of some thousand variables."""
    with in_64_bits():
        chain = chain_of(in_float64(network))
        pixels = math.prod(network.input_shape)
        count = pixels + sum(math.prod(op.after) for op in relus(chain))
        # A row of coefficients for each variable, and one of constants, each as large as a batch.
        basis = jnp.eye(count + 1)
        found: list[Any] = []

        def variables(first: int, shape: tuple[int, ...]) -> Any:
            return basis[:, first : first + math.prod(shape)].reshape(-1, *shape)

        def through(chain: Chain, z: Any) -> Any:
            for op in chain:
                match op:
                    case Affine():
                        z = op.linear(z).at[-1].add(op.constant(z.dtype)[0])
                    case Relu():
                        first = pixels + sum(part.shape[1] for part in found)
                        found.append(z.reshape(len(z), -1))
                        z = variables(first, op.after)
                    case Kinked():
                        z = through(op.chain, z)
                    case Parallel():
                        z = sum(through(branch, z) for branch in op.branches)
            return z

        scores = np.asarray(through(chain, variables(0, network.input_shape)))
        units = np.concatenate([np.zeros((count + 1, 0)), *map(np.asarray, found)], axis=1)
    return Unrolled(_split(units), _split(scores), pixels)


def _split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:-1].T, rows[-1]
