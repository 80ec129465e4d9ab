"""Image files as people see them: upright, flat on white, grey where they are grey."""

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gloro_jax.data.imagenet import Member

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
# Pillow reads some images of 16 bits per channel as 8 bits, and only its decoders know.
_WIDE = re.compile(r";16[BLNS]")
_ORIENTATION = 0x0112
_WIDEST_PPM = 255


class Looks(NamedTuple):
    """What an image is, before it is decoded.

    Attributes:
        size: (height, width), upright.
        channels: 1 or 3.
        is_plain: a PNG or JPEG whose bytes decode to just that.
    """

    size: tuple[int, int]
    channels: int
    is_plain: bool


def look(path: Path | Member) -> Looks:
    """What the image file holds.

    Raises:
        ValueError: if it is none, an animation, or has more than 8 bits per channel; it is named.
    """
    with opened(path) as image:
        if image.mode not in _MODES or _is_wide(image):
            raise ValueError(
                f"{path} has pixels of mode {image.mode}{' with 16 bits' * _is_wide(image)}; "
                "images have 8 bits per channel. Save it as an 8-bit PNG first."
            )
        # Cameras put a preview behind the picture and call that MPO.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ValueError(
                f"{path} is an animation of {image.n_frames} images; images are still. Save the "
                "one that is meant as a PNG."
            )
        turns = _turns(path, image)
        width, height = image.size
        size = (width, height) if turns in (5, 6, 7, 8) else (height, width)
        is_plain = (
            image.format in ("PNG", "JPEG")
            and image.mode in ("L", "RGB")
            and turns not in range(2, 9)
            and not image.has_transparency_data
        )
        return Looks(size, 1 if _is_grey(path, image) else 3, is_plain)


def decoded(path: Path | Member, *, size: tuple[int, int], channels: int) -> Any:
    """The picture upright, flat on white, resized, with 1 or 3 channels: a Pillow image."""
    picture = flat(path, channels=channels)
    height, width = size
    return picture if picture.size == (width, height) else picture.resize((width, height))


def flat(path: Path | Member, *, channels: int, side: int | None = None) -> Any:
    """The picture upright, flat on white, with 1 or 3 channels: a Pillow image.

    Where `side` is given, a JPEG may come out smaller, its sides at least twice `side`: its decoder
    then does less.
    """
    from PIL import Image, ImageOps

    with opened(path) as image:
        if side is not None and min(image.size) > 4 * side:
            image.draft(None, (2 * side, 2 * side))
        loaded(path, image)
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception as error:  # of a turned picture it writes the other tags anew
            raise ValueError(f"{path} has EXIF tags that are none: {error}.") from None
        if upright.has_transparency_data:
            colours = upright.convert("RGBA")
            white = Image.new("RGBA", colours.size, "white")
            upright = Image.alpha_composite(white, colours)
        mode = "L" if channels == 1 else "RGB"
        # Grey of a palette is read as colour and then as grey, which rounds to what it was.
        plain = upright.convert("RGB") if upright.mode not in ("1", "L") else upright
        return plain.convert(mode)


def opened(path: Path | Member) -> Any:
    """The file as a Pillow image, not yet decoded; a ValueError if it is none."""
    from PIL import Image

    try:
        return Image.open(path if isinstance(path, Path) else io.BytesIO(path.read_bytes()))
    except Exception as error:
        raise ValueError(f"{path} cannot be opened as an image: {error}.") from None


def loaded(path: Path | Member, image: Any) -> None:
    """Decodes; a ValueError if the file is damaged."""
    try:
        image.load()
    except Exception as error:  # Pillow raises what the codec raises
        raise ValueError(f"{path} is a damaged image: {error}.") from None


def _turns(path: Path | Member, image: Any) -> int:
    """How the camera was held, as EXIF counts it: 1 for upright."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow may decode for it, and raises what the codec raises
        raise ValueError(f"{path} is a damaged image: {error}.") from None


def _is_wide(image: Any) -> bool:
    arguments = [tile[3] for tile in image.tile]
    if image.format == "PPM":
        numbers = [n for a in arguments if isinstance(a, tuple) for n in a if isinstance(n, int)]
        return any(number > _WIDEST_PPM for number in numbers[-1:])
    return any(_WIDE.search(str(argument)) for argument in arguments)


def _is_grey(path: Path | Member, image: Any) -> bool:
    """Whether it has no colour; a palette is looked up where it is used."""
    if image.mode in ("1", "L", "LA"):
        return True
    if image.mode not in ("P", "PA"):
        return False
    loaded(path, image)
    used = np.unique(np.asarray(image.getchannel(0) if image.mode == "PA" else image))
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colours = palette[used[used < len(palette)]]
    return bool((colours == colours[:, :1]).all())
