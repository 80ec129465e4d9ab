"""Cascades: the first member whose certificate holds answers. They predict; they do not certify.

Each member's certificate is true, and the cascade's is not: at another point of the ball another
member may come first. In one dimension, with epsilon 1: F_1 = sign(x), certified where |x| > 1;
F_2 a third class, certified everywhere. Both certificates are sound. At -1.5 the cascade answers
F_1's class, "certified"; at -0.6, which is 0.9 away, it answers the third class, "certified".
(Mangal, Wang, Zhang, Leino, Pasareanu, Fredrikson, On the Perils of Cascading Robust Classifiers,
ICLR 2023.)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from gloro_jax.certification import certify
from gloro_jax.ensembles.members import Ensemble, check_members


class CascadePrediction(NamedTuple):
    """What a cascade answers; every field has the shape of the batch.

    Attributes:
        prediction: of the first member that is certified at epsilon, else of the last member.
        stage: that member's number.
        is_claimed: whether the member is certified, which is what published cascades report as
            certified. It is no certificate of the cascade.
    """

    prediction: np.ndarray
    stage: np.ndarray
    is_claimed: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Cascade(Ensemble):
    """Members asked in turn, until one is certified at epsilon.

    Attributes:
        members: FrozenNets of the same image shape and classes, the first one first.
        class_names: of each member, where known; they must agree.

    Raises:
        TypeError: if a member is no FrozenNet.
        ValueError: if members do not fit each other.
    """

    class_names: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        found = check_members(self.members, what="Cascade", class_names=self.class_names)
        object.__setattr__(self, "members", found)

    def predict(self, x: Any, *, epsilon: Any) -> CascadePrediction:
        """Answers for images (..., H, W, C); raises as `gj.certify` does."""
        each = [certify(member, x, epsilon=epsilon) for member in self.members]
        votes = np.stack([np.asarray(one.prediction) for one in each])
        marks = np.stack([np.asarray(one.is_certified) for one in each])
        stage = np.where(marks.any(axis=0), marks.argmax(axis=0), len(each) - 1)
        prediction = np.take_along_axis(votes, stage[None], axis=0)[0]
        return CascadePrediction(prediction, stage, np.asarray(marks.any(axis=0)))

    def certify(self, x: Any, *, epsilon: Any) -> NoReturn:
        """Refuses: a cascade of sound certificates is not sound.

        Raises:
            ValueError: always, with a counter-example.
        """
        del x, epsilon
        raise ValueError(
            "A cascade predicts, and does not certify, although each member's certificate is true: "
            "at another point of the ball another member may come first. For example, in one "
            "dimension with epsilon 1: F1 = sign(x), certified where |x| > 1; F2 a third class, "
            "certified everywhere. At -1.5 the cascade answers F1's class and calls it certified; "
            "at -0.6, which is 0.9 away, it answers the third class. Certify "
            "gj.ensembles.Voting(members) instead; gj.ensembles.attack_cascade finds such points "
            "(docs/ensembles.md)."
        )
