"""Losses for certified training: (logits, labels, epsilon) to one number per example.

All take `GloroLogits` of shape (..., m), integer labels of shape (...) and an l2 radius, which may
be traced, and return shape (...). Labels of another kind or shape are a ValueError, as is an option
that makes no loss; a label out of range gives NaN. `gloro_cross_entropy` and the
TRADES losses centre on the prediction, and take a relaxed `guarantee` as well; the others centre on
the label.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from gloro_jax.guarantees import Guarantee, bottom_logit
from gloro_jax.logits import GloroLogits
from gloro_jax.margins import as_epsilon, pair_constants, scores

LossName = Literal[
    "emma",
    "logit_annealing",
    "margin",
    "offset_cross_entropy",
    "crm",
    "ibp",
    "crown_ibp",
    "lmt",
    "gloro_cross_entropy",
    "trades_kl",
    "trades_ce",
]

RELAXABLE: tuple[LossName, ...] = ("gloro_cross_entropy", "trades_kl", "trades_ce")
_EMMA_FLOOR = 0.01
# Where CRM stops to press for radius, in factors of epsilon: 0.2 of 36/255 and 2.2 of 1.58.
_CRM_REACH = 1.4
_LEAST = 1e-15


def gloro_cross_entropy(
    logits: GloroLogits,
    labels: Int[Array, "*batch"],
    *,
    epsilon: Any,
    guarantee: Guarantee | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy over the m classes and bottom, which is never the label (Leino et al. 2021)."""
    labels = _checked(logits, labels)
    bottom = bottom_logit(logits, epsilon=epsilon, guarantee=guarantee)
    extended = jnp.concatenate([scores(logits), bottom[..., None]], axis=-1)
    return _cross_entropy(extended, labels, num_classes=scores(logits).shape[-1])


def trades_kl(
    logits: GloroLogits,
    labels: Int[Array, "*batch"],
    *,
    epsilon: Any,
    weight: Any,
    guarantee: Guarantee | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy plus `weight` times KL(softmax without bottom || softmax with bottom).

    The divergence equals log-sum-exp with bottom minus without, which is
    softplus(y_bottom - logsumexp(y)): exact and stable in that form.
    """
    labels = _checked(logits, labels)
    penalty = _bottom_divergence(logits, epsilon, guarantee)
    return _cross_entropy(scores(logits), labels) + weight * penalty


def trades_ce(
    logits: GloroLogits,
    labels: Int[Array, "*batch"],
    *,
    epsilon: Any,
    weight: Any,
    guarantee: Guarantee | None = None,
) -> Float[Array, "*batch"]:
    """As `trades_kl`, with cross-entropy in place of the divergence.

    That adds the entropy of the softmax, so it also sharpens predictions; gradients flow through
    both of its arguments, as in the reference implementation.
    """
    labels = _checked(logits, labels)
    log_p = jax.nn.log_softmax(scores(logits))
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    penalty = _bottom_divergence(logits, epsilon, guarantee) + entropy
    return _cross_entropy(scores(logits), labels) + weight * penalty


def emma(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any
) -> Float[Array, "*batch"]:
    """Efficient margin maximisation (Hu et al. 2023).

    Every competitor i is lifted towards the label's score y_t, by at most epsilon K_ti and no
    further than y_t: the fraction clip((y_t - y_i) / (epsilon K_ti), 0.01, 1) of the full lift,
    held constant. All classes that threaten the label pull at once, each at its own radius.
    """
    labels = _checked(logits, labels)
    return _cross_entropy(_emma_lifted(logits, labels, epsilon), labels)


def logit_annealing(
    logits: GloroLogits,
    labels: Int[Array, "*batch"],
    *,
    epsilon: Any,
    offset: float = 2.0,
    temperature: float = 0.75,
    gamma: float = 5.0,
) -> Float[Array, "*batch"]:
    """Logit annealing on EMMA-lifted logits (Lai et al. 2025, BRONet).

    T (1 - p)^gamma CE(u), with u the lifted scores less `offset` at the label, over T, and p the
    softmax of u at the label. What is safely certified stops to count, so that a network short of
    capacity spends it on other examples. With offset 0, T 1 and gamma 0 it is EMMA.
    """
    labels = _checked(logits, labels, temperature=temperature)
    if not (gamma == 0 or 1 <= gamma < jnp.inf):
        raise ValueError(
            f"gamma is 0 or at least 1, got {gamma!r}: between them, the slope at loss 0 is "
            "infinite."
        )
    lifted = _emma_lifted(logits, labels, epsilon)
    own = jax.nn.one_hot(labels, lifted.shape[-1])
    loss = _cross_entropy(_tempered(lifted - offset * own, temperature), labels)
    # 1 - exp(-loss) for small losses as well; its slope at 0 is finite for gamma of 0 and from 1.
    return temperature * (-jnp.expm1(-loss)) ** gamma * loss


def offset_cross_entropy(
    logits: GloroLogits,
    labels: Int[Array, "*batch"],
    *,
    epsilon: Any,
    temperature: float = 0.25,
) -> Float[Array, "*batch"]:
    """T times cross-entropy at temperature T, competitors lifted by the full epsilon K_ti.

    The loss of Prach and Lampert 2022 (AOL) and of "1-Lipschitz Layers Compared" (2024), whose
    offset is epsilon K_ti with K_ti = sqrt(2). With T 1 it is `margin`.
    """
    labels = _checked(logits, labels, temperature=temperature)
    shifted, lifts = _label_centred(logits, labels, epsilon)
    return temperature * _cross_entropy(_tempered(shifted + lifts, temperature), labels)


def crm(
    logits: GloroLogits,
    labels: Int[Array, "*batch"],
    *,
    epsilon: Any,
    weight: Any,
    sharpness: float = 5.0,
) -> Float[Array, "*batch"]:
    """Cross-entropy, and `weight` times a soft certified radius (Fazlyab et al. 2023, CRM-LipLT).

    R_i = (y_t - y_i) / K_ti is the radius at which class i may win. Where the least of them is
    below 1.4 epsilon, (1 / s) logsumexp(-s R_i), a smooth -min R_i, is added; it does not count
    elsewhere. The authors take weights of 15 to 30, from epoch 10 on.
    """
    labels = _checked(logits, labels, sharpness=sharpness)
    shifted, _ = _label_centred(logits, labels, epsilon)
    constants = pair_constants(logits, labels)
    is_rival = jax.nn.one_hot(labels, shifted.shape[-1]) == 0
    is_usable = is_rival & (constants > _LEAST)  # a gradient divides by the square
    radii = jnp.where(is_usable, -shifted / jnp.where(is_usable, constants, 1.0), jnp.inf)
    soft = jax.nn.logsumexp(-sharpness * radii, axis=-1) / sharpness
    is_near = jnp.min(radii, axis=-1) < _CRM_REACH * as_epsilon(epsilon)
    return _cross_entropy(scores(logits), labels) + weight * jnp.where(is_near, soft, 0.0)


def margin(
    logits: GloroLogits, labels: Int[Array, "*batch"], *, epsilon: Any
) -> Float[Array, "*batch"]:
    """Cross-entropy after lifting every competitor i by the full epsilon K_ti: EMMA, fraction 1."""
    labels = _checked(logits, labels)
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
    labels, values = _checked(logits, labels), scores(logits)
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


def _checked(logits: GloroLogits, labels: Any, **positive: float) -> Array:
    """The labels, if they fit the logits, and options are what they must be."""
    found, batch = jnp.asarray(labels), scores(logits).shape[:-1]
    if found.shape != batch or not jnp.issubdtype(found.dtype, jnp.integer):
        raise ValueError(
            f"labels are integers of shape {batch}, one class for each example; got "
            f"{found.dtype} of shape {found.shape}."
        )
    for name, value in positive.items():
        if not isinstance(value, Tracer) and not 0 < value < jnp.inf:
            raise ValueError(f"{name} is a positive number, got {value!r}.")
    return found


def _tempered(values: Array, temperature: float) -> Array:
    """Scores over a temperature, the largest of them 0: its rounding would count if it were not."""
    return (values - jax.lax.stop_gradient(values.max(axis=-1, keepdims=True))) / temperature


def _cross_entropy(values: Array, labels: Array, *, num_classes: int | None = None) -> Array:
    is_label = (labels >= 0) & (labels < (num_classes or values.shape[-1]))
    loss = optax.softmax_cross_entropy_with_integer_labels(values, jnp.where(is_label, labels, 0))
    return jnp.where(is_label, loss, jnp.nan)


def _bottom_divergence(logits: GloroLogits, epsilon: Any, guarantee: Guarantee | None) -> Array:
    log_sum = jax.nn.logsumexp(scores(logits), axis=-1)
    bottom = bottom_logit(logits, epsilon=epsilon, guarantee=guarantee)
    return jax.nn.softplus(bottom - log_sum)


def _emma_lifted(logits: GloroLogits, labels: Array, epsilon: Any) -> Array:
    shifted, lifts = _label_centred(logits, labels, epsilon)
    fractions = jnp.clip(-shifted / jnp.maximum(lifts, 1e-8), _EMMA_FLOOR, 1.0)
    return shifted + jax.lax.stop_gradient(fractions) * lifts


def _label_centred(logits: GloroLogits, labels: Array, epsilon: Any) -> tuple[Array, Array]:
    own = jnp.take_along_axis(scores(logits), labels[..., None], axis=-1)
    return scores(logits) - own, as_epsilon(epsilon) * pair_constants(logits, labels)
