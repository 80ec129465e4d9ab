"""Preparing a set, once: from a stock builder, from an .npz file, or from folders of images."""

import importlib.util
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gloro_jax.data import mirror, store
from gloro_jax.data.dataset import check_classes
from gloro_jax.data.folders import read_folders
from gloro_jax.data.npz import Arrays, is_npz, read_npz
from gloro_jax.data.photographs.shards import prepare_shards
from gloro_jax.data.sources import STOCK
from gloro_jax.data.store import Examples
from gloro_jax.paths import Place

# Called with the number of examples written so far and the number there will be.
OnProgress = Callable[[int, int], None]

# Image shape and number of classes of the sets that can be downloaded.
_LOOKS = {
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "svhn_cropped": ((32, 32, 3), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
}

_CLASS_NAMES = {
    "fashion_mnist": "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot",
    "cifar10": "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck",
}


def prepare(
    name: str,
    *,
    source: Path | None = None,
    directory: Place,
    resize: tuple[int, int] | None = None,
    shorter_side: int | None = None,
    is_skipping_corrupt: bool = False,
    is_overwriting: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Place:
    """Writes the set `name`, whole or not at all.

    Args:
        name: what the set will be called: letters, digits, `_` and `-`.
        source: an .npz file or a tree FOLDER/train/CLASS/*, FOLDER/test/CLASS/*; None downloads a
            stock set, which takes TensorFlow (the extra `prepare`).
        directory: where prepared sets are. For one in a bucket, the set is prepared on this
            machine, where it stays as a copy (`gloro_jax.data.mirror`), and sent there.
        resize: (height, width) to bring the images of a folder to.
        shorter_side: for photographs that memory cannot hold: they are written as JPEG, their
            shorter side so many pixels long, and read from disk. A stopped preparation goes on.
        is_skipping_corrupt: with `shorter_side`, leave out what cannot be decoded.
        is_overwriting: whether to replace a set of that name.
        on_progress: told about progress.

    Returns:
        The folder of the set.

    Raises:
        ValueError: if the name, the source or an image is not usable; it is named.
        FileExistsError: if the set is there already.
        FileNotFoundError: if the source is not there.
    """
    _check_name(name)
    if store.is_prepared(name, directory) and not is_overwriting:
        raise FileExistsError(
            f"{name} is prepared already, in {store.set_folder(name, directory)}. "
            "Replace it with --overwrite."
        )
    if is_skipping_corrupt and shorter_side is None:
        raise ValueError("--skip-corrupt goes with --shorter-side.")
    if resize is not None and shorter_side is not None:
        raise ValueError(
            "--resize brings images to one size in memory, --shorter-side keeps photographs of "
            "many sizes on disk: give one of the two."
        )
    mine = mirror.here(directory)
    if shorter_side is not None:
        _as_shards(name, source, mine, shorter_side, is_skipping_corrupt, on_progress)
    else:
        _as_images(name, source, mine, resize, on_progress)
    if mine is not directory:
        mirror.send(name, directory)
    return store.set_folder(name, directory)


def _as_images(
    name: str,
    source: Path | None,
    directory: Path,
    resize: tuple[int, int] | None,
    on_progress: OnProgress,
) -> None:
    splits, class_names, shape = _read(name, source, resize)
    total = sum(examples.count for examples in splits.values())
    done = iter(range(1, total + 1))
    counted = {
        split: Examples(e.count, _counting(e, lambda: on_progress(next(done), total)))
        for split, e in splits.items()
    }
    store.write(
        name,
        directory,
        counted,
        class_names=class_names,
        image_shape=shape,
        source=str(source or "tensorflow-datasets"),
    )


def _read(
    name: str, source: Path | None, resize: tuple[int, int] | None
) -> tuple[dict[str, Examples], tuple[str, ...], tuple[int, int, int]]:
    """Splits, class names and image shape of what is to be prepared."""
    if source is not None and not is_npz(str(source)):
        found = read_folders(source, resize=resize)
    elif resize is not None:
        raise ValueError("--resize is for folders of images; arrays have their size already.")
    else:
        found = _from_arrays(name, *(read_npz(source) if source else _download(name)))
    if source is not None:
        _check_stock(name, source, found[2], len(found[1]))
    return found


def _as_shards(
    name: str,
    source: Path | None,
    directory: Path,
    side: int,
    is_skipping: bool,
    on_progress: OnProgress,
) -> None:
    if source is None or is_npz(str(source)):
        raise ValueError("--shorter-side is for folders of photographs: name one with --from.")
    if side < 8:
        raise ValueError(f"--shorter-side is at least 8 pixels, got {side}.")
    if name in _LOOKS:
        raise ValueError(f"{name} is a set of small images; call photographs by another name.")
    prepare_shards(
        name,
        source,
        directory=directory,
        side=side,
        is_skipping=is_skipping,
        on_progress=on_progress,
    )


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name == "digits":
        raise ValueError(
            f"A set is called by letters, digits, _ and -, and not digits; got {name!r}."
        )


def _check_stock(name: str, source: Path, shape: tuple[int, ...], classes: int) -> None:
    """Raises a ValueError if something else were to be called by a well-known set's name."""
    usual = _LOOKS.get(name, (shape, classes))
    if (shape, classes) != usual:
        raise ValueError(
            f"{name} has images of {usual[0]} (height, width, channels) and {usual[1]} classes, "
            f"{source} has {shape} and {classes}. Call it by a name of its own: "
            f"gloro-jax data prepare NAME --from '{source}'."
        )


def _from_arrays(
    name: str, arrays: Arrays, class_names: tuple[str, ...]
) -> tuple[dict[str, Examples], tuple[str, ...], tuple[int, int, int]]:
    shapes = {split: images.shape[1:] for split, (images, _) in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Every split has images of one shape, got {shapes}.")
    shape = next(iter(shapes.values()))
    for split, (images, _) in arrays.items():
        if images.dtype != np.uint8 or shape[2] not in (1, 3):
            raise ValueError(
                f"A prepared set holds uint8 images of 1 or 3 channels; {split} is {images.dtype} "
                f"of shape {images.shape}. An .npz file of float32 can be trained on as it is: "
                "--data FILE.npz."
            )
    classes = 1 + max(int(labels.max()) for _, labels in arrays.values())
    # Before names are made for as many classes as the largest label says.
    check_classes(arrays["train" if "train" in arrays else "test"][1], num_classes=classes)
    names = class_names or tuple(_CLASS_NAMES[name].split(",") if name in _CLASS_NAMES else ())
    if class_names and len(class_names) < classes:
        raise ValueError(
            f"class_names has one name per class: labels run to {classes - 1}, names {class_names}."
        )
    if len(names) < classes:
        names = tuple(str(label) for label in range(max(classes, 2)))
    splits = {
        split: Examples(len(images), _encoding(images, labels))
        for split, (images, labels) in arrays.items()
    }
    return splits, names, shape


def _encoding(images: np.ndarray, labels: np.ndarray) -> Callable[[], Iterator[tuple[bytes, int]]]:
    def encoded() -> Iterator[tuple[bytes, int]]:
        from PIL import Image

        for image, label in zip(images, labels, strict=True):
            buffer = io.BytesIO()
            plain = image[..., 0] if image.shape[2] == 1 else image
            Image.fromarray(plain).save(buffer, "png", compress_level=1)
            yield buffer.getvalue(), int(label)

    return encoded


def _counting(
    examples: Examples, count: Callable[[], None]
) -> Callable[[], Iterator[tuple[bytes, int]]]:
    def encoded() -> Iterator[tuple[bytes, int]]:
        for example in examples.encoded():
            yield example
            count()

    return encoded


def _download(name: str) -> tuple[Arrays, tuple[str, ...]]:
    """A stock set through its own builder, which takes TensorFlow and a network."""
    if name not in STOCK:
        raise ValueError(
            f"{name} is none of the sets that can be downloaded ({', '.join(STOCK)}): give its "
            "files with --from FILE.npz or --from FOLDER."
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"Downloading {name} takes TensorFlow, once: pip install "
            f"'gloro-jax[prepare]'. Without it: gloro-jax data prepare {name} --from FILE.npz."
        )
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as temporary:
        builder: Any = tfds.builder(name, data_dir=temporary, file_format="array_record")
        builder.download_and_prepare()
        arrays = {split: _collect(builder.as_data_source(split)) for split in ("train", "test")}
        return arrays, tuple(builder.info.features["label"].names)


def _collect(source: Any) -> tuple[np.ndarray, np.ndarray]:
    examples = [source[index] for index in range(len(source))]
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples], np.int64)
