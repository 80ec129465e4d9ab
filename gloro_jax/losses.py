"""Losses for certified training: (logits, labels, epsilon) to one number per example.

All take `GloroLogits` of shape (..., m), integer labels of shape (...) and an l2 radius, which may
be traced, and return shape (...). A label out of range gives NaN. `margin`, `emma` and `lmt`
centre on the label; `gloro_cross_entropy` and the TRADES losses on the prediction.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from gloro_jax.margins import GloroLogits, as_epsilon, bottom_logit, pair_constants, scores

LossName = Literal["emma", "gloro_cross_entropy", "trades_kl", "trades_ce", "margin", "lmt"]

_EMMA_FLOOR = 0.01


def gloro_cross_entropy(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any
) -> Float[Array, "*batch"]:
    """Cross-entropy over the m classes and bottom, which is never the label (Leino et al. 2021)."""
    bottom = bottom_logit(logits, epsilon=epsilon)
    extended = jnp.concatenate([scores(logits), bottom[..., None]], axis=-1)
    return _cross_entropy(extended, labels, num_classes=scores(logits).shape[-1])


def trades_kl(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any, weight: Any
) -> Float[Array, "*batch"]:
    """Cross-entropy plus `weight` times KL(softmax without bottom || softmax with bottom).

    The divergence equals log-sum-exp with bottom minus without, which is
    softplus(y_bottom - logsumexp(y)): exact and stable in that form.
    """
    return _cross_entropy(scores(logits), labels) + weight * _bottom_divergence(logits, epsilon)


def trades_ce(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any, weight: Any
) -> Float[Array, "*batch"]:
    """As `trades_kl`, with cross-entropy in place of the divergence.

    That adds the entropy of the softmax, so it also sharpens predictions; gradients flow through
    both of its arguments, as in the reference implementation.
    """
    log_p = jax.nn.log_softmax(scores(logits))
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    penalty = _bottom_divergence(logits, epsilon) + entropy
    return _cross_entropy(scores(logits), labels) + weight * penalty


def emma(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any
) -> Float[Array, "*batch"]:
    """Efficient margin maximisation (Hu et al. 2023).

    Every competitor i is lifted towards the label's score y_t, by at most epsilon K_ti and no
    further than y_t: the fraction clip((y_t - y_i) / (epsilon K_ti), 0.01, 1) of the full lift,
    held constant. All classes that threaten the label pull at once, each at its own radius.
    """
    shifted, lifts = _label_centred(logits, labels, epsilon)
    fractions = jnp.clip(-shifted / jnp.maximum(lifts, 1e-8), _EMMA_FLOOR, 1.0)
    return _cross_entropy(shifted + jax.lax.stop_gradient(fractions) * lifts, labels)


def margin(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any
) -> Float[Array, "*batch"]:
    """Cross-entropy after lifting every competitor i by the full epsilon K_ti: EMMA, fraction 1."""
    shifted, lifts = _label_centred(logits, labels, epsilon)
    return _cross_entropy(shifted + lifts, labels)


def lmt(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any
) -> Float[Array, "*batch"]:
    """Lipschitz-margin training: every competitor is lifted by sqrt(2) epsilon K_net.

    K_net is the Lipschitz constant of all m scores together, K times the spectral norm of the
    head (Tsuzuku et al. 2018). The head's rows are taken about their mean here: softmax and
    margins do not see a common shift, and the norm can only fall.
    """
    values = scores(logits)
    constant = jnp.sqrt(2.0) * logits.lipschitz.value * centred_head_norm(logits.head_distances)
    competitors = 1.0 - jax.nn.one_hot(labels, values.shape[-1])
    return _cross_entropy(values + as_epsilon(epsilon) * constant * competitors, labels)


def centred_head_norm(distances: Float[Array, "m m"]) -> Float[Array, ""]:
    """The spectral norm of the head's rows about their mean, from their pairwise distances.

    Double centring turns squared distances into the Gram matrix of the centred rows (classical
    multidimensional scaling); its largest eigenvalue is the squared norm.
    """
    squares = jnp.square(distances)
    rows = squares - jnp.mean(squares, axis=0, keepdims=True)
    gram = -(rows - jnp.mean(rows, axis=1, keepdims=True)) / 2
    largest = jnp.max(jnp.linalg.eigvalsh((gram + gram.T) / 2))
    is_positive = largest > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, largest, 1.0)), 0.0)


def _cross_entropy(values: Array, labels: Array, *, num_classes: int | None = None) -> Array:
    is_label = (labels >= 0) & (labels < (num_classes or values.shape[-1]))
    loss = optax.softmax_cross_entropy_with_integer_labels(values, jnp.where(is_label, labels, 0))
    return jnp.where(is_label, loss, jnp.nan)


def _bottom_divergence(logits: GloroLogits, epsilon: Any) -> Array:
    log_sum = jax.nn.logsumexp(scores(logits), axis=-1)
    return jax.nn.softplus(bottom_logit(logits, epsilon=epsilon) - log_sum)


def _label_centred(logits: GloroLogits, labels: Array, epsilon: Any) -> tuple[Array, Array]:
    own = jnp.take_along_axis(scores(logits), labels[..., None], axis=-1)
    return scores(logits) - own, as_epsilon(epsilon) * pair_constants(logits, labels)
