"""Trees of images, FOLDER/SPLIT/CLASS/image, checked before one byte is written."""

import collections
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gloro_jax.data.store import Examples

_SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # transparency is dropped


class _Looks(NamedTuple):
    size: tuple[int, int]  # (height, width)
    channels: int
    is_plain: bool  # PNG or JPEG, in a mode that decodes to the stored shape


def read_folders(
    folder: Path, *, resize: tuple[int, int] | None
) -> tuple[dict[str, Examples], tuple[str, ...], tuple[int, int, int]]:
    """The splits of a tree, its class names, and the shape of its images.

    Grey images become one channel if all are grey, otherwise all become RGB. Images are stored
    as they are where that loses nothing, as PNG otherwise.

    Raises:
        FileNotFoundError: if the folder is not there.
        ValueError: if there is no train and test folder, classes differ between them, a folder
            is empty, sizes differ, or a file is no image; each is named.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder (and does not end in .npz).")
    found = _find_splits(folder)
    class_names = _class_names(found)
    files = {
        split: [(p, label) for label, name in enumerate(class_names) for p in _images(path / name)]
        for split, path in found.items()
    }
    everything = [path for pairs in files.values() for path, _ in pairs]
    looks = {path: _look(path) for path in everything}
    size = resize or _one_size(folder, looks)
    channels = max(look.channels for look in looks.values())
    shape = (*size, channels)
    splits = {
        split: Examples(len(pairs), _encoding(pairs, looks, shape))
        for split, pairs in files.items()
    }
    return splits, class_names, shape


def _find_splits(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name in _SPLITS):
        other = found.setdefault(_SPLITS[path.name], path)
        if other != path:
            raise ValueError(
                f"{folder} has {other.name} and {path.name}, and only one can be the test split. "
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
    classes = {
        split: {p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")}
        for split, path in found.items()
    }
    if classes["train"] != classes["test"]:
        only_train = sorted(classes["train"] - classes["test"])
        only_test = sorted(classes["test"] - classes["train"])
        raise ValueError(
            f"Class folders must match between splits: only in train {only_train or 'none'}, "
            f"only in test {only_test or 'none'}."
        )
    if len(classes["train"]) < 2:
        raise ValueError(f"{found['train']} needs at least 2 class folders.")
    are_numbers = all(name.isdecimal() for name in classes["train"])
    return tuple(sorted(classes["train"], key=int if are_numbers else None))


def _images(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    strange = [p for p in files if p.suffix.lower() not in _SUFFIXES]
    if strange or not files:
        what = f"{strange[0].name}, which is no image file" if strange else "no image"
        raise ValueError(f"{folder} holds {what}.")
    return files


def _look(path: Path) -> _Looks:
    with _opened(path) as image:
        is_wide = any("16" in str(tile[3]) for tile in image.tile)  # read as 8 bits by Pillow
        if image.mode not in _MODES or is_wide:
            raise ValueError(
                f"{path} has pixels of mode {image.mode}{' with 16 bits' * is_wide}; images have 8 "
                "bits per channel. Convert it first."
            )
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(
                f"{path} is an animation of {image.n_frames} images; images are still."
            )
        width, height = image.size
        is_grey = image.mode in ("1", "L")
        is_plain = image.format in ("PNG", "JPEG") and image.mode in ("L", "RGB")
        return _Looks((height, width), 1 if is_grey else 3, is_plain)


def _one_size(folder: Path, looks: dict[Path, _Looks]) -> tuple[int, int]:
    sizes = [look.size for look in looks.values()]
    usual = collections.Counter(sizes).most_common(1)[0][0]
    odd = [path for path, look in looks.items() if look.size != usual]
    if odd:
        shown = ", ".join(f"{p.relative_to(folder)} is {looks[p].size}" for p in odd[:5])
        raise ValueError(
            f"Images have one size; most are {usual} (height, width), but {shown}"
            f"{', ...' if len(odd) > 5 else ''} ({len(odd)} such images). Resize all with "
            f"--resize {usual[0]} {usual[1]}."
        )
    return usual


def _encoding(
    pairs: list[tuple[Path, int]], looks: dict[Path, _Looks], shape: tuple[int, int, int]
) -> Callable[[], Iterator[tuple[bytes, int]]]:
    height, width, channels = shape

    def encoded() -> Iterator[tuple[bytes, int]]:
        for path, label in pairs:
            with _opened(path) as image:
                try:
                    image.load()
                except Exception as error:  # Pillow raises what the codec raises
                    raise ValueError(f"{path} is a damaged image: {error}.") from None
                if looks[path] == ((height, width), channels, True):
                    yield path.read_bytes(), label
                    continue
                plain = image.convert("L" if channels == 1 else "RGB")
                resized = plain if plain.size == (width, height) else plain.resize((width, height))
                buffer = io.BytesIO()
                resized.save(buffer, "png")
                yield buffer.getvalue(), label

    return encoded


def _opened(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except Exception as error:
        raise ValueError(f"{path} cannot be opened as an image: {error}.") from None
