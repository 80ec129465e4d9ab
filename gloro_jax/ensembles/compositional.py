"""ACE: a certified network where a gate says so, and an accurate one elsewhere (ICLR 2021).

Mueller, Balunovic, Vechev, Certify or Predict: Boosting Certified Robustness with Compositional
Architectures. A point is certified only where *every* network that some point of its ball can reach
is certified there, with one answer. The ball reaches one network where the gate's own decision is
certified; if not, both.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from gloro_jax.certification import certify
from gloro_jax.ensembles.entropy import EntropyGate
from gloro_jax.ensembles.members import (
    Member,
    check_batch,
    check_members,
    scores_of,
)
from gloro_jax.evaluation import verified_robust_accuracy
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.margins import as_epsilon
from gloro_jax.platforms import check_outside_jit
from gloro_jax.verifiers import Status, Verdicts, Verifier


class CompositionalCertificate(NamedTuple):
    """What a composition says of n examples.

    Attributes:
        prediction: (n,) of the network that answers.
        radius: (n,) the l2 radius within which the answer cannot change, rounded down.
        is_certified: (n,) whether the radius exceeds epsilon.
        is_gated: (n,) whether the certified network answers.
    """

    prediction: np.ndarray
    radius: np.ndarray
    is_certified: np.ndarray
    is_gated: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Compositional:
    """The certified network answers where the gate is open, the core network where it is not.

    Attributes:
        core: the accurate network: a FrozenNet, whose certificates count, or any function from
            images (n, H, W, C) to scores (n, m), which has none.
        certified: the network whose certificates count.
        gate: a FrozenNet of two classes, of which 1 asks the certified network (`gate_labels`
            makes labels to train it with); or an `EntropyGate`.

    Raises:
        TypeError: if a network is none, or the gate has no certificate.
        ValueError: if they do not fit each other.
    """

    core: Member
    certified: FrozenNet
    gate: FrozenNet | EntropyGate

    def __post_init__(self) -> None:
        if not isinstance(self.certified, FrozenNet):
            raise TypeError(
                f"certified is the FrozenNet whose certificates count, got a "
                f"{type(self.certified).__name__}: Compositional(core, certified, gate)."
            )
        if isinstance(self.core, FrozenNet):
            names = ("the certified network", "the core")
            check_members([self.certified, self.core], what="Compositional", names=names)
        if not callable(self.core):
            raise TypeError(
                f"core is a FrozenNet or a function to scores, got {type(self.core).__name__}."
            )
        if isinstance(self.gate, EntropyGate):
            return
        if not isinstance(self.gate, FrozenNet):
            raise TypeError(
                f"The gate is a {type(self.gate).__name__}, which has no certificate, so no point "
                "of the composition could have one: take a FrozenNet of two classes "
                "(gj.ensembles.gate_labels makes its labels) or gj.ensembles.EntropyGate."
            )
        if self.gate.net.num_classes != 2:
            raise ValueError(
                f"The gate has {self.gate.net.num_classes} classes, and it answers one question "
                "of two: 0 asks the core network, 1 the certified one."
            )
        if self.gate.input_shape != self.certified.input_shape:
            raise ValueError(
                f"The gate takes images {self.gate.input_shape}, the certified network "
                f"{self.certified.input_shape}."
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image."""
        return self.certified.input_shape

    @property
    def num_classes(self) -> int:
        """How many classes."""
        return self.certified.net.num_classes

    def certify(self, x: Any, *, epsilon: Any) -> CompositionalCertificate:
        """Certifies the composition on images (n, H, W, C), l2.

        Raises:
            TypeError: inside jit; or as `gj.certify`.
            ValueError: as `gj.certify`.
        """
        check_outside_jit(x, epsilon, what="Compositional.certify")
        check_batch(x, self.input_shape, what="Compositional.certify")
        limit = float(as_epsilon(epsilon))
        is_gated, gate_radius = self._gated(x, epsilon)
        radii, votes = [], []
        for network in (self.core, self.certified):
            vote, radius = self._judged(network, x, epsilon)
            votes.append(vote)
            radii.append(radius)
        own = np.where(is_gated, radii[1], radii[0])
        both = np.where(votes[0] == votes[1], np.minimum(*radii), 0.0)
        radius = np.maximum(np.minimum(own, gate_radius), both)
        prediction = np.where(is_gated, votes[1], votes[0])
        return CompositionalCertificate(prediction, radius, radius > limit, is_gated)

    def verify(
        self,
        x: Any,
        labels: Any,
        verifier: Verifier,
        *,
        norm: Any = "linf",
        radius: float | str,
        box: Any = None,
    ) -> Verdicts:
        """Whether the composition gives the label on whole balls, by a verifier of each network.

        VERIFIED where the verifier proves the gate's decision and the network that it asks, or both
        networks; UNKNOWN otherwise. `semantics` is the weaker one of what was used.

        Raises:
            TypeError: if the gate is an EntropyGate, whose bounds are for l2 balls, or the verifier
                speaks of another classifier than the network, as Smoothing does.
            ValueError: as `verifier.verify`.
        """
        if not isinstance(verifier, Verifier) or not verifier.is_of_network:
            raise TypeError(
                "Compositional.verify takes a verifier that proves something of the networks "
                f"themselves, gj.verifiers.Crown() for example; got {type(verifier).__name__}. "
                "Smoothing proves it of smoothed classifiers, which are not what answers here."
            )
        if isinstance(self.gate, EntropyGate):
            raise TypeError(
                "An EntropyGate has bounds on l2 balls by `certify`; verifiers look at a gate that "
                "is a network: train one with gj.ensembles.gate_labels."
            )
        goals = np.asarray(labels)
        asked = {"norm": norm, "radius": radius, "box": box}
        open_ = np.asarray(self.gate(x).prediction)
        gate = verifier.verify(self.gate, x, open_, **asked)
        ours = verifier.verify(self.certified, x, goals, **asked)
        parts = [gate, ours]
        is_core = np.zeros(len(goals), bool)
        if isinstance(self.core, FrozenNet):
            parts.append(verifier.verify(self.core, x, goals, **asked))
            is_core = parts[2].is_verified
        chosen = np.where(open_ == 1, ours.is_verified, is_core)
        is_verified = (gate.is_verified & chosen) | (ours.is_verified & is_core)
        status = np.where(is_verified, Status.VERIFIED, Status.UNKNOWN)
        numerical = np.any([part.semantics == "numerical" for part in parts], axis=0)
        words = np.where(is_verified, np.where(numerical, "numerical", "rounded"), "")
        seconds = np.sum([part.seconds for part in parts], axis=0)
        return Verdicts(status, np.full(np.shape(x), np.nan), seconds, words)

    def _judged(self, network: Member, x: Any, epsilon: Any) -> tuple[np.ndarray, np.ndarray]:
        """Predictions, and radii, which are 0 of a network without certificates."""
        if isinstance(network, FrozenNet):
            found = certify(network, x, epsilon=epsilon)
            return np.asarray(found.prediction), np.asarray(found.radius, np.float64)
        scores = np.asarray(scores_of(network, x))
        if scores.shape != (len(x), self.num_classes):
            raise ValueError(
                f"The core gives scores ({len(x)}, {self.num_classes}), as the certified network "
                f"does, and here they have shape {scores.shape}."
            )
        # Scores that are NaN are no answer.
        votes = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
        return votes, np.zeros(len(votes))

    def _gated(self, x: Any, epsilon: Any) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self.gate, EntropyGate):
            return self.gate.decision(self.certified, x)
        found = certify(self.gate, x, epsilon=epsilon)
        return np.asarray(found.prediction) == 1, np.asarray(found.radius, np.float64)


def gate_labels(
    certified: FrozenNet,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    epsilon: Any,
) -> np.ndarray:
    """Labels (n,) for a gate: 1 where the certified network is right and certified, else 0."""
    report = verified_robust_accuracy(certified, [(images, labels)], epsilon=epsilon)
    return (report.is_correct & report.is_certified).astype(np.int64)
