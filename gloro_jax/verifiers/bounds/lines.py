"""Bounds by lines: each ReLU lies between two lines, and a score is followed back through them.

A row (a linear function of an activation) is carried from the scores back to the image. At an
unstable ReLU, whose input lies between l < 0 < u, a positive coefficient takes a line below
max(z, 0), a negative one the line above through its ends (Weng et al. 2018, Fast-Lin; Zhang et al.
2018, CROWN; Singh et al. 2019, DeepPoly). What arrives at the image is a linear function below the
score, and its least value over the region is a lower bound.

Rounding. Computed rows are taken for what they are, and the error of each product is charged where
it is made: row A differs from its computed value by at most gamma |row| |A|, entry by entry, so the
charge is gamma |row| |A| |z| with |z| from the box around z. `Followed.error` adds these up without
the factor, which `charge` puts in. A product below the smallest normal number may be lost
altogether, and z may be so large that it mattered: `LOST` |z| is charged for that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gloro_jax.verifiers.bounds.operations import Affine, Chain, Kinked, Parallel, Relu

TINY = 1e-200  # above what is lost of offsets by underflow, below what any score depends on
# An entry is short of at most 2^20 products of 2^-1022; over the factor `charge`, above 2^-45.
LOST = 2.0**-950


class Lines(NamedTuple):
    """Lines below and above max(z, 0), each (n, 1 or r, *shape).

    Attributes:
        low: the slope below, through 0, between 0 and 1.
        high: the slope above.
        over: the height of the line above at 0.
        tilt: added to each row where it meets z: the multipliers of constraints on z; or None.
    """

    low: Any
    high: Any
    over: Any
    tilt: Any = None

    def with_slopes(self, slopes: Any) -> "Lines":
        """With other slopes below, between 0 and 1, where the two lines are not one."""
        chosen = jnp.clip(slopes.astype(self.low.dtype), 0, 1)
        return self._replace(low=jnp.where(self.over > 0, chosen, self.low))


class Followed(NamedTuple):
    """Rows on their way back: at least `rows` z + `offset` - gamma `error`.

    Attributes:
        rows: (n, r, *shape).
        offset: (n, r).
        error: (n, r).
        met: the row that met each ReLU's output, by unit, where asked for.
    """

    rows: Any
    offset: Any
    error: Any
    met: dict[int, Any]


def start(rows: Any) -> Followed:
    """Rows (n, r, *shape) before they are followed."""
    zero = jnp.zeros(rows.shape[:2], rows.dtype)
    return Followed(rows, zero, zero, {})


def parallel_lines(lower: Any, upper: Any) -> Lines:
    """Both lines of one slope (Fast-Lin, and Wong and Kolter's dual): u / (u - l)."""
    lines = _lines(lower, upper)
    return lines._replace(low=lines.high)


def adaptive_lines(lower: Any, upper: Any) -> Lines:
    """The line below is z or 0, whichever leaves the smaller area (CROWN, DeepPoly)."""
    lines = _lines(lower, upper)
    is_unstable = (lower < 0) & (upper > 0)
    return lines._replace(low=jnp.where(is_unstable, (upper >= -lower) * 1.0, lines.high))


def _lines(lower: Any, upper: Any) -> Lines:
    """The lines of stable ReLUs, and the one above unstable ones; any slope in [0, 1] is sound.

    The height makes up for the rounding of the slope: a line above a convex function at both ends
    is above it between them.
    """
    is_unstable = (lower < 0) & (upper > 0)
    slope = jnp.clip(upper / jnp.where(is_unstable, upper - lower, 1), 0, 1)
    height = jnp.maximum(-slope * lower, (1 - slope) * upper)
    height = jnp.where(is_unstable, above(height), 0)
    # NaN bounds make NaN lines, and nothing is verified.
    slope = jnp.where(is_unstable, slope, jnp.where(lower >= 0, 1.0, 0.0 * (lower + upper)))
    return Lines(slope, slope, height)


def above(height: Any) -> Any:
    """A height >= 0 with the rounding of a few operations made up for, underflow among them."""
    limits = jnp.finfo(height.dtype)
    return height * (1 + 8 * limits.eps) + 2.0**20 * limits.tiny


def below(lines: dict[int, Lines]) -> Callable[[Relu, Followed], Followed]:
    """The rule for ReLUs that bounds from below by lines."""

    def rule(op: Relu, at: Followed) -> Followed:
        line, lead = lines[op.unit], at.rows
        positive, negative = jnp.maximum(lead, 0), jnp.minimum(lead, 0)
        rows = positive * line.low + negative * line.high
        rows = rows if line.tilt is None else rows + line.tilt
        over = _total(negative * line.over)
        return Followed(rows, at.offset + over, at.error - over, {**at.met, op.unit: lead})

    return rule


def follow(
    chain: Chain, at: Followed, *, relu: Callable[[Relu, Followed], Followed], sizes: Any = None
) -> Followed:
    """Follows rows back through a chain.

    Args:
        chain: the operations.
        at: rows at its end.
        relu: the rule for ReLUs.
        sizes: by operation, how large its input can be, (n, *before), where rounding is counted.

    Returns:
        Rows at the beginning of the chain.
    """
    for op in reversed(chain):
        match op:
            case Affine():
                at = _through(op, at, sizes)
            case Kinked():
                at = follow(op.chain, at, relu=relu, sizes=sizes)
            case Relu():
                at = relu(op, at)
                at = _charged(at, at.rows, op, sizes)
            case Parallel():
                at = _branches(op, at, relu, sizes)
    return at


def _through(op: Affine, at: Followed, sizes: Any) -> Followed:
    n, r = at.rows.shape[:2]
    rows = op.transposed(at.rows.reshape(n * r, *op.after)).reshape(n, r, *op.before)
    offset = at.offset
    if op.offset is not None:
        offset = offset + _total(at.rows * op.constant(at.rows.dtype)[None])
    error = at.error
    if sizes is not None:
        reach = op.spread(sizes[op]) + jnp.abs(op.constant(at.rows.dtype))
        error = error + _total(jnp.abs(at.rows) * reach[:, None]) + _lost(sizes[op])
    return Followed(rows, offset, error, at.met)


def _branches(
    op: Parallel, at: Followed, relu: Callable[[Relu, Followed], Followed], sizes: Any
) -> Followed:
    # The offset and the error so far enter one branch, so that the sum counts them once.
    zero = jnp.zeros_like(at.offset)
    parts = [
        follow(
            branch,
            at if number == 0 else Followed(at.rows, zero, zero, {}),
            relu=relu,
            sizes=sizes,
        )
        for number, branch in enumerate(op.branches)
    ]
    met = {unit: rows for part in parts for unit, rows in part.met.items()}
    rows: Any = sum(part.rows for part in parts)
    offset: Any = sum(part.offset for part in parts)
    error: Any = sum(part.error for part in parts)
    found = Followed(rows, offset, error, met)
    for part in parts:
        found = _charged(found, part.rows, op, sizes)
    return found


def _charged(at: Followed, rows: Any, op: Any, sizes: Any) -> Followed:
    if sizes is None:
        return at
    error = _total(jnp.abs(rows) * sizes[op][:, None]) + _lost(sizes[op])
    return at._replace(error=at.error + error)


def _lost(size: Any) -> Any:
    return LOST * size.sum(axis=tuple(range(1, size.ndim)))[:, None]


def _total(rows: Any) -> Any:
    return rows.sum(axis=tuple(range(2, rows.ndim)))
