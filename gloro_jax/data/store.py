"""Prepared sets on disk: tensorflow-datasets in array_record, written and read without TensorFlow.

    DIRECTORY/gloro_images/NAME/1.0.0/    what tensorflow-datasets writes, and contents.json

One schema serves every set: `image`, uint8 (H, W, C) as PNG or JPEG, and `label`. The version is
ours and apart from that of the stock builders. contents.json is written last, with the SHA-256 of
each file, and the finished folder is moved into place: a folder without it is never read.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from etils import epath

from gloro_jax.data.npz import Arrays
from gloro_jax.paths import Place, locked, place
from gloro_jax.platforms import memory

P = TypeVar("P", Path, epath.Path, Place)

VERSION = "1.0.0"
_BUILDER, _CONTENTS, _PREPARING = "gloro_images", "contents.json", ".preparing-"


@dataclasses.dataclass(frozen=True)
class Examples:
    """One split to be written.

    Attributes:
        count: how many examples `encoded` yields.
        encoded: makes an iterator of (PNG or JPEG bytes, label).
    """

    count: int
    encoded: Callable[[], Iterator[tuple[bytes, int]]]


def data_directory(directory: str | None = None) -> Place:
    """Where prepared sets are: `directory`, $TFDS_DATA_DIR, or ~/tensorflow_datasets.

    It may be in a bucket, gs://BUCKET/DATA; `gloro_jax.data.mirror` copies what is read.
    """
    chosen = place(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return chosen.resolve() if isinstance(chosen, Path) else chosen


def set_folder(name: str, directory: P) -> P:
    """The folder of one prepared set."""
    return directory / _BUILDER / name / VERSION


def contents_file(name: str, directory: P) -> P:
    """What is written last, and makes a folder a set."""
    return set_folder(name, directory) / _CONTENTS


def is_prepared(name: str, directory: Place) -> bool:
    """Whether a set was prepared to its end."""
    return contents_file(name, directory).is_file()


def prepared_names(directory: Place) -> list[str]:
    """The sets that can be read from `directory`."""
    folders = (directory / _BUILDER).glob(f"*/{VERSION}/{_CONTENTS}")
    return sorted(path.parent.parent.name for path in folders)


def contents(name: str, directory: Place) -> dict[str, Any]:
    """What contents.json says: splits, class names, image shape, source and file digests."""
    path = contents_file(name, directory)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}). {_again(name)}") from None
    kinds = {"splits": dict, "files": dict, "class_names": list, "image_shape": list}
    if not isinstance(told, dict) or any(not isinstance(told.get(k), t) for k, t in kinds.items()):
        raise ValueError(f"{path} cannot be read (it lacks {', '.join(kinds)}). {_again(name)}")
    if strange := [file for file in told["files"] if "\\" in file or file != Path(file).name]:
        raise ValueError(f"{path} lists {strange[0]!r}, which is no file beside it. {_again(name)}")
    return told


def read(name: str, directory: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Every split of a prepared set as uint8 images (n, H, W, C) and labels, and the class names.

    Raises:
        ValueError: if a file is missing or damaged (it is named), or the set exceeds memory.
    """
    folder, told = set_folder(name, directory), contents(name, directory)
    _check_memory(name, told)
    for file, digest in told["files"].items():
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            raise ValueError(f"{folder / file} is missing or damaged. {_again(name)}")
    with _quiet():
        # Our own builder: one made from the folder would import whatever class a file there names.
        shape, names = tuple(told["image_shape"]), tuple(told["class_names"])
        builder = _make_builder(name, directory, {}, names, shape)
        raw = {"image": _tfds().decode.SkipDecoding()}
        sources = {split: builder.as_data_source(split, decoders=raw) for split in told["splits"]}
        arrays = {split: _decode(source, shape) for split, source in sources.items()}
    return arrays, names


def write(
    name: str,
    directory: Path,
    splits: dict[str, Examples],
    *,
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int],
    source: str,
) -> Path:
    """Writes a set whole or not at all, and returns its folder; one that was there is replaced."""
    target = set_folder(name, directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _workplace(target.parent) as temporary:
        with _quiet():
            builder = _make_builder(name, temporary, splits, class_names, image_shape)
            builder.download_and_prepare()
        made = Path(builder.data_dir)
        files = {p.name: sha256(p) for p in sorted(made.iterdir())}
        told = {
            "source": source,
            "image_shape": image_shape,
            "class_names": class_names,
            "splits": {split: examples.count for split, examples in splits.items()},
            "files": files,
        }
        write_contents(made, told)
        if target.exists():
            target.rename(temporary / "replaced")
        made.rename(target)
    return target


def write_contents(folder: Path, told: dict[str, Any]) -> None:
    """Writes contents.json, without which a folder is no set."""
    (folder / _CONTENTS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """A folder to prepare in, on the file system of the set; those of killed ones are removed."""
    for left in parent.glob(f"{_PREPARING}*"):
        with contextlib.suppress(FileExistsError), locked(left, busy=""):
            shutil.rmtree(left, ignore_errors=True)
    making = tempfile.TemporaryDirectory(prefix=_PREPARING, dir=parent)
    with making as made, locked(Path(made), busy=f"{made} is being worked in."):
        yield Path(made)


def _make_builder(
    name: str,
    directory: Path,
    splits: dict[str, Examples],
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int],
) -> Any:
    tfds = _tfds()

    class GloroImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
        """Our one builder; each set is a configuration of it."""

        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(shape=image_shape, encoding_format=None),
                "label": tfds.features.ClassLabel(names=list(class_names)),
            }
            # In the order given, so that example i of a certificate is image i of the source.
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager
            return {split: self._generate_examples(e) for split, e in splits.items()}

        def _generate_examples(self, examples: Examples) -> Iterator[tuple[int, Any]]:
            for index, (image, label) in enumerate(examples.encoded()):
                yield index, {"image": image, "label": label}

    config = tfds.core.BuilderConfig(name=name, version=tfds.core.Version(VERSION))
    return GloroImages(data_dir=directory, config=config, file_format="array_record")


def _decode(source: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    images, labels = np.empty((len(source), *shape), np.uint8), np.empty(len(source), np.int64)
    for start in range(0, len(source), 4096):
        batch: Iterable[Any] = source.__getitems__(range(start, min(start + 4096, len(source))))
        for index, example in enumerate(batch, start):
            with Image.open(io.BytesIO(example["image"])) as image:
                images[index] = np.asarray(image).reshape(shape)
            labels[index] = example["label"]
    return images, labels


def _check_memory(name: str, told: dict[str, Any]) -> None:
    needed = sum(told["splits"].values()) * int(np.prod(told["image_shape"]))
    if needed > memory() / 2:
        raise ValueError(
            f"{name} takes {needed / 2**30:.0f} GiB as uint8, more than half of this machine's "
            f"{memory() / 2**30:.0f} GiB, and it would be held in memory. Prepare it to be "
            "read from disk, gloro-jax data prepare NAME --from FOLDER --shorter-side 256, or with "
            "smaller images (--resize)."
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _again(name: str) -> str:
    return (
        f"Prepare it again: gloro-jax data prepare {name} --overwrite. Where it is a copy of a set "
        "in a bucket, remove that folder, and it is copied again."
    )


def _tfds() -> Any:
    try:
        import array_record  # noqa: F401  # pyright: ignore[reportMissingImports]
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            f"Prepared sets need tensorflow-datasets and array_record ({error}), and array_record "
            "exists for Linux only. Train from a file instead: --data FILE.npz."
        ) from None
    return tensorflow_datasets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """tensorflow-datasets announces itself on both streams; our own bar says it better."""
    _tfds().disable_progress_bar()
    absl, level = logging.getLogger("absl"), logging.getLogger("absl").level
    absl.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.setLevel(level)
