"""From records to pixels: JPEG files decoded, checked and cut, by workers beside each other."""

import dataclasses
import functools
import hashlib
import io
import math
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gloro_jax.data.photographs import workers

_DIGEST = 16  # bytes kept of each SHA-256 over an evaluation image's pixels
_FEW = 32  # pictures are decoded by threads: not worth starting processes


class Cut(Protocol):
    """What becomes of a picture: pixels of (size, size), decided by its record alone."""

    @property
    def size(self) -> int:
        """Height and width of what comes out."""
        ...

    def __call__(self, picture: Any, record: int) -> Any:
        """The picture that the network sees."""
        ...


@dataclasses.dataclass(frozen=True)
class Middle:
    """The whole picture, its shorter side brought to `shorter`, and the square in its middle."""

    size: int
    shorter: int

    def __call__(self, picture: Any, record: int) -> Any:
        """That square."""
        picture = with_shorter_side(picture, self.shorter)
        left, top = (picture.size[0] - self.size) // 2, (picture.size[1] - self.size) // 2
        return picture.crop((left, top, left + self.size, top + self.size))


@dataclasses.dataclass(frozen=True)
class RandomPart:
    """The random-resized-crop; it depends on `seed`, `epoch` and the record alone."""

    size: int
    area: float
    seed: int
    epoch: int

    def __call__(self, picture: Any, record: int) -> Any:
        """That part."""
        rng = np.random.default_rng((self.seed, self.epoch, record))
        return part(picture, random_box(picture.size, area=self.area, rng=rng), self.size)


@dataclasses.dataclass(frozen=True)
class Records:
    """Records of some shards.

    Attributes:
        shards: the files, in order.
        numbers: (n,) which of all their records.
        digests: (n, 16) bytes of the SHA-256 of each one's pixels, where they are known: a decoder
            that gives others is refused.
        decoder: which one gave these pixels, in words.
    """

    shards: tuple[Path, ...]
    numbers: np.ndarray
    digests: np.ndarray | None
    decoder: str

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, some: slice) -> "Records":
        digests = None if self.digests is None else self.digests[some]
        return dataclasses.replace(self, numbers=self.numbers[some], digests=digests)

    def raw(self) -> list[bytes]:
        """The files as they are stored."""
        numbers = [int(number) for number in self.numbers]
        try:
            return _opened(self.shards).__getitems__(numbers) if numbers else []
        except RuntimeError as error:  # array_record's, of a file that is not as it was written
            raise ValueError(_damaged(str(self.shards[0].parent), error)) from None


def decoded(records: Records, cut: Cut) -> np.ndarray:
    """The pixels, (n, size, size, 3) of uint8.

    Raises:
        ValueError: if a record is damaged, or decodes to other pixels than its digest says.
        ChildProcessError: if a process that decodes was killed.
    """
    shape = (len(records), cut.size, cut.size, 3)
    if len(records) < _FEW:
        out = np.empty(shape, np.uint8)
        _fill(out, records, cut)
        return out
    share = -(-len(records) // (2 * workers.count()))
    shares = [slice(start, start + share) for start in range(0, len(records), share)]
    pool = workers.lasting()
    if not workers.are_processes():
        out = np.empty(shape, np.uint8)
        _done(pool.submit(_fill, out[s], records[s], cut) for s in shares)
        return out
    # Memory without a name, which the workers map through this process: nothing to clean up.
    handle = os.memfd_create("photographs")
    try:
        os.ftruncate(handle, math.prod(shape))
        out = np.frombuffer(mmap.mmap(handle, math.prod(shape)), np.uint8).reshape(shape)
        path = f"/proc/{os.getpid()}/fd/{handle}"
        _done(pool.submit(_fill_file, path, shape, s, records[s], cut) for s in shares)
        return out
    finally:
        os.close(handle)


def _done(shares: Iterable[workers.Task]) -> None:
    with workers.tasks(shares) as tasks:
        for task in tasks:
            task.result()


def _fill_file(path: str, shape: tuple[int, ...], where: slice, records: Records, cut: Cut) -> None:
    _fill(np.memmap(path, np.uint8, "r+", shape=shape)[where], records, cut)


def _fill(out: np.ndarray, records: Records, cut: Cut) -> None:
    for place, raw in enumerate(records.raw()):
        picture = _picture(raw, records, place)
        out[place] = np.asarray(cut(picture, int(records.numbers[place])))


def _damaged(name: str, why: Exception) -> str:
    way_out = "Prepare the set again: gloro-jax data prepare NAME --overwrite."
    return f"{name} is damaged ({why}). {way_out}"


@functools.lru_cache(maxsize=8)
def _opened(shards: tuple[Path, ...]) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([str(shard) for shard in shards])


def _picture(raw: bytes, records: Records, place: int) -> Any:
    from PIL import Image

    name = f"Record {records.numbers[place]} of {records.shards[0].parent}"
    try:
        picture = Image.open(io.BytesIO(raw))
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        picture.load()
    except Exception as error:  # Pillow raises what the codec raises
        raise ValueError(_damaged(name, error)) from None
    if records.digests is not None and digest(picture) != records.digests[place].tobytes():
        raise ValueError(
            f"{name} decodes to other pixels than when the set was prepared, with "
            f"{records.decoder}; this is {decoder()}. Certificates are about pixels: install that "
            "version, or prepare the set again."
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


def part(picture: Any, box: tuple[int, int, int, int], size: int | tuple[int, int]) -> Any:
    """A part of a picture, resized, with the average where it shrinks."""
    from PIL import Image

    height, width = (size, size) if isinstance(size, int) else size
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
