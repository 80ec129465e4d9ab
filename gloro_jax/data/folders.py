"""Trees of images, FOLDER/SPLIT/CLASS/image, checked before one byte is written."""

import collections
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from gloro_jax.data.imagenet import Listed, Member, is_imagenet, list_imagenet
from gloro_jax.data.images import SUFFIXES, Looks, decoded, loaded, look, opened
from gloro_jax.data.store import Examples

_SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "val": "test", "valid": "test", "validation": "test",
}  # fmt: skip
_ANNOTATIONS = "val_annotations.txt"  # of Tiny-ImageNet: file, class, and a box, by tabs
# What operating systems leave in folders, beside names that begin with a dot.
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}

Files = list[tuple[Path, int]]


def read_folders(
    folder: Path, *, resize: tuple[int, int] | None
) -> tuple[dict[str, Examples], tuple[str, ...], tuple[int, int, int]]:
    """The splits of a tree, its class names, and the shape of its images.

    Grey images become one channel if all are grey, otherwise all become RGB. Images are stored
    as they are where that loses nothing, as PNG otherwise: upright, and flat on white.
    Tiny-ImageNet is read as its archive lays it out; its unlabelled test images are left out.

    Raises:
        FileNotFoundError: if the folder is not there.
        ValueError: if there is no train and test folder, a class has no training images, a folder
            holds something else, sizes differ, or a file is no image; each is named.
    """
    files, class_names = listed(folder)
    looks = {path: look(path) for pairs in files.values() for path, _ in pairs}
    size = resize or _one_size(folder, looks)
    shape = (*size, max(one.channels for one in looks.values()))
    splits = {
        split: Examples(len(pairs), _encoding(pairs, looks, shape))
        for split, pairs in files.items()
    }
    return splits, class_names, shape


def listed(folder: Path) -> tuple[dict[str, Listed], tuple[str, ...]]:
    """The files of each split with their labels, and the class names; no file is opened.

    Raises:
        FileNotFoundError: if the folder is not there.
        ValueError: if there is no train and test folder, a class has no training images, or a
            folder holds something else.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder (and does not end in .npz).")
    if is_imagenet(folder) and not _has_class_folders(folder / "val"):
        return list_imagenet(folder)
    files, class_names = _tiny(folder) if _is_tiny(folder) else _tree(folder)
    return {split: list(pairs) for split, pairs in files.items()}, class_names


def _has_class_folders(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in _entries(folder))


def _tree(folder: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    found = _find_splits(folder)
    class_names = _class_names(found)
    files = {
        split: [
            (image, label)
            for label, name in enumerate(class_names)
            for image in _images(path / name, may_be_empty=split == "test")
        ]
        for split, path in found.items()
    }
    if not files["test"]:
        raise ValueError(f"{found['test']} holds no image in any of its class folders.")
    return files, class_names


def _is_tiny(folder: Path) -> bool:
    return (folder / "val" / _ANNOTATIONS).is_file()


def _tiny(folder: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Tiny-ImageNet: train/CLASS/images, and val/images with a list of their classes."""
    train = folder / "train"
    if not train.is_dir():
        raise ValueError(f"{folder} has a val folder as Tiny-ImageNet has it, and no train folder.")
    class_names = tuple(sorted(path.name for path in _entries(train) if path.is_dir()))
    label_of = {name: label for label, name in enumerate(class_names)}
    files: dict[str, Files] = {
        "train": [(p, label_of[n]) for n in class_names for p in _images(train / n / "images")],
        "test": [],
    }
    annotations = folder / "val" / _ANNOTATIONS
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        name, label, *_ = [*line.split("\t"), "", ""]
        image = folder / "val" / "images" / name
        if label not in label_of or not name or not image.is_file():
            raise ValueError(
                f"{annotations}, line {number}: {name!r} of class {label!r}. The image must be in "
                "val/images and its class be a folder of train."
            )
        files["test"].append((image, label_of[label]))
    if not files["test"]:
        raise ValueError(f"{annotations} names no image.")
    return files, class_names


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order, without what operating systems left there."""
    found = [p for p in folder.iterdir() if not p.name.startswith(".")]
    return sorted(path for path in found if path.name.lower() not in _LITTER)


def _find_splits(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in (p for p in _entries(folder) if p.is_dir() and p.name.lower() in _SPLITS):
        split = _SPLITS[path.name.lower()]
        other = found.setdefault(split, path)
        if other != path:
            raise ValueError(
                f"{folder} has {other.name} and {path.name}, and only one can be {split}. "
                "Validation is carved out of train; move the other folder away."
            )
    missing = {"train", "test"} - found.keys()
    if missing:
        raise ValueError(
            f"{folder} has no {' and no '.join(sorted(missing))} folder. The tree is "
            "FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png (test may be called val)."
        )
    return {split: found[split] for split in ("train", "test")}


def _class_names(found: dict[str, Path]) -> tuple[str, ...]:
    """Those of train; test may lack some."""
    for path in found.values():
        loose = [p for p in _entries(path) if p.is_file() and p.suffix.lower() in SUFFIXES]
        if loose:
            raise ValueError(
                f"{loose[0]} lies in no class folder, so that its class is not known. Move it into "
                "one, or away."
            )
    classes = {
        split: {p.name for p in _entries(path) if p.is_dir()} for split, path in found.items()
    }
    if unknown := sorted(classes["test"] - classes["train"]):
        raise ValueError(
            f"{found['test']} has the class folders {', '.join(unknown[:5])}"
            f"{', ...' * (len(unknown) > 5)}, which {found['train']} does not have "
            f"({', '.join(sorted(classes['train'])[:5])}{', ...' * (len(classes['train']) > 5)}): "
            "what was never trained cannot be predicted. Move them away, or give them training "
            "images."
        )
    if len(classes["train"]) < 2:
        raise ValueError(f"{found['train']} needs at least 2 class folders.")
    are_numbers = all(name.isdecimal() for name in classes["train"])
    # 01 and 1 are one number; their own order decides then.
    return tuple(sorted(sorted(classes["train"]), key=int if are_numbers else None))


def _images(folder: Path, *, may_be_empty: bool = False) -> list[Path]:
    files = _entries(folder) if folder.is_dir() else []
    strange = [p for p in files if p.suffix.lower() not in SUFFIXES]
    if strange or not (files or may_be_empty):
        what = f"{strange[0].name}, which is no image file" if strange else "no image"
        raise ValueError(
            f"{folder} holds {what}. A class folder holds images only "
            f"({', '.join(sorted(SUFFIXES))})."
        )
    return files


def _one_size(folder: Path, looks: dict[Path | Member, Looks]) -> tuple[int, int]:
    sizes = [look.size for look in looks.values()]
    usual = collections.Counter(sizes).most_common(1)[0][0]
    odd = [path for path, look in looks.items() if look.size != usual]
    if odd:
        shown = ", ".join(f"{_inside(p, folder)} is {looks[p].size}" for p in odd[:5])
        raise ValueError(
            f"Images have one size; most are {usual} (height, width), but {shown}"
            f"{', ...' if len(odd) > 5 else ''} ({len(odd)} such images). Resize all with "
            f"--resize {usual[0]} {usual[1]}."
        )
    return usual


def _inside(path: Path | Member, folder: Path) -> Path | Member:
    return path.relative_to(folder) if isinstance(path, Path) else path


def _encoding(
    pairs: Listed, looks: dict[Path | Member, Looks], shape: tuple[int, int, int]
) -> Callable[[], Iterator[tuple[bytes, int]]]:
    height, width, channels = shape

    def encoded() -> Iterator[tuple[bytes, int]]:
        for path, label in pairs:
            if looks[path] == ((height, width), channels, True):
                with opened(path) as image:
                    loaded(path, image)
                yield path.read_bytes(), label
                continue
            buffer = io.BytesIO()
            decoded(path, size=(height, width), channels=channels).save(buffer, "png")
            yield buffer.getvalue(), label

    return encoded
