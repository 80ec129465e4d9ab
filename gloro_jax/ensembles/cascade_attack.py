"""The attack on cascades: within epsilon, another member is made to come first (ICLR 2023).

For each point that the cascade answers with its label, each other stage j is aimed at in turn: the
members before it are pushed below their certificates, and it is pushed to a certified answer that
is not the label; the last stage needs no certificate. Members certify by margins and constants
here, so the attack climbs the very number that decides, the certified radius less epsilon.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.data.batches import as_float
from gloro_jax.data.dataset import check_images, check_labels
from gloro_jax.ensembles.cascade import Cascade
from gloro_jax.evaluation.attacks import lengths, project, random_start
from gloro_jax.frozen_net import FrozenNet, raw_logits
from gloro_jax.margins import as_epsilon, pair_constants
from gloro_jax.plain import brief, number
from gloro_jax.platforms import in_32_bits, jit, on_host, random_key

_INSIDE = 1 - 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class CascadeAttack:
    """What a cascade claims, and what is left of it.

    Attributes:
        epsilon: the l2 radius.
        labels: (n,).
        predictions: (n,) of the cascade on the clean images.
        is_claimed: (n,) whether it calls them certified.
        falls: (n,) whether another answer than the label was found within epsilon, of points that
            are answered with their label.
        examples: (n, H, W, C) that point, or the clean image.
    """

    epsilon: float
    labels: np.ndarray
    predictions: np.ndarray
    is_claimed: np.ndarray
    falls: np.ndarray
    examples: np.ndarray

    __repr__ = brief

    @property
    def is_correct(self) -> np.ndarray:
        """(n,) on the clean images."""
        return self.predictions == self.labels

    @property
    def claimed_vra(self) -> float:
        """The share that the cascade calls correct and certified."""
        return float((self.is_correct & self.is_claimed).mean())

    @property
    def vra_left(self) -> float:
        """Of that, what the attack left: an upper bound of what is true."""
        return float((self.is_correct & self.is_claimed & ~self.falls).mean())

    @property
    def share_fallen(self) -> float:
        """Of points called correct and certified, the share that falls."""
        claimed = self.is_correct & self.is_claimed
        return float(self.falls[claimed].mean()) if claimed.any() else 0.0


@in_32_bits
def attack_cascade(
    cascade: Cascade,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    epsilon: float | str,
    steps: int = 100,
    restarts: int = 2,
    seed: int = 0,
) -> CascadeAttack:
    """Searches the l2 ball around each image, within [0, 1], for another answer of the cascade.

    Every success was checked by `cascade.predict`, and its distance in float64.

    Args:
        cascade: the ensemble.
        images: (n, H, W, C), uint8 or float32 in [0, 1].
        labels: (n,).
        epsilon: the l2 radius, of the cascade's claims and of the search.
        steps: gradient steps a stage and restart.
        restarts: the first starts at the image, the others at random.
        seed: of random starts.

    Raises:
        TypeError: if images have the wrong type.
        ValueError: if images or labels do not fit, or a number is out of range.
    """
    images, labels = on_host(images), on_host(labels)
    check_images(images)
    members = tuple(cascade.members)
    check_labels(labels, count=len(images), num_classes=members[0].net.num_classes)
    if min(steps, restarts) < 1:
        raise ValueError(f"steps and restarts are at least 1, got {steps} and {restarts}.")
    clean, goals, radius = np.asarray(as_float(images)), np.asarray(labels), as_epsilon(epsilon)
    answer = cascade.predict(clean, epsilon=epsilon)
    falls, examples = np.zeros(len(clean), bool), clean.copy()
    wanted = answer.prediction == goals
    key = random_key(seed)
    for restart in range(restarts):
        for stage in range(len(members)):
            key, own = jax.random.split(key)
            at_random = own if restart else None
            found = np.asarray(
                _climb(members, clean, goals, radius, at_random, stage=stage, steps=steps)
            )
            news = cascade.predict(found, epsilon=epsilon)
            axes = tuple(range(1, clean.ndim))
            far = np.square(found.astype(np.float64) - clean).sum(axis=axes)
            is_inside = np.sqrt(far) <= number(epsilon) * _INSIDE
            fell = wanted & ~falls & is_inside & (news.prediction != goals)
            falls |= fell
            examples[fell] = found[fell]
    return CascadeAttack(
        number(epsilon), goals, answer.prediction, answer.is_claimed, falls, examples
    )


def _climb(
    members: Any, clean: Any, goals: Any, epsilon: Any, key: Any, *, stage: int, steps: int
) -> Any:
    """Ascends from the images, or from random points around them where a key is given."""
    reach = jnp.full(len(clean), epsilon * (1 - 1e-4))
    x = clean if key is None else random_start(clean, reach, key)
    for step in range(steps):  # XLA:CPU differentiates convolutions in its own loops far slower
        x = _ascend(members, x, clean, goals, epsilon, reach, 1 - step / steps, stage=stage)
    return x


def _ascend(
    members: Any, x: Any, clean: Any, goals: Any, epsilon: Any, reach: Any, pace: Any, *, stage: int
) -> Any:
    """One normalised gradient step of a quarter of the radius times `pace`, then projection."""
    gradient = jax.grad(lambda v: jnp.sum(_gain(members, v, goals, epsilon, stage)))(x)
    length = lengths(gradient)
    stride = 0.25 * epsilon * pace / jnp.where(length > 0, length, 1.0)
    return project(x + stride[:, None, None, None] * gradient, clean, reach)


_ascend = jit(_ascend, static_argnames=("stage",))


def _gain(members: tuple[FrozenNet, ...], x: Any, goals: Any, epsilon: Any, stage: int) -> Any:
    """Positive where `stage` answers with another class than the label."""
    parts = [-_excess(member, x, epsilon) for member in members[:stage]]
    logits = raw_logits(members[stage], x)
    own = jax.nn.one_hot(goals, logits.values.shape[-1], dtype=bool)
    other = jnp.argmax(jnp.where(own, -jnp.inf, logits.values), axis=-1)
    needed = 0.0 if stage == len(members) - 1 else epsilon
    parts.append(_radius_of(logits, other) - needed)
    return jnp.min(jnp.stack(parts), axis=0)


def _excess(member: FrozenNet, x: Any, epsilon: Any) -> Any:
    logits = raw_logits(member, x)
    return _radius_of(logits, logits.prediction) - epsilon


def _radius_of(logits: Any, index: Any) -> Any:
    """The least (y_index - y_i) / K over other classes; negative where one is ahead."""
    constants = jnp.maximum(pair_constants(logits, index), 1e-30)
    lead = jnp.take_along_axis(logits.values, index[:, None], axis=-1) - logits.values
    own = jax.nn.one_hot(index, logits.values.shape[-1], dtype=bool)
    return jnp.min(jnp.where(own, jnp.inf, lead / constants), axis=-1)
