"""A frozen network as plain data: its steps and their arrays, for whoever reads it without Flax.

Certificate files write these down, verifiers bound them. A step says what is done, in the words of
the certificate format (docs/certificates.md); arrays are what it is done with, as executed.
"""

from typing import Any

import numpy as np

from gloro_jax.frozen_net import FrozenNet
from gloro_jax.lipschitz.steps import Step, Steps
from gloro_jax.pytrees import pytree_dataclass

HEAD = {"kernel": "head/head/kernel", "bias": "head/head/bias"}
_BOUNDS = ("/norm", "lipschitz", "longest", "head/distances")


@pytree_dataclass(static=("steps", "input_shape", "num_classes"))
class Network:
    """What a frozen network does to an image, from the image to its scores; a pytree of its arrays.

    Attributes:
        arrays: float32 weights by the names that the steps use.
        steps: those of the body, and the head as a last "dense" step named "head".
        norms: the guaranteed l2 norm of each linear layer by its name, float64, the largest of
            stacks; for the head, its Frobenius norm.
        lipschitz: K, the guaranteed bound of the body.
        head_distances: guaranteed ||w_i - w_j||, (m, m).
        input_shape: one image.
        num_classes: m.
    """

    arrays: dict[str, Any]
    norms: dict[str, Any]
    lipschitz: Any
    head_distances: Any
    steps: Steps
    input_shape: tuple[int, ...]
    num_classes: int


def network_of(frozen: FrozenNet) -> Network:
    """The network in a FrozenNet; raises a ValueError if its digest does not match."""
    frozen.check_digest()
    arrays = weights(frozen)
    squares = np.square(arrays[HEAD["kernel"]].astype(np.float64)).sum()
    norms = {**frozen.layer_norms(), "head": float(np.sqrt(squares)) * (1 + 1e-9)}
    return Network(
        arrays,
        {name: np.float64(norm) for name, norm in norms.items()},
        np.float64(frozen.lipschitz),
        np.asarray(frozen.head().distances, np.float64),
        with_head(frozen.steps()),
        frozen.input_shape,
        frozen.net.num_classes,
    )


def with_head(steps: Steps) -> Steps:
    """The steps of a body, and the head as a last one."""
    head: dict[str, Any] = {"layer": "head", **HEAD}
    return (*steps, Step.of("dense", **head))


def weights(frozen: FrozenNet) -> dict[str, np.ndarray]:
    """Kernels and biases as executed, by the names that steps use."""
    return {name: array for name, array in frozen.arrays().items() if not name.endswith(_BOUNDS)}
