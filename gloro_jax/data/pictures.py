"""Photographs on disk, decoded when asked for: what stands for an array that memory cannot hold."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gloro_jax.platforms import memory

_AT_ONCE = 256  # records
_DIGEST = 16  # bytes kept of each SHA-256 over an evaluation image's pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Reads as an array (n, size, size, 3) of uint8 does: by a number, a slice, or many numbers.

    What comes out is the whole picture, its shorter side brought to 8/7 of `size` where the set
    holds that much, and of this the square in the middle. The order is that of `index`, and an
    image depends on nothing but its record.

    Attributes:
        shards: the files, in order.
        told: what contents.json says about the set.
        index: (n,) which record of all shards together each image is.
        size: height and width of what comes out, in pixels.
        digests: (records, 16) bytes of the SHA-256 of each record's pixels, where the set has
            them: a decoder that gives others is refused.
    """

    shards: tuple[Path, ...]
    told: dict[str, Any]
    index: np.ndarray
    size: int
    digests: np.ndarray | None = None

    dtype: ClassVar[Any] = np.dtype(np.uint8)
    ndim: ClassVar[int] = 4

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Pictures({self.shape}, read from {self.shards[0].parent})"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, size, size, 3)."""
        return len(self), self.size, self.size, 3

    def __getitem__(self, which: Any) -> np.ndarray:
        if isinstance(which, int | np.integer):
            return self[np.array([which])][0]
        size, side = self.size, self.told["shorter_side"]
        shorter = min(round(size * 8 / 7), max(side, size))
        return self._decoded(which, lambda picture, _: _middle(picture, shorter, size))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        needed = math.prod(self.shape)
        if needed > memory() / 2:
            raise ValueError(
                f"These {len(self)} photographs take {needed / 2**30:.0f} GiB as pixels, more than "
                "half of this machine's memory: take some of them, images[:1000] for example."
            )
        return np.asarray(self[:], dtype=dtype)

    def only(self, which: np.ndarray) -> "Pictures":
        """Some of the photographs, still on disk; `which` is a mask or numbers."""
        return dataclasses.replace(self, index=self.index[which])

    def random_crops(self, which: np.ndarray, *, area: float, seed: int, epoch: int) -> np.ndarray:
        """A random part of each picture, resized to (size, size): the random-resized-crop.

        An image's part depends on `seed`, `epoch` and its own record alone, so that batches are the
        same on any number of processes.

        Args:
            which: (k,) numbers of photographs.
            area: the part covers at least this share of the picture; its sides are as 3:4 to 4:3.
            seed: of the run.
            epoch: of the run.
        """

        def cut(picture: Any, record: int) -> Any:
            rng = np.random.default_rng((seed, epoch, record))
            box = random_box(picture.size, area=area, rng=rng)
            return part(picture, box, self.size)

        return self._decoded(which, cut)

    def keys(self) -> Iterator[bytes]:
        """The SHA-256 of each photograph as it is stored, in order."""
        for start in range(0, len(self), _AT_ONCE):
            records = self.index[start : start + _AT_ONCE]
            for raw in self._records.__getitems__([int(record) for record in records]):
                yield hashlib.sha256(raw).digest()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the pixels: shards, choice, size and decoder."""
        files = {shard.name: self.told["files"][shard.name] for shard in self.shards}
        words = json.dumps([files, self.told["shorter_side"], self.size, decoder()], sort_keys=True)
        return hashlib.sha256(words.encode() + self.index.astype("<i8").tobytes()).hexdigest()

    @functools.cached_property
    def _records(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource([str(shard) for shard in self.shards])

    def _decoded(self, which: Any, cut: Callable[[Any, int], Any]) -> np.ndarray:
        records = self.index[which]
        out = np.empty((len(records), self.size, self.size, 3), np.uint8)
        if not len(records):
            return out

        def one(place: int, raw: bytes) -> None:
            record = int(records[place])
            picture = self._picture(raw, record)
            out[place] = np.asarray(cut(picture, record))

        raws = self._records.__getitems__([int(record) for record in records])
        # Pillow gives the interpreter's lock back while it decodes, so threads use all cores.
        list(_threads().map(one, range(len(records)), raws))
        return out

    def _picture(self, raw: bytes, record: int) -> Any:
        from PIL import Image

        try:
            picture = Image.open(io.BytesIO(raw))
            picture = picture if picture.mode == "RGB" else picture.convert("RGB")
            picture.load()
        except Exception as error:  # Pillow raises what the codec raises
            raise ValueError(
                f"Record {record} of {self.shards[0].parent} is damaged ({error}). Prepare the set "
                "again: gloro-jax data prepare NAME --overwrite."
            ) from None
        if self.digests is not None and digest(picture) != self.digests[record].tobytes():
            raise ValueError(
                f"Record {record} of {self.shards[0].parent} decodes to other pixels than when the "
                f"set was prepared, with {self.told['decoder']}; this is {decoder()}. Certificates "
                "are about pixels: install that version, or prepare the set again."
            )
        return picture


def random_box(
    size: tuple[int, int], *, area: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A part of a picture: (left, top, right, bottom), of at least `area` of it.

    Ten draws of area and proportion; if none fits, the largest part in the middle whose sides are
    within 3:4 and 4:3.
    """
    width, height = size
    for _ in range(10):
        pixels = width * height * rng.uniform(area, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return int(left), int(top), int(left) + w, int(top) + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def digest(picture: Any) -> bytes:
    """Some bytes of the SHA-256 over a picture's size and pixels."""
    size = f"{picture.size} {picture.mode} ".encode()
    return hashlib.sha256(size + picture.tobytes()).digest()[:_DIGEST]


@functools.cache
def decoder() -> str:
    """Which library turns JPEG files into pixels here: libraries differ."""
    import PIL
    from PIL import features

    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"


def with_shorter_side(picture: Any, side: int) -> Any:
    """The whole picture, its shorter side `side` pixels long."""
    width, height = picture.size
    if min(width, height) == side:
        return picture
    scale = side / min(width, height)
    return part(picture, (0, 0, width, height), (round(height * scale), round(width * scale)))


def _middle(picture: Any, shorter: int, size: int) -> Any:
    picture = with_shorter_side(picture, shorter)
    left, top = (picture.size[0] - size) // 2, (picture.size[1] - size) // 2
    return picture.crop((left, top, left + size, top + size))


def part(picture: Any, box: tuple[int, int, int, int], size: int | tuple[int, int]) -> Any:
    """A part of a picture, resized, with the average where it shrinks."""
    from PIL import Image

    height, width = (size, size) if isinstance(size, int) else size
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    import joblib

    # The cores that this process was granted, which may be fewer than the machine has.
    return concurrent.futures.ThreadPoolExecutor(joblib.cpu_count(), "decoding")
