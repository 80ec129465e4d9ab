"""Soft voting: the weighted mean of the members' scores, which has a Lipschitz bound of its own.

The difference of mean scores i and j is the mean of differences, so its constant is at most
K_ij = sum of w_k K^k_ij; and the certificate is that of one network with these constants.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gloro_jax.certification import Certificate
from gloro_jax.ensembles.members import Ensemble, check_members, check_weights
from gloro_jax.frozen_net import raw_logits
from gloro_jax.guarantees import Guarantee, SetCertificate, check_guarantee, set_certificate
from gloro_jax.images import refuse_bytes
from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.lipschitz.rounding import float32_up, is_finite, plus_up, times_up
from gloro_jax.logits import GloroLogits
from gloro_jax.margins import as_epsilon, certified_radius, certified_slack
from gloro_jax.plain import unwritable
from gloro_jax.platforms import jit


@dataclasses.dataclass(frozen=True, eq=False)
class SoftVoting(Ensemble):
    """The mean of the members' scores, with a guaranteed bound of it.

    Scores of networks that were trained apart have different scales; weights can level them.

    Attributes:
        members: FrozenNets of the same image shape and classes.
        weights: one for each, at least 0; equal unless given. They are divided by their sum and
            rounded to float32, and those very numbers are used for scores and constants.
        class_names: of each member, where known; they must agree.

    Raises:
        TypeError: if a member is no FrozenNet.
        ValueError: if members do not fit each other, or weights are negative or all 0.
    """

    weights: Any = None
    class_names: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        found = check_members(self.members, what="SoftVoting", class_names=self.class_names)
        given = check_weights(self.weights, len(found), what="SoftVoting")
        # Divided by the largest first: a sum of large weights may overflow.
        shares = given / given.max()
        shares = (shares / shares.sum()).astype(np.float32)
        object.__setattr__(self, "members", found)
        shares[shares < np.finfo(np.float32).tiny] = 0
        object.__setattr__(self, "weights", unwritable(shares))

    @functools.cached_property
    def constants(self) -> np.ndarray:
        """K_ij (m, m), float32, rounded up: a bound of the constant of score i less score j."""
        m = self.num_classes
        total: Any = np.zeros((m, m))
        for member, weight in zip(self.members, self.weights, strict=True):
            apart = np.asarray(member.head().distances, np.float64)
            for i, j in np.ndindex(m, m):
                own = times_up(float(weight), times_up(member.lipschitz, float(apart[i, j])))
                total[i, j] = plus_up(float(total[i, j]), own)
        return unwritable(np.vectorize(float32_up, otypes=[np.float32])(total))

    def __call__(self, x: Any) -> GloroLogits:
        """Mean scores (..., m) with guaranteed bounds, for images (..., H, W, C)."""
        members, weights, constants, images = self._checked(x)
        return _mean(members, weights, constants, images)

    def certify(
        self, x: Any, *, epsilon: Any, guarantee: Guarantee | None = None
    ) -> Certificate | SetCertificate:
        """Certifies the mean, as `gj.certify` does one network; also inside jit."""
        if guarantee is not None:
            check_guarantee(guarantee, self.num_classes)
        given = self._checked(x)
        return _certify(*given, as_epsilon(epsilon), guarantee=guarantee)

    def _checked(self, x: Any) -> tuple[Any, Any, Any, Any]:
        for member in self.members:
            member.check_digest()
        refuse_bytes(x, self.input_shape)
        return self.members, self.weights, self.constants, self.members[0].check_images(x)


def _averaged(members: Any, weights: Any, constants: Any, x: Any) -> GloroLogits:
    scores = [raw_logits(member, x).values for member in members]
    values = sum(weight * own for weight, own in zip(weights, scores, strict=True))
    are_sane = jnp.stack([m.is_sane(x, is_known=True) for m in members]).all(axis=0)
    values = jnp.where(are_sane[..., None], values, jnp.nan)
    return GloroLogits(values, UpperBound(jnp.float32(1.0)), constants)


@jit
def _mean(members: Any, weights: Any, constants: Any, x: Any) -> GloroLogits:
    return _averaged(members, weights, constants, x).sealed()


def _certify(
    members: Any, weights: Any, constants: Any, x: Any, epsilon: Any, *, guarantee: Any
) -> Certificate | SetCertificate:
    logits = _averaged(members, weights, constants, x)
    is_radius = (epsilon > 0) & is_finite(epsilon)
    if guarantee is not None:
        found = set_certificate(logits, guarantee, epsilon=epsilon)
        slack = jnp.where(is_radius, found.slack, -jnp.inf)
        radius = jnp.where(is_radius, found.radius, 0.0)
        return found._replace(slack=slack, radius=radius, is_certified=slack > 0)
    slack = jnp.where(is_radius, certified_slack(logits, epsilon=epsilon), -jnp.inf)
    radius = jnp.where(is_radius, certified_radius(logits), 0.0)
    return Certificate(logits.prediction, radius, slack > 0, slack)


_certify = jit(_certify, static_argnames=("guarantee",))
