"""Margins: from logits and a Lipschitz bound to the bottom logit, the radius and the slack.

With j the predicted class and K_ij = K ||w_j - w_i||, a point at distance epsilon cannot change
y_j - y_i by more than epsilon K_ij. The point is certified if that leaves j ahead of every other
class, strictly (Leino et al. 2021). The predicted class is excluded by its index, never by its
value: masking every logit equal to the largest certifies a tie (klasleino/gloro issue 9).
"""

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from gloro_jax.lipschitz.norms import UpperBound, bound_number
from gloro_jax.lipschitz.rounding import (
    divide_down,
    float32_up,
    is_finite,
    multiply_up,
    next_up,
    subtract_down,
)
from gloro_jax.logits import GloroLogits
from gloro_jax.plain import as_array, exact

# Above so many differences of two entries, 64 MiB of them, distances come from a Gram matrix.
_MOST_DIFFERENCES = 2**24
_NEAR_SQUARED = 1e-6


def head_distances(kernel: Float[Array, "d m"]) -> Float[Array, "m m"]:
    """||w_i - w_j|| of the columns of `kernel`, for training: differentiable, and 0 is safe.

    The root of a sum of squares has an infinite slope at 0, so the diagonal, and any pair of
    equal columns, gets value and gradient 0 explicitly. Many classes of many features take their
    squares from a Gram matrix, where all differences at once would take gigabytes: columns nearer
    to each other than a thousandth of their length then count as equal.
    """
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(kernel), initial=0.0))
    scale = jnp.where(scale > 0, scale, 1.0)
    rows = kernel.T / scale
    if rows.shape[0] * rows.size <= _MOST_DIFFERENCES:
        squares = jnp.sum(jnp.square(rows[:, None, :] - rows[None, :, :]), axis=-1)
        is_zero = squares == 0
    else:
        squares, is_zero = _gram_squares(rows)
    return jnp.where(is_zero, 0.0, scale * jnp.sqrt(jnp.where(is_zero, 1.0, squares)))


def _gram_squares(rows: Float[Array, "m d"]) -> tuple[Array, Array]:
    """|w_i - w_j|^2 as |w_i|^2 + |w_j|^2 - 2 w_i w_j, and where that is rounding error."""
    centred = rows - jnp.mean(rows, axis=0, keepdims=True)
    gram = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.diagonal(gram)
    both = lengths[:, None] + lengths[None, :]
    squares = both - 2 * gram
    return squares, squares <= _NEAR_SQUARED * both


def head_distance_bounds(kernel: np.ndarray) -> np.ndarray:
    """Upper bounds of ||w_i - w_j|| of the columns of `kernel`, in float64 on the host.

    Each difference is divided by the largest of its pair, so no square underflows. The rounding
    errors add up to less than (d + 8) units of 2^-53 relative; the inflation is nine times that.

    Args:
        kernel: (d, m), finite.

    Returns:
        (m, m) float64; 0 only where two columns are equal.
    """
    rows = np.asarray(kernel, np.float64).T
    bounds = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        differences = np.abs(rows - row)
        largest = differences.max(axis=1, initial=0.0)
        unit = differences / np.where(largest > 0, largest, 1.0)[:, None]
        bounds[i] = largest * np.sqrt(np.square(unit).sum(axis=1))
    inflated = bounds * (1.0 + 1e-15 * (rows.shape[1] + 32))
    return np.maximum(inflated, inflated.T)


def as_epsilon(epsilon: Any) -> Float[Array, ""]:
    """The l2 radius as a float32 scalar, rounded up.

    Raises:
        ValueError: if a concrete `epsilon` is not a single positive finite number.
    """
    if isinstance(epsilon, Tracer):
        if epsilon.shape != ():
            raise ValueError(f"epsilon is one number, got an array of shape {epsilon.shape}.")
        if not any(jnp.issubdtype(epsilon.dtype, kind) for kind in (np.floating, np.integer)):
            raise ValueError(f"epsilon is a real number, got one of type {epsilon.dtype}.")
        # JAX has rounded a Python number to float32 before it arrives here.
        return next_up(epsilon.astype(jnp.float32))
    if (shape := as_array(epsilon, name="epsilon").shape) != ():
        raise ValueError(f"epsilon is one number, got an array of shape {shape}.")
    try:
        value = _float_up(exact(epsilon)) if isinstance(epsilon, str) else float(epsilon)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(
            f"epsilon is an l2 radius, one positive number such as 36 / 255; got {epsilon!r}."
        ) from None
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"epsilon is an l2 radius, positive and finite, in the units of x; got {value}."
        )
    return jnp.asarray(float32_up(value))


def _float_up(number: Fraction) -> float:
    nearest = float(number)
    is_below = math.isfinite(nearest) and nearest < number
    return math.nextafter(nearest, math.inf) if is_below else nearest


def scores(logits: GloroLogits) -> Float[Array, "*batch m"]:
    """`logits.values`.

    Raises:
        TypeError: if these are plain scores, which carry no bound, or no floating-point numbers.
        ValueError: if there are not two classes.
    """
    if not isinstance(logits, GloroLogits):
        raise TypeError(
            f"This takes the GloroLogits that a gj.GloroNet returns, got {type(logits).__name__}: "
            "plain scores carry no Lipschitz bound, and the margin needs one. Make the network a "
            "GloroNet; for a bound of your own, gj.GloroLogits(values, lipschitz, head_distances)."
        )
    for name in ("values", "head_distances"):
        dtype = getattr(getattr(logits, name), "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, np.floating):
            raise TypeError(
                f"{name} of GloroLogits are arrays of floating-point numbers, got "
                f"{dtype or type(getattr(logits, name)).__name__}: jnp.asarray(..., jnp.float32), "
                "head_distances rounded up."
            )
    if np.ndim(logits.values) < 1 or logits.values.shape[-1] < 2:
        raise ValueError(
            "values of GloroLogits are scores (..., m) of at least 2 classes, got shape "
            f"{np.shape(logits.values)}."
        )
    return logits.values


def bottom_logit(logits: GloroLogits, *, epsilon: Any) -> Float[Array, "*batch"]:
    """The score of "not robust here": the largest y_i + epsilon K_ij over i other than j.

    The point is epsilon-locally robust if its largest logit exceeds this one strictly
    (Leino et al. 2021, equation 1).

    Args:
        logits: scores (..., m) with an estimate or an upper bound.
        epsilon: the l2 radius.
    """
    values = scores(logits)
    lifts = pair_constants(logits, logits.prediction) * as_epsilon(epsilon)
    return jnp.max(_mask(values + lifts, logits.prediction, -jnp.inf), axis=-1)


def certified_radius(logits: GloroLogits) -> Float[Array, "*batch"]:
    """The radius within which no input changes the prediction, rounded down.

    It is the least (y_j - y_i) / K_ij over i other than j; 0 for a tie and wherever a score is
    NaN or infinite; infinite only where every K_ij is exactly 0.

    Args:
        logits: scores (..., m) with an upper bound.

    Raises:
        TypeError: if the bound is an estimate: power iteration errs low and proves nothing.
    """
    scores(logits)  # plain scores have no prediction
    constants = guaranteed_constants(logits, logits.prediction)
    radii = pair_radii(leads_down(logits, logits.prediction), constants)
    radius = jnp.min(_mask(radii, logits.prediction, jnp.inf), axis=-1)
    return jnp.where(is_sane(logits, constants), radius, 0.0)


def certified_slack(logits: GloroLogits, *, epsilon: Any) -> Float[Array, "*batch"]:
    """The least y_j - y_i - epsilon K_ij over i other than j, rounded down.

    Positive means certified at `epsilon`, and the value is how much rounding error in the logits'
    differences the certificate can still bear. Minus infinity wherever a score is NaN or infinite.

    Raises:
        TypeError: if the bound is an estimate.
    """
    scores(logits)  # plain scores have no prediction
    constants = guaranteed_constants(logits, logits.prediction)
    slacks = pair_slacks(leads_down(logits, logits.prediction), constants, epsilon=epsilon)
    slack = jnp.min(_mask(slacks, logits.prediction, jnp.inf), axis=-1)
    return jnp.where(is_sane(logits, constants), slack, -jnp.inf)


def pair_constants(logits: GloroLogits, index: Int[Array, "*any"]) -> Float[Array, "*any m"]:
    """K ||w_index - w_i|| for every i; K is as good as `logits.lipschitz`."""
    rows = jnp.take(logits.head_distances, index, axis=0)
    if isinstance(logits.lipschitz, UpperBound):
        value = bound_number(logits.lipschitz.value, name="The Lipschitz bound of these logits")
        value = float32_up(value) if isinstance(value, float) else value
        # In the type of the distances, float16 or an integer, K could become 0.
        rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
        return multiply_up(rows, jnp.asarray(value, rows.dtype))
    return rows * logits.lipschitz.value


def guaranteed_constants(logits: GloroLogits, index: Int[Array, "*any"]) -> Float[Array, "*any m"]:
    """`pair_constants`, or a TypeError if the bound is an estimate, a ValueError if it misfits."""
    classes = scores(logits).shape[-1]
    if not isinstance(logits.lipschitz, UpperBound):
        raise TypeError(
            "A certificate needs an UpperBound, and these logits carry an Estimate: power "
            "iteration errs low. Certify with frozen = gj.freeze(net, variables, input_shape=...)."
        )
    if logits.head_distances.shape != (classes, classes):
        raise ValueError(
            f"Logits of {classes} classes have head distances ({classes}, {classes}), got "
            f"{logits.head_distances.shape}. If jax.vmap made them, map this function likewise."
        )
    constants, is_whole = pair_constants(logits, index), logits.is_whole()
    axes = range(is_whole.ndim, constants.ndim)
    return jnp.where(jnp.expand_dims(is_whole, tuple(axes)), constants, jnp.nan)


def leads_down(logits: GloroLogits, index: Int[Array, "*any"]) -> Float[Array, "*any m"]:
    """What class `index` is ahead by of each class, rounded down.

    Args:
        logits: scores (..., m).
        index: (...), or (..., l) for several classes of each example.
    """
    values, rows = logits.values, index
    if index.ndim < values.ndim:
        rows = index[..., None]
    else:
        values = values[..., None, :]
    own = jnp.take_along_axis(logits.values, rows, axis=-1).reshape((*index.shape, 1))
    return subtract_down(*jnp.broadcast_arrays(own, values))


def pair_slacks(leads: Array, constants: Array, *, epsilon: Any) -> Array:
    """What is left of leads at epsilon, rounded down."""
    return subtract_down(leads, multiply_up(constants, as_epsilon(epsilon)))


def pair_radii(leads: Array, constants: Array) -> Array:
    """The radii at which leads are used up, rounded down."""
    is_constant = constants == 0
    radii = divide_down(leads, jnp.where(is_constant, 1.0, constants))
    return jnp.where(leads > 0, jnp.where(is_constant, jnp.inf, radii), 0.0)


def is_sane(logits: GloroLogits, constants: Array) -> Array:
    """Whether scores and constants (..., c) are finite, and constants not negative, (...)."""
    are_bounds = (is_finite(constants) & (constants >= 0)).all(axis=-1)
    return is_finite(logits.values).all(axis=-1) & are_bounds


def _mask(values: Array, index: Array, fill: float) -> Array:
    own = jax.nn.one_hot(index, values.shape[-1], dtype=bool)
    return jnp.where(own, fill, values)
