"""Looking at a data set: counts, pixel statistics, and a contact sheet."""

import dataclasses
from pathlib import Path

import numpy as np

from gloro_jax.data.dataset import Dataset, Split
from gloro_jax.data.extra import keys
from gloro_jax.data.photographs.pictures import Pictures

_GAP, _MARGIN = 2, 90
_SAMPLE = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Numbers about one split.

    Attributes:
        count: examples.
        per_class: (m,) examples of each class.
        mean: (C,) over all pixels in [0, 1].
        std: (C,) likewise.
    """

    count: int
    per_class: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def statistics(split: Split, *, num_classes: int) -> Statistics:
    """Counts and pixel statistics, exact for uint8; of photographs on disk from a sample."""
    scale = 255.0 if split.images.dtype == np.uint8 else 1.0
    images = split.images
    if isinstance(images, Pictures):  # a sample, evenly spread
        images = images[:: max(1, len(images) // _SAMPLE)]
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64) / scale
    # Image by image, so that no second copy of the split is made in float64.
    squares = sum(np.square(i / scale, dtype=np.float64).mean(axis=(0, 1)) for i in images)
    variance = np.asarray(squares) / len(images) - mean**2
    counts = np.bincount(split.labels, minlength=num_classes)
    return Statistics(len(split), counts, mean, np.sqrt(np.maximum(variance, 0.0)))


def repeated(split: Split, *, of: Split) -> int:
    """How many images of a split are, pixel for pixel, among those of another.

    Of photographs on disk, those whose digests say so cannot be told cheaply: -1.
    """
    if isinstance(of.images, Pictures):
        return -1
    there = set(keys(of))
    return sum(key in there for key in keys(split))


def contact_sheet(data: Dataset, path: Path, *, columns: int = 16) -> None:
    """Writes a PNG: one row per class with its name, and the first `columns` training images."""
    from PIL import Image, ImageDraw

    height, width, _ = data.input_shape
    scale = max(1, round(48 / max(height, width)))
    cell = (height * scale + _GAP, width * scale + _GAP)
    rows = min(data.num_classes, 100)
    sheet = Image.new("RGB", (_MARGIN + columns * cell[1], rows * cell[0]), "white")
    draw = ImageDraw.Draw(sheet)
    for label in range(rows):
        top = label * cell[0]
        draw.text((4, top + cell[0] // 2 - 6), data.class_names[label][:14], fill="black")
        for column, image in enumerate(_first(data.train, label, columns)):
            tile = Image.fromarray(_as_rgb(image)).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            sheet.paste(tile, (_MARGIN + column * cell[1], top))
    sheet.save(path)


def _first(split: Split, label: int, count: int) -> np.ndarray:
    return split.images[np.nonzero(split.labels == label)[0][:count]]


def _as_rgb(image: np.ndarray) -> np.ndarray:
    pixels = image if image.dtype == np.uint8 else np.round(image * 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]
