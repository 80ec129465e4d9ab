"""The certificate of this library as a verifier: a lead over what K and the radius allow."""

import dataclasses
import math
import time

import numpy as np

from gloro_jax.network import Network
from gloro_jax.verifiers.bounds.regions import Box, Norm
from gloro_jax.verifiers.scores import is_misclassified, point_margins, predictions
from gloro_jax.verifiers.verdicts import Verdicts, Verifier, verdicts

_UP = 1 + 1e-15


@dataclasses.dataclass(frozen=True)
class Lipschitz(Verifier):
    """Verified where every lead exceeds radius K ||w_i - w_j|| (GloRo Nets, Leino et al. 2021).

    One forward pass, in float64 with its rounding counted. A linf ball of n pixels lies in the l2
    ball of sqrt(n) times its radius, and that is what is verified; boxes make no difference.
    """

    def _verdicts(
        self,
        network: Network,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        norm: Norm,
        radius: float,
        box: Box,
    ) -> Verdicts:
        began = time.perf_counter()
        return verdicts(
            images,
            is_verified=_radii(network, images, labels, norm) >= radius,
            is_wrong=is_misclassified(network, images, labels),
            semantics="rounded",
            began=began,
        )

    def _radii(self, network: Network, images: np.ndarray, *, norm: Norm, box: Box) -> np.ndarray:
        likely = predictions(network, images)
        return np.where(likely >= 0, _radii(network, images, np.maximum(likely, 0), norm), 0.0)


def _radii(network: Network, images: np.ndarray, labels: np.ndarray, norm: Norm) -> np.ndarray:
    """Radii, rounded down, below which the least lead is positive."""
    least, _ = point_margins(network, images, labels)
    scale = 1.0 if norm == "l2" else math.sqrt(math.prod(network.input_shape)) * _UP
    reach = network.lipschitz * network.head_distances[labels] * (scale * _UP)
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = np.where(reach > 0, least * (1 - 1e-15) / reach, np.where(least > 0, np.inf, 0.0))
    radii[np.arange(len(images)), labels] = np.inf
    return np.maximum(np.nextafter(radii.min(axis=1), -np.inf), 0.0)
