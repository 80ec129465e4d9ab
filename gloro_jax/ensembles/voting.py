"""Weighted voting with a sound certificate (Mangal, Wang, Zhang, Leino et al., ICLR 2023).

Members vote with weights w; c_k says that member k's vote is certified at epsilon. With
C_i = sum of w_k over certified votes for i, and C_bottom = sum of w_k over votes that are not
certified, class j is certified if C_j > max over i != j of C_i + C_bottom, strictly: at any point
of the ball, certified members repeat their votes, and the others can do no worse than all vote for
one class i. Members that vote for j without a certificate count as lost.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gloro_jax.certification import certify
from gloro_jax.data.batches import as_float, rebatched
from gloro_jax.data.dataset import check_labels
from gloro_jax.ensembles.members import (
    Ensemble,
    as_integers,
    check_members,
    check_weights,
)
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.platforms import check_outside_jit, on_host

_FAR = 1e5


class VotingCertificate(NamedTuple):
    """What a weighted vote says of each example; every field has the shape of the batch.

    Attributes:
        prediction: the class with the most votes; the lowest number on a tie.
        radius: the largest l2 radius at which the vote is certified, from the members' radii.
        is_certified: whether it is at epsilon.
        lead: C_j - max C_i - C_bottom at epsilon, as a share of all weights, for readers; the
            decision compares exact numbers.
    """

    prediction: np.ndarray
    radius: np.ndarray
    is_certified: np.ndarray
    lead: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Voting(Ensemble):
    """Members vote, and the vote is certified where uncertified members cannot turn it.

    Attributes:
        members: FrozenNets of the same image shape and classes.
        weights: one for each, at least 0; all 1 unless given. Weights and their sums are compared
            as the exact numbers that these floats are.
        class_names: of each member, where known; they must agree.

    Raises:
        TypeError: if a member is no FrozenNet.
        ValueError: if members do not fit each other, or weights are negative or all 0.
    """

    weights: Any = None
    class_names: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        found = check_members(self.members, what="Voting", class_names=self.class_names)
        object.__setattr__(self, "members", found)
        object.__setattr__(self, "weights", check_weights(self.weights, len(found), what="Voting"))

    def certify(self, x: Any, *, epsilon: Any) -> VotingCertificate:
        """Certifies the vote on images (..., H, W, C); fields are NumPy arrays of shape (...).

        Raises:
            TypeError: inside jit; or as `gj.certify`.
            ValueError: as `gj.certify`.
        """
        check_outside_jit(x, epsilon, what="Voting.certify")
        each = [certify(member, x, epsilon=epsilon) for member in self.members]
        votes, radii, marks = (
            np.stack([np.asarray(getattr(one, name)) for one in each])
            for name in ("prediction", "radius", "is_certified")
        )
        return tally(votes, radii, marks, self.weights)


def tally(
    votes: np.ndarray, radii: np.ndarray, is_certified: np.ndarray, weights: np.ndarray
) -> VotingCertificate:
    """The certificate of a vote, from votes, radii and marks (N, ...) of N members."""
    shape = votes.shape[1:]
    votes, radii, marks = (a.reshape(len(a), -1) for a in (votes, radii, is_certified))
    whole = as_integers(weights)
    same = votes[:, None] == votes[None]  # (N, N, n): whether two members vote alike
    total = _sums(same, whole)
    winners = np.where(total == total.max(axis=0), votes, np.iinfo(votes.dtype).max)
    prediction = winners.min(axis=0)
    lead = _lead(votes, same, prediction, marks, whole)
    radius = np.zeros(votes.shape[1], radii.dtype)
    for threshold in radii:
        held = (radii >= threshold) & (radii > 0)
        is_held = (_lead(votes, same, prediction, held, whole) > 0) & (threshold > 0)
        radius = np.where(is_held, np.maximum(radius, threshold), radius)
    total_weight = int(whole.sum())
    share = np.array([int(one) / total_weight for one in lead])
    fields = (prediction, radius, lead > 0, share)
    return VotingCertificate(*(np.asarray(field).reshape(shape) for field in fields))


def _lead(
    votes: np.ndarray, same: np.ndarray, own: np.ndarray, marks: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """C_j - max C_i - C_bottom, exactly, (n,)."""
    counted = _sums(same & marks[None], whole)  # what is certified of the class of each member
    is_own = votes == own
    mine = np.where(is_own, counted, 0).max(axis=0)
    others = np.where(is_own, 0, counted).max(axis=0)
    lost = _sums(~marks[None], whole)[0]
    return mine - others - lost


def _sums(chosen: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Sums (K, n) of the weights (N,) that are chosen (K, N, n)."""
    total = np.zeros((chosen.shape[0], chosen.shape[2]), whole.dtype)
    for member, weight in enumerate(whole):
        total = total + chosen[:, member].astype(whole.dtype) * weight
    return total


def learn_weights(
    members: Sequence[FrozenNet],
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    epsilon: Any,
    steps: int = 1000,
    learning_rate: float = 1e-2,
) -> np.ndarray:
    """Weights that certify as many examples as they can, (N,) float64, for `Voting`.

    The mean of sigmoid(margin), with margin C_t - C_bottom - max over i != t of C_i, is maximised
    over softmax weights by Adam; margins below 0 count by sigmoid(margin / 1e5), as in the paper.

    Args:
        members: FrozenNets.
        images: of the training split, (n, H, W, C); a test split would be learnt by heart.
        labels: (n,).
        epsilon: the l2 radius.
        steps: of Adam.
        learning_rate: of Adam.

    Raises:
        ValueError: if labels do not fit, there is no image, or a number is out of range.
    """
    found, rows = check_members(members, what="learn_weights"), []
    labels = on_host(labels)
    check_labels(labels, count=len(images), num_classes=found[0].net.num_classes)
    if not len(images) or steps < 1 or not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(
            "learn_weights takes at least one image and one step, and a positive learning rate; "
            f"got {len(images)} images, {steps} steps and a rate of {learning_rate}."
        )
    for batch in rebatched([(images, labels)]):
        x = as_float(batch.images)
        each = [certify(member, x, epsilon=epsilon) for member in found]
        votes, marks = (
            np.stack([np.asarray(getattr(one, name)) for one in each], axis=1)
            for name in ("prediction", "is_certified")
        )
        rows.append([part[batch.is_real] for part in (votes, marks, np.asarray(batch.labels))])
    votes, marks, goals = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return np.asarray(_learned(votes, marks, goals, steps, learning_rate), np.float64)


def _learned(votes: Any, marks: Any, goals: Any, steps: int, rate: float) -> Any:
    same = jnp.asarray((votes[:, :, None] == votes[:, None, :]) & marks[:, None, :], jnp.float32)
    is_goal, lost = jnp.asarray(votes == goals[:, None]), jnp.asarray(~marks, jnp.float32)
    optimizer = optax.adam(rate)

    def objective(logits: Any) -> Any:
        weights = jax.nn.softmax(logits)
        counted = same @ weights
        mine = jnp.max(jnp.where(is_goal, counted, 0.0), axis=1)
        others = jnp.max(jnp.where(is_goal, 0.0, counted), axis=1)
        margin = mine - others - lost @ weights
        return -jnp.mean(jax.nn.sigmoid(jnp.where(margin > 0, margin, margin / _FAR)))

    def step(carry: Any, _: None) -> Any:
        logits, state = carry
        updates, state = optimizer.update(jax.grad(objective)(logits), state)
        return (optax.apply_updates(logits, updates), state), None

    start = jnp.ones(votes.shape[1], jnp.float32)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])
    return jax.nn.softmax(run((start, optimizer.init(start)))[0])
