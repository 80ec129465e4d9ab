"""Where a convolution's windows fall: strides, padding, output sizes and tap tables."""

from typing import Any, Literal

import numpy as np

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Padding = Literal["SAME", "VALID"] | int | Pads


def as_pair(argument: int | Pair, *, name: str) -> Pair:
    """`argument` for height and width, from one positive integer or two.

    Raises:
        ValueError: if it is anything else.
    """
    given: Any = argument
    pair = (given, given) if np.ndim(given) == 0 else tuple(given)
    if len(pair) != 2 or any(not _is_integer(p) or p < 1 for p in pair):
        raise ValueError(f"{name} is a positive integer or a pair of them, got {argument!r}.")
    return int(pair[0]), int(pair[1])


def resolve_padding(padding: Padding, *, image_size: Pair, window: Pair, strides: Pair) -> Pads:
    """Padding as ((top, bottom), (left, right)), by XLA's rules for SAME and VALID.

    Raises:
        ValueError: if `padding` is of no known form, is negative, or leaves no output.
    """
    if isinstance(padding, str) and padding == "SAME":
        (height, width), (kh, kw), (sy, sx) = image_size, window, strides
        pads = (_same(height, kh, sy), _same(width, kw, sx))
    elif isinstance(padding, str) and padding == "VALID":
        pads = ((0, 0), (0, 0))
    else:
        pads = _explicit(padding)
    if min(p for pair in pads for p in pair) < 0:
        raise ValueError(f"padding must not be negative, got {padding!r}; crop the image instead.")
    if min(output_size(image_size, window, strides, pads)) < 1:
        raise ValueError(
            f"A {window[0]}x{window[1]} window does not fit an image of "
            f"{image_size[0]}x{image_size[1]} with padding {pads}: use padding='SAME' or a "
            "smaller window."
        )
    return pads


def output_size(image_size: Pair, window: Pair, strides: Pair, pads: Pads) -> Pair:
    """Height and width of the output."""
    height, width = (
        (size + low + high - k) // s + 1
        for size, k, s, (low, high) in zip(image_size, window, strides, pads, strict=True)
    )
    return height, width


def tap_table(image_size: Pair, window: Pair, strides: Pair, pads: Pads) -> np.ndarray:
    """Which input pixel each tap of each output pixel reads; -1 where it reads padding.

    Returns:
        Integers of shape (output pixels, taps), both in row-major order.
    """
    axes = []
    for size, k, s, (low, high) in zip(image_size, window, strides, pads, strict=True):
        outputs = np.arange((size + low + high - k) // s + 1)
        reads = outputs[:, None] * s + np.arange(k) - low
        axes.append(np.where((reads >= 0) & (reads < size), reads, -1))
    rows, columns = axes[0][:, None, :, None], axes[1][None, :, None, :]
    table = np.where((rows >= 0) & (columns >= 0), rows * image_size[1] + columns, -1)
    return table.reshape(len(axes[0]) * len(axes[1]), -1)


def _same(size: int, k: int, s: int) -> Pair:
    total = max((-(-size // s) - 1) * s + k - size, 0)
    return total // 2, total - total // 2


def _explicit(padding: Any) -> Pads:
    try:
        sides = ((padding, padding),) * 2 if _is_integer(padding) else padding
        (top, bottom), (left, right) = sides
    except (TypeError, ValueError):
        top = bottom = left = right = None
    if not all(map(_is_integer, (top, bottom, left, right))):
        raise ValueError(
            "padding is 'SAME', 'VALID', an integer or ((top, bottom), (left, right)) of integers, "
            f"got {padding!r}."
        )
    return (int(top), int(bottom)), (int(left), int(right))  # type: ignore[arg-type]


def _is_integer(value: Any) -> bool:
    """A Python or NumPy integer; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
