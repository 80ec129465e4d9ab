"""Certify: the jitted decision, rounded against us at every step."""

from typing import Any, NamedTuple, Protocol, overload, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gloro_jax.frozen_net import FrozenNet, raw_logits
from gloro_jax.guarantees import Guarantee, SetCertificate, check_guarantee, set_certificate
from gloro_jax.images import refuse_bytes
from gloro_jax.lipschitz.rounding import is_finite
from gloro_jax.margins import as_epsilon, certified_radius, certified_slack
from gloro_jax.platforms import jit


class Certificate(NamedTuple):
    """What `certify` says of each example; every field has the shape of the batch.

    Attributes:
        prediction: the predicted class.
        radius: the l2 radius within which the prediction cannot change, rounded down.
        is_certified: whether `slack` is positive.
        slack: the least margin left at epsilon, in logit units, rounded down: the error in a
            difference of logits that the certificate at epsilon still bears.
    """

    prediction: Int[Array, "*batch"]
    radius: Float[Array, "*batch"]
    is_certified: Bool[Array, "*batch"]
    slack: Float[Array, "*batch"]


@runtime_checkable
class Certifier(Protocol):
    """What certifies images beside a FrozenNet: the ensembles of `gj.ensembles`."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image."""
        ...

    @property
    def num_classes(self) -> int:
        """How many classes."""
        ...

    def certify(self, x: Any, *, epsilon: Any) -> Any:
        """A tuple with prediction, radius and is_certified of each image."""
        ...


@overload
def certify(frozen: FrozenNet, x: Any, *, epsilon: Any, guarantee: None = None) -> Certificate: ...
@overload
def certify(frozen: FrozenNet, x: Any, *, epsilon: Any, guarantee: Guarantee) -> SetCertificate: ...
def certify(
    frozen: FrozenNet,
    x: Float[Array | np.ndarray, "..."],
    *,
    epsilon: Any,
    guarantee: Guarantee | None = None,
) -> Certificate | SetCertificate:
    """Certifies each image: no input within l2 distance epsilon has another prediction.

    With a relaxed `guarantee`: no input within epsilon has another set of k highest classes.

    The bounds are guaranteed and every comparison is rounded against us. The logits come from a
    float32 forward pass, whose own rounding error is not bounded here: `slack` says how much of
    it each certificate bears. Callable inside `jit`, `vmap` and `grad`; no norm is computed.

    Args:
        frozen: from `freeze` or `gj.load`.
        x: images (..., H, W, C), float32, in [0, 1].
        epsilon: the l2 radius in the units of x; rounded up to float32.
        guarantee: None for the strict one, or `gj.guarantees.TopK(k)` or `Affinity(sets)`.

    Returns:
        A certificate with fields of shape (...); a `SetCertificate` under a relaxed guarantee.
        Ties, NaN and infinities are not certified.

    Raises:
        TypeError: if `frozen` is not a FrozenNet, `guarantee` is none, or `x` is not float32.
        ValueError: if the shape does not fit, epsilon is not positive and finite, or the
            digest does not match the leaves, or the network was changed after it was frozen, or the
            guarantee names classes that it has not; and for pixels of 0 to 255, outside jit and
            where x is on the host.
    """
    return judge(frozen, x, epsilon=epsilon, guarantee=guarantee)[1]


def judge(
    frozen: Any, x: Any, *, epsilon: Any, guarantee: Guarantee | None
) -> tuple[Array, Certificate | SetCertificate]:
    """The predicted classes, (...), and what `certify` says."""
    if not isinstance(frozen, FrozenNet):
        raise TypeError(
            f"certify takes a FrozenNet, got {type(frozen).__name__}. Estimates from training "
            "err low and cannot certify: frozen = gj.freeze(net, variables, input_shape=...)."
        )
    images, radius = frozen.check_images(x), as_epsilon(epsilon)
    refuse_bytes(x, frozen.input_shape)
    is_known = frozen.check_digest()
    if guarantee is None:
        certificate = _certify(frozen, images, radius, is_known=is_known)
        return certificate.prediction, certificate
    check_guarantee(guarantee, frozen.net.num_classes)
    return _certify_sets(frozen, images, radius, guarantee=guarantee, is_known=is_known)


def _certify(frozen: FrozenNet, x: Array, epsilon: Array, *, is_known: bool) -> Certificate:
    logits, is_sane = raw_logits(frozen, x), _is_sane(frozen, x, epsilon, is_known=is_known)
    slack = jnp.where(is_sane, certified_slack(logits, epsilon=epsilon), -jnp.inf)
    radius = jnp.where(is_sane, certified_radius(logits), 0.0)
    return Certificate(logits.prediction, radius, slack > 0, slack)


def _certify_sets(
    frozen: FrozenNet, x: Array, epsilon: Array, *, guarantee: Guarantee, is_known: bool
) -> tuple[Array, SetCertificate]:
    logits, is_sane = raw_logits(frozen, x), _is_sane(frozen, x, epsilon, is_known=is_known)
    found = set_certificate(logits, guarantee, epsilon=epsilon)
    slack = jnp.where(is_sane, found.slack, -jnp.inf)
    radius = jnp.where(is_sane, found.radius, 0.0)
    return logits.prediction, SetCertificate(found.classes, found.k, radius, slack > 0, slack)


_certify = jit(_certify, static_argnames=("is_known",))
_certify_sets = jit(_certify_sets, static_argnames=("guarantee", "is_known"))


def _is_sane(frozen: FrozenNet, x: Array, epsilon: Array, *, is_known: bool) -> Array:
    # A traced epsilon could not be looked at before.
    return frozen.is_sane(x, is_known=is_known) & (epsilon > 0) & is_finite(epsilon)
