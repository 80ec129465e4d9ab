"""Photographs on disk, decoded when asked for: what stands for an array that memory cannot hold."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gloro_jax.data.photographs.decoding import Middle, RandomPart, Records, decoded, decoder
from gloro_jax.platforms import memory

_AT_ONCE = 256  # records


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
        return decoded(self._records(which), Middle(size, shorter))

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
        cut = RandomPart(self.size, area=area, seed=seed, epoch=epoch)
        return decoded(self._records(which), cut)

    def keys(self) -> Iterator[bytes]:
        """The SHA-256 of each photograph as it is stored, in order."""
        for start in range(0, len(self), _AT_ONCE):
            for raw in self._records(slice(start, start + _AT_ONCE)).raw():
                yield hashlib.sha256(raw).digest()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the pixels: shards, choice, size and decoder."""
        files = {shard.name: self.told["files"][shard.name] for shard in self.shards}
        words = json.dumps([files, self.told["shorter_side"], self.size, decoder()], sort_keys=True)
        return hashlib.sha256(words.encode() + self.index.astype("<i8").tobytes()).hexdigest()

    def _records(self, which: Any) -> Records:
        numbers = self.index[which]
        digests = None if self.digests is None else self.digests[numbers]
        return Records(self.shards, numbers, digests, self.told["decoder"])
