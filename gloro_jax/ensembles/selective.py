"""Selective ensembles: answers that do not hang on a random seed (Black, Leino, Fredrikson 2022).

A training with random state S gives the model P(S); the mode predictor answers with the likeliest
class over S. An ensemble of n models trained apart outputs its majority class if a two-sided
binomial test at alpha rejects that the first two classes are equally likely, and abstains
otherwise. Theorem 4.1: at every x, the probability that it answers another class than the mode is
at most alpha. With n = 5 and alpha 0.05 even five equal votes are no evidence (p = 0.0625).
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gloro_jax.ensembles.members import Member, listed, scores_of
from gloro_jax.platforms import outside_jit


class Selection(NamedTuple):
    """What a selective ensemble says of n examples.

    Attributes:
        prediction: (n,) the majority class; -1 where it abstains.
        is_abstaining: (n,).
        p_value: (n,) of the two-sided binomial test.
        first: (n,) votes for the class with the most.
        second: (n,) votes for the next one.
    """

    prediction: np.ndarray
    is_abstaining: np.ndarray
    p_value: np.ndarray
    first: np.ndarray
    second: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Selective:
    """Answers where members of independent random states agree enough, and abstains elsewhere.

    Attributes:
        members: FrozenNets, or functions from inputs (n, ...) to scores (n, m), whose trainings
            differ in their random state alone.
        alpha: the probability, over ensembles, of an answer that is not the mode's; above 0 and
            below 1.

    Raises:
        ValueError: if there is no member, or alpha is out of range.
    """

    members: Sequence[Member]
    alpha: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", listed(self.members, what="Selective"))
        if not all(map(callable, self.members)):
            raise TypeError("Members of Selective are FrozenNets or functions to scores.")
        _check_alpha(self.alpha)

    @outside_jit
    def predict(self, x: Any) -> Selection:
        """What members agree on, for inputs (n, ...).

        Raises:
            ValueError: if members give scores of different shapes.
        """
        scores = [np.asarray(scores_of(member, x)) for member in self.members]
        if len({one.shape for one in scores}) > 1:
            raise ValueError(
                "Members of Selective answer one question with the same classes; their scores have "
                f"shapes {[one.shape for one in scores]}."
            )
        if scores[0].ndim != 2:
            raise ValueError(
                f"Members of Selective give scores (n, m), got shape {scores[0].shape}: a member "
                "is a FrozenNet or a function to scores, not to GloroLogits."
            )
        votes = np.stack([one.argmax(axis=-1) for one in scores])
        found = select(votes, num_classes=scores[0].shape[-1], alpha=self.alpha)
        # A score that is NaN is no opinion, and no majority is one without all opinions.
        is_none = np.isnan(np.stack(scores)).any(axis=(0, 2))
        return found._replace(
            prediction=np.where(is_none, -1, found.prediction),
            is_abstaining=found.is_abstaining | is_none,
            p_value=np.where(is_none, 1.0, found.p_value),
        )

    def attributions(self, x: Any) -> Float[Array, "n ..."]:
        """The mean over members of the gradient of each one's highest score, like x.

        Single models with equal predictions can have quite different gradients; the mean of many
        varies less (section 5 of the paper).
        """
        return jnp.mean(jnp.stack([attributions(one, x) for one in self.members]), axis=0)


def attributions(member: Member, x: Any) -> Float[Array, "n ..."]:
    """The gradient of the highest score of one member at each input (n, ...), like x."""
    return jax.grad(lambda v: jnp.sum(jnp.max(scores_of(member, v), axis=-1)))(jnp.asarray(x))


def select(votes: np.ndarray, *, num_classes: int, alpha: float) -> Selection:
    """The selection from votes (N, n) of N members.

    Raises:
        ValueError: if alpha is out of range or a vote is no class.
    """
    _check_alpha(alpha)
    votes = np.asarray(votes)
    if votes.ndim != 2 or not ((votes >= 0) & (votes < num_classes)).all():
        raise ValueError(
            f"votes are (N, n) classes from 0 to {num_classes - 1}, got shape {votes.shape}."
        )
    counts = (votes[..., None] == np.arange(num_classes)).sum(axis=0)
    first, own = counts.max(axis=1), counts.argmax(axis=1)
    counts[np.arange(len(counts)), own] = 0
    second = counts.max(axis=1)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    table = {pair: p_value(*pair) for pair in set(pairs)}
    tests = [table[pair] for pair in pairs]
    limit = Fraction(float(alpha))
    abstains = np.array([test > limit for test in tests], bool)
    values = np.array([float(test) for test in tests])
    return Selection(np.where(abstains, -1, own), abstains, values, first, second)


def p_value(first: int, second: int) -> Fraction:
    """That of `first` successes of first + second, two-sided at 1/2, exactly: 2 P[Bin >= first].

    Args:
        first: votes for the class with the most.
        second: votes for the next one.
    """
    total = first + second
    tail = sum(math.comb(total, i) for i in range(max(first, second), total + 1))
    return min(Fraction(1), Fraction(2 * tail, 2**total))


def _check_alpha(alpha: float) -> None:
    if not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise ValueError(f"alpha is a probability above 0 and below 1, got {alpha}.")
