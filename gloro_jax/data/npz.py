"""Data sets in one .npz file: x_train, y_train, x_test, y_test, perhaps class_names."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gloro_jax.data.dataset import Split
from gloro_jax.platforms import memory

# What NumPy raises on a file that is cut, altered, or something else altogether.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, AttributeError, MemoryError,
    NotImplementedError, RuntimeError,
)  # fmt: skip
# Of the machine's memory, what arrays may take: splits are copied, and a batch needs room.
_SHARE_OF_MEMORY = 0.5
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


class TooLargeError(ValueError):
    """A file whose arrays would not fit into memory."""


def is_npz(source: str) -> bool:
    """Whether a data source is a file of arrays rather than the name of a prepared set."""
    return source.endswith(".npz")


def read_npz(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """The splits in a file, checked, and its class names, if it has any.

    Images are (n, H, W, C), or (n, H, W) for one channel; labels (n,) or (n, 1). Pickled objects
    are never loaded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or arrays are missing or do not fit; the file is named.
        TypeError: if an array has the wrong type.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there.")
    arrays = _load(path)
    splits: Arrays = {}
    for split in ("train", "test"):
        images, labels = arrays.get(f"x_{split}"), arrays.get(f"y_{split}")
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            raise ValueError(f"{path} has one of x_{split} and y_{split}, and needs both.")
        splits[split] = _checked(images, labels, where=f"{path}, {split}")
    if not splits:
        raise ValueError(
            f"{path} holds {sorted(arrays) or 'nothing'}. A data set is x_train, y_train, x_test "
            "and y_test (to certify, x_test and y_test are enough)."
        )
    names = arrays.get("class_names")
    return splits, () if names is None else tuple(str(name) for name in names.ravel())


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Any]:
    """NumPy's view of an .npz file, whose arrays are read when asked for and never unpickled.

    Raises:
        ValueError: if it is no zip archive; NumPy would speak of pickles. Reading damaged arrays
            raises errors of many types.
        TooLargeError: if its arrays would not fit into memory.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive")
    _check_size(path)
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        yield file


def _check_size(path: Path) -> None:
    """Looks at what the archive says it holds, before one array is unpacked."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    limit = memory() * _SHARE_OF_MEMORY
    if unpacked > limit:
        raise TooLargeError(
            f"{path} takes {unpacked / 2**30:.1f} GiB unpacked, and there are "
            f"{limit / 2**30:.1f} GiB of memory for it here. Store images as uint8, make them "
            "smaller, or take a machine with more memory."
        )


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_npz(path) as file:
            arrays = {name: file[name] for name in file.files}
        strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        if strange:
            raise ValueError(f"{strange[0]} is no array")
        return arrays
    except TooLargeError:
        raise
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is damaged, or no .npz file of plain arrays ({error}). Write it with "
            "np.savez(file, x_train=..., y_train=..., x_test=..., y_test=...)."
        ) from None


def _checked(
    images: np.ndarray, labels: np.ndarray, *, where: str
) -> tuple[np.ndarray, np.ndarray]:
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    try:
        Split(images, labels)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
    return images, labels
