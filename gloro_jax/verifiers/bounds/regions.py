"""The inputs a verdict speaks of: an l2 or linf ball around each image, or its part in a box."""

from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from gloro_jax.lipschitz.rounding import next_down, next_up
from gloro_jax.plain import number
from gloro_jax.pytrees import pytree_dataclass

Norm = Literal["linf", "l2"]
Box = tuple[float, float] | None
_HALVINGS = 40


@pytree_dataclass(static=("norm", "is_boxed"))
class Region:
    """A ball around each of n images, and a box that holds the part of it that counts.

    Attributes:
        centre: (n, *shape).
        radius: (n,), rounded up.
        lower: (n, *shape), rounded down.
        upper: (n, *shape), rounded up.
        norm: of the ball.
        is_boxed: whether a box may cut something off the ball.
    """

    centre: Any
    radius: Any
    lower: Any
    upper: Any
    norm: Norm = "linf"
    is_boxed: bool = False


def check_norm(norm: str, known: tuple[str, ...] = get_args(Norm), *, method: str) -> None:
    """Raises a ValueError if a method does not know a norm."""
    if not isinstance(norm, str) or norm not in known:
        raise ValueError(f"{method} knows the norms {', '.join(known)}, got norm={norm!r}.")


def checked_box(box: Any, x: np.ndarray) -> Box:
    """`box` as None or two floats; raises a ValueError unless it is that, and `x` lies between."""
    if box is None:
        return None
    try:
        low, high = map(number, box if isinstance(box, tuple | list | np.ndarray) else ())
    except (TypeError, ValueError):
        raise ValueError(f"box is None or two numbers such as (0.0, 1.0), got {box!r}.") from None
    if not low < high:
        raise ValueError(f"box is (lower, upper) with lower below upper, got {box!r}.")
    wide = x.astype(np.float64)
    outside = (wide < low) | (wide > high)
    if outside.any():
        first = int(np.argmax(outside.reshape(len(x), -1).any(axis=1)))
        raise ValueError(
            f"box={box!r} does not contain x: image {first} has values from {x[first].min():g} to "
            f"{x[first].max():g}. A ball around a point outside the box has no meaning; scale x, "
            "or leave the box out (box=None is all of R^n)."
        )
    return low, high


def region(x: Any, radius: Any, *, norm: Norm, box: Box) -> Region:
    """The regions around images (n, *shape) of radii (n,), in the precision of `x`."""
    lead = (-1, *(1,) * (x.ndim - 1))
    radius = next_up(jnp.asarray(radius, x.dtype))
    lower = next_down(x - radius.reshape(lead))
    upper = next_up(x + radius.reshape(lead))
    if box is not None:
        low, high = jnp.asarray(box[0], x.dtype), jnp.asarray(box[1], x.dtype)
        lower, upper = jnp.maximum(lower, low), jnp.minimum(upper, high)
        radius = jnp.minimum(radius, _furthest(x, low, high))
    return Region(x, radius, lower, upper, norm, box is not None)


def _furthest(x: Any, low: Any, high: Any) -> Any:
    """The l2 distances (n,) of a box's furthest corners, from above: larger balls hold no more."""
    corner = jnp.maximum(jnp.abs(x - low), jnp.abs(x - high)).reshape(len(x), -1)
    room = 1 + 4 * (corner.shape[1] + 8) * jnp.finfo(x.dtype).eps
    is_finite = jnp.isfinite(corner).all(axis=1)
    far = lengths(jnp.where(is_finite[:, None], corner, 1))
    return jnp.where(is_finite, next_up(far * room), jnp.inf)


def minimum(area: Region, rows: Any, *, is_tight: bool = False) -> tuple[Any, Any]:
    """The least value over a region of linear functions, and the size of what was added up.

    Args:
        area: of n images.
        rows: (n, r, *shape), r functions for each, or (1, r, *shape), the same for all.
        is_tight: whether to find the least value over a ball cut by a box, which takes 40 passes
            over `rows`, instead of the larger one of the two over ball and box.

    Returns:
        (n, r) each. The value is wrong by at most gamma(entries of an image + 16) times the size.
    """
    flat = rows.reshape(*rows.shape[:2], -1)
    centre, lower, upper = (a.reshape(len(a), -1) for a in (area.centre, area.lower, area.upper))
    absolute, middle = jnp.abs(flat), (lower + upper) / 2
    size = 2 * _dot(absolute, jnp.maximum(jnp.abs(lower), jnp.abs(upper)))
    reach = jnp.maximum(upper - middle, middle - lower)
    value = _dot(flat, middle) - _dot(absolute, reach)
    if area.norm == "linf":
        return value, size
    at, radius = _dot(flat, centre), area.radius[:, None]
    length = lengths(flat)
    value = jnp.maximum(value, at - radius * length)
    if is_tight and area.is_boxed:
        least = _cut(flat, (lower - centre)[:, None], (upper - centre)[:, None], radius)
        value = jnp.maximum(value, at + least)
    return value, size + 2 * radius * length


def lengths(vectors: Any) -> Any:
    """l2 norms along the last axis; squares of small entries must not vanish."""
    largest = jnp.abs(vectors).max(axis=-1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    squares = jnp.square(vectors / scale).sum(axis=-1)
    is_long = squares > 0  # the gradient of a root is infinite at 0
    return jnp.where(is_long, scale[..., 0] * jnp.sqrt(jnp.where(is_long, squares, 1)), 0)


def _dot(rows: Any, vectors: Any) -> Any:
    """(n or 1, r, d) times (n, d) is (n, r)."""
    high = "highest"
    if len(rows) == 1:
        return jnp.matmul(vectors, rows[0].T, precision=high)
    return jnp.einsum("nrd,nd->nr", rows, vectors, precision=high)


def _cut(rows: Any, lower: Any, upper: Any, radius: Any) -> Any:
    """The least of rows * d over |d| <= radius between lower and upper, from below.

    For each m > 0 it is at least the least of rows * d + m (|d|^2 - radius^2) / 2 over the box,
    which splits by coordinates; bisection looks for the best m. Lengths are in units of the radius,
    whose square may underflow.
    """
    unit = jnp.maximum(radius, jnp.finfo(rows.dtype).tiny)
    lower, upper = lower / unit[..., None], upper / unit[..., None]

    def best(m: Any) -> Any:
        return jnp.clip(-rows / m[..., None], lower, upper)

    top = lengths(rows)
    few, many = 1e-6 * top + 1e-30, 1e6 * top + 1e-30
    for _ in range(_HALVINGS):
        m = jnp.sqrt(few) * jnp.sqrt(many)
        is_long = jnp.square(best(m)).sum(-1) > 1
        few, many = jnp.where(is_long, m, few), jnp.where(is_long, many, m)
    d = best(many)
    excess = jnp.square(d).sum(-1) - 1
    least = unit * ((rows * d).sum(-1) + jnp.minimum(many * excess / 2, 0))
    return jnp.where(unit < jnp.inf, least, -jnp.inf)
