"""ImageNet as it is handed out: ILSVRC2012's archives, or Kaggle's folders, unpacked or not.

    ILSVRC2012_img_train.tar  ILSVRC2012_img_val.tar  ILSVRC2012_devkit_t12.tar.gz
    ILSVRC/Data/CLS-LOC/train/CLASS/*.JPEG  ILSVRC/Data/CLS-LOC/val/*.JPEG  LOC_val_solution.csv
    train/CLASS/*.JPEG  val/*.JPEG  and the devkit's archive or Kaggle's table

Archives are read in place. Classes are the WordNet numbers in alphabetical order, as everywhere.
"""

import csv
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_TRAIN, _VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_DEVKIT, _TABLE = "ILSVRC2012_devkit_t12.tar.gz", "LOC_val_solution.csv"
_KAGGLE = Path("ILSVRC/Data/CLS-LOC")
_BLOCK = 512  # of zeros, at an archive's end


class Member(NamedTuple):
    """A file inside a tar archive, of which it is read without unpacking.

    Attributes:
        archive: the archive.
        name: of the file in it.
        offset: where its bytes begin.
        size: how many there are.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"

    def read_bytes(self) -> bytes:
        """The file's bytes."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def stat(self) -> os.stat_result:
        """That of the archive."""
        return self.archive.stat()


Listed = list[tuple[Path | Member, int]]


def is_imagenet(folder: Path) -> bool:
    """Whether a folder holds ImageNet with its validation images in one heap."""
    return any((folder / name).exists() for name in (_TRAIN, _VAL, _DEVKIT, _TABLE, _KAGGLE))


def list_imagenet(folder: Path) -> tuple[dict[str, Listed], tuple[str, ...]]:
    """The pictures of both splits with their labels, and the class names.

    Raises:
        ValueError: if a part is missing or cut short, or a validation picture has no class; it is
            named.
    """
    train = dict(_train(folder))
    names = tuple(sorted(train))
    if len(names) < 2:
        raise ValueError(f"The training images of {folder} are in fewer than 2 classes.")
    label_of = {name: label for label, name in enumerate(names)}
    truth, pictures = _truth(folder), _val(folder)
    test: Listed = []
    for stem, picture in sorted(pictures.items()):
        name = truth.get(stem)
        if name not in label_of:
            raise ValueError(
                f"{picture}: its class is {name!r}, and must be one that has training images. "
                f"Take {_DEVKIT} or {_TABLE} of the same release."
            )
        test.append((picture, label_of[name]))
    every: Listed = [(picture, label_of[name]) for name in names for picture in train[name]]
    return {"train": every, "test": test}, names


def _train(folder: Path) -> Iterator[tuple[str, list[Path | Member]]]:
    """Each class and its pictures."""
    archive = folder / _TRAIN
    if archive.is_file():
        with _opened(archive) as outer:
            for entry in outer:
                inside = outer.extractfile(entry)
                if inside is None:
                    continue
                with tarfile.open(fileobj=inside) as inner:
                    found = [
                        Member(archive, m.name, entry.offset_data + m.offset_data, m.size)
                        for m in inner
                        if m.isfile()
                    ]
                yield Path(entry.name).stem, sorted(found, key=lambda one: one.name)
        return
    place = _part(folder, "train")
    for path in sorted(p for p in place.iterdir() if p.is_dir()):
        yield path.name, _jpegs(path)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """An archive.

    Raises:
        ValueError: if it is none, or not all of one: it ends otherwise than an archive does.
    """
    try:
        with tarfile.open(archive) as file:
            yield file
            stream: Any = file.fileobj
            stream.seek(file.offset)
            if not stream.read(_BLOCK) == bytes(_BLOCK):
                raise EOFError("it ends too early")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{archive} is damaged, or was not downloaded to its end ({error}). Download it again, "
            "and compare its length or checksum with the site's."
        ) from None


def _val(folder: Path) -> dict[str, Path | Member]:
    """Each validation picture by the name that the truth knows it by."""
    archive = folder / _VAL
    if archive.is_file():
        with _opened(archive) as outer:
            members = [m for m in outer if m.isfile()]
        return {Path(m.name).stem: Member(archive, m.name, m.offset_data, m.size) for m in members}
    return {Path(str(path)).stem: path for path in _jpegs(_part(folder, "val"))}


def _truth(folder: Path) -> dict[str, str]:
    """The class of each validation picture."""
    table, devkit = folder / _TABLE, folder / _DEVKIT
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        try:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        except (KeyError, IndexError, AttributeError):
            raise ValueError(
                f"{table} is no table of ImageId and PredictionString, a class and boxes in each "
                "line: take Kaggle's own."
            ) from None
    if devkit.is_file():
        return _from_devkit(devkit)
    raise ValueError(
        f"{folder} says nowhere which classes the validation images have. Put {_DEVKIT} of "
        f"ImageNet's site, or {_TABLE} of Kaggle's, there."
    )


def _from_devkit(devkit: Path) -> dict[str, str]:
    import scipy.io

    with _opened(devkit) as archive:
        files = {Path(m.name).name: m for m in archive if m.isfile()}
        try:
            meta = archive.extractfile(files["meta.mat"])
            truth = archive.extractfile(files["ILSVRC2012_validation_ground_truth.txt"])
        except KeyError as missing:
            raise ValueError(f"{devkit} has no {missing}: it is another archive.") from None
        assert meta  # both are files
        assert truth
        synsets = scipy.io.loadmat(io.BytesIO(meta.read()), squeeze_me=True)["synsets"]
        names = {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets}
        numbers = [int(line) for line in truth.read().split()]
    return {f"ILSVRC2012_val_{i:08}": names[number] for i, number in enumerate(numbers, start=1)}


def _part(folder: Path, split: str) -> Path:
    for place in (folder / _KAGGLE / split, folder / split):
        if place.is_dir():
            return place
    raise ValueError(
        f"{folder} has no {split} images: {_TRAIN if split == 'train' else _VAL}, a folder "
        f"{_KAGGLE}/{split}, or a folder {split}."
    )


def _jpegs(folder: Path) -> list[Path | Member]:
    found = [p for p in folder.iterdir() if p.suffix.lower() in (".jpeg", ".jpg")]
    if not found:
        raise ValueError(f"{folder} holds no .JPEG image.")
    return sorted(found)
