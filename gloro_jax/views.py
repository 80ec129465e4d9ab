"""Views: an image moved about, so that a network's features can be averaged over all of them.

The mean of f over views of x changes with x no faster than f does: a view moves pixels, so its
matrix has at most one 1 in each row and each column, its norm is at most 1, and the mean of maps
with one Lipschitz constant has that constant. K and every K_ij of f hold for the mean as they are,
and its accuracy is higher. It costs one forward pass a view, and nothing else.

A view is written in words, its moves one after another: "identity", "mirror" (left to right),
"shift:DY,DX" (down and right, zeros come in) and "roll:DY,DX" (around the border), joined by "+".
"""

import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Move = tuple[Any, ...]
# ("mirror",), ("shift", dy, dx), ("roll", dy, dx), one after another; none of them is the identity.
View = tuple[Move, ...]

_WORDS = (
    "A view moves pixels: 'identity', 'mirror', 'shift:DY,DX' (zeros come in) or 'roll:DY,DX' "
    "(around the border), or several joined by '+', 'mirror+shift:0,1' for example. What repeats "
    "or mixes pixels (edge or reflect padding, resizing, rotation) or changes colours can have a "
    "norm above 1, and the mean of softmax outputs or of votes does not have this network's bound."
)


def parse(views: Sequence[str]) -> tuple[View, ...]:
    """The moves of each view.

    Raises:
        TypeError: if `views` is no sequence of text.
        ValueError: if one of them is not a view, or is there twice.
    """
    is_sequence = isinstance(views, Sequence) and not isinstance(views, str)
    if not is_sequence or not all(isinstance(view, str) for view in views):
        raise TypeError(f"views is a sequence of text, ('identity', 'mirror'); got {views!r}.")
    moves = [[_move(word, view) for word in view.split("+")] for view in views]
    found = tuple(tuple(move for move in several if move) for several in moves)
    for number, view in enumerate(found):
        if view in found[:number]:
            raise ValueError(
                f"views has {views[number]!r} twice: it would count double in the mean. List each "
                "view once."
            )
    return found


def _move(word: str, view: str) -> Move | None:
    kind, _, numbers = word.strip().partition(":")
    if kind == "identity" and not numbers:
        return None
    if kind == "mirror" and not numbers:
        return ("mirror",)
    parts = numbers.split(",")
    try:
        is_whole = all(re.fullmatch(r"[-+]?[0-9]+", part.strip()) for part in parts)
        if kind not in ("shift", "roll") or len(parts) != 2 or not is_whole:
            raise ValueError
        return (kind, int(parts[0]), int(parts[1]))
    except ValueError:
        raise ValueError(f"views has {view!r}, which is no view. {_WORDS}") from None


def source_of_pixels(view: View, *, height: int, width: int) -> np.ndarray:
    """Which pixel each pixel of a view shows, (H, W) of row * W + column; -1 where it shows zero.

    No pixel is shown twice, so that the map from images to views has norm 1, or 0.

    Raises:
        ValueError: if a move is as long as the image.
    """
    source = np.arange(height * width).reshape(height, width)
    for kind, *distances in view:
        if kind == "mirror":
            source = source[:, ::-1]
            continue
        for axis, (by, side) in enumerate(zip(distances, source.shape, strict=True)):
            if abs(by) >= side:
                raise ValueError(
                    f"views moves an image by {by} pixels, but it has {side} in that direction: "
                    f"{kind}:{distances[0]},{distances[1]} of {height} x {width}. Move it by less."
                )
            source = np.roll(source, by, axis)
            if kind == "shift":
                gone = slice(by) if by >= 0 else slice(by, None)
                source = source.copy()
                source[(slice(None),) * axis + (gone,)] = -1
    shown = source[source >= 0]
    assert len(np.unique(shown)) == len(shown)
    return source


def stack(views: Sequence[str], x: Float[Array, "batch ..."]) -> Float[Array, "stacked ..."]:
    """All views of all images, view after view along the batch: (V n, H, W, C) of (n, H, W, C).

    Raises:
        TypeError: if `views` is no sequence of text.
        ValueError: if one of them is no view of such an image.
    """
    moved = parse(views)
    if x.ndim != 4:
        raise ValueError(
            f"views move pixels of images (batch, H, W, C), got shape {x.shape}. Leave views empty."
        )
    n, height, width, channels = x.shape
    pixels = x.reshape(n, height * width, channels)

    sources = [source_of_pixels(view, height=height, width=width).ravel() for view in moved]
    for number, source in enumerate(sources):
        if any(np.array_equal(source, earlier) for earlier in sources[:number]):
            raise ValueError(
                f"views has {views[number]!r} twice, in other words, for images of {height} x "
                f"{width}: it would count double in the mean. List each view once."
            )

    def look(source: np.ndarray) -> Array:
        if np.array_equal(source, np.arange(source.size)):
            return pixels
        seen = pixels[:, np.maximum(source, 0)]
        return jnp.where(jnp.asarray(source >= 0)[:, None], seen, jnp.zeros((), x.dtype))

    stacked = jnp.concatenate([look(source) for source in sources])
    return stacked.reshape(len(moved) * n, height, width, channels)


def mean(views: Sequence[str], values: Float[Array, "stacked ..."]) -> Float[Array, "batch ..."]:
    """The mean over views of what was computed of `stack(views, x)`: (n, ...) of (V n, ...)."""
    return jnp.mean(values.reshape(len(views), -1, *values.shape[1:]), axis=0)
