"""Opening data by name: the digits, prepared sets, and .npz files."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import numpy as np

from gloro_jax.data import mirror, store
from gloro_jax.data.dataset import DataConfig, Dataset, Split, from_arrays, stratified
from gloro_jax.data.extra import with_extra
from gloro_jax.data.npz import is_npz, read_npz
from gloro_jax.data.photographs import shards
from gloro_jax.paths import local

# Sets that `gloro-jax data prepare NAME` knows how to fetch through tensorflow-datasets.
STOCK = ("mnist", "fashion_mnist", "svhn_cropped", "cifar10", "cifar100")


def open_data(config: DataConfig | str) -> Dataset:
    """The data set that `config` names, validated, in memory.

    Args:
        config: which set, and what share is held out; or the source alone, "mnist" or "my.npz".

    Raises:
        ValueError: if there is no such set, or it is damaged.
        FileNotFoundError: if it has not been prepared; the message gives the command. Nothing is
            ever downloaded from here.
    """
    if isinstance(config, str):
        config = DataConfig(config)
    data = _opened(config)
    if config.extra is None:
        return data
    found = open_training_images(dataclasses.replace(config, source=config.extra))
    return with_extra(data, found, share=config.extra_share)


def open_training_images(config: DataConfig) -> Split:
    """All training images of a set that may have no other split."""
    if config.source == "digits":
        return digits(config).train
    if told := _photographs(config):
        return _on_disk(config, told, "train")
    splits, _ = _read(config)
    if "train" not in splits:
        raise ValueError(f"{config.source} has no training images (x_train and y_train).")
    return Split(*splits["train"])


def _opened(config: DataConfig) -> Dataset:
    if config.source == "digits":
        return digits(config)
    if told := _photographs(config):
        return _open_shards(config, told)
    splits, class_names = _read(config)
    missing = [name for name in ("train", "test") if name not in splits]
    if missing:
        raise ValueError(
            f"{config.source} has no {missing[0]} split, and training needs train and test; "
            f"it has {', '.join(splits)}."
        )
    return from_arrays(
        splits["train"],
        splits["test"],
        validation=config.validation,
        seed=config.seed,
        name=Path(config.source).stem,
        class_names=class_names,
        origin=config,
    )


def open_test_split(config: DataConfig) -> tuple[Split, tuple[str, ...]]:
    """The test split alone, which needs no training split, and the class names, if it has any.

    Raises:
        ValueError: as `open_data`, and if the split is not there.
        FileNotFoundError: as `open_data`.
    """
    if config.source == "digits":
        opened = digits(config)
        return opened.test, opened.class_names
    if told := _photographs(config):
        return _on_disk(config, told, "test"), tuple(told["class_names"])
    splits, class_names = _read(config)
    if "test" not in splits:
        raise ValueError(f"{config.source} has no test split (x_test and y_test).")
    return Split(*splits["test"]), class_names


def digits(config: DataConfig | None = None) -> Dataset:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; nothing is downloaded.

    A fifth is held out for testing by a fixed seed, and of the rest, unless `config` says
    otherwise, a fifth for validation. Pixels 0 to 16 become float32 in [0, 1].
    """
    from sklearn.datasets import load_digits

    config = config or DataConfig("digits", validation=0.2)
    bunch: Any = load_digits()
    images = (bunch.images[..., None] / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int32)
    is_test = stratified(labels, share=0.2, seed=0)
    return from_arrays(
        (images[~is_test], labels[~is_test]),
        (images[is_test], labels[is_test]),
        validation=config.validation,
        seed=config.seed,
        name="digits",
        origin=config,
    )


def _photographs(config: DataConfig) -> dict[str, Any]:
    """What contents.json says of a set that is read from disk; empty for every other."""
    directory = store.data_directory(config.directory)
    if is_npz(config.source) or not store.is_prepared(config.source, directory):
        return {}
    told = store.contents(config.source, directory)
    return told if told.get("kind") == "shards" else {}


def _on_disk(config: DataConfig, told: dict[str, Any], split: str) -> Split:
    if config.image_size is None:
        raise ValueError(
            f"{config.source} holds photographs of many sizes: say how large the network sees "
            "them, --image-size 224 (from Python, DataConfig(..., image_size=224))."
        )
    directory = mirror.fetch(config.source, store.data_directory(config.directory))
    folder = store.set_folder(config.source, directory)
    pictures = shards.open_shards(folder, told, split, size=config.image_size)
    return Split(pictures, shards.labels(folder, split))


def _open_shards(config: DataConfig, told: dict[str, Any]) -> Dataset:
    whole = _on_disk(config, told, "train")
    is_held_out = stratified(whole.labels, share=config.validation, seed=config.seed)
    pictures: Any = whole.images
    train, validation = (
        Split(pictures.only(chosen), whole.labels[chosen]) for chosen in (~is_held_out, is_held_out)
    )
    return Dataset(
        name=config.source,
        train=train,
        validation=validation,
        test=_on_disk(config, told, "test"),
        num_classes=len(told["class_names"]),
        class_names=tuple(told["class_names"]),
        origin=config,
    )


def _read(config: DataConfig) -> tuple[store.Arrays, tuple[str, ...]]:
    if is_npz(config.source):
        return read_npz(local(config.source))
    directory = store.data_directory(config.directory)
    if store.is_prepared(config.source, directory):
        return store.read(config.source, mirror.fetch(config.source, directory))
    known = {"digits", *STOCK, *store.prepared_names(directory)}
    if config.source not in known:
        if Path(config.source).expanduser().is_dir():
            raise ValueError(
                f"{config.source} is a folder. Prepare it once, and train on the name: "
                f"gloro-jax data prepare NAME --from '{config.source}'."
            )
        near = difflib.get_close_matches(config.source, known) or sorted(known)
        raise ValueError(
            f"There is no data set {config.source!r}; did you mean {', '.join(near)}? Arrays of "
            "your own: --data FILE.npz, or gloro-jax data prepare NAME --from FILE.npz|FOLDER."
        )
    raise FileNotFoundError(
        f"{config.source} has not been prepared in {directory}. Once, and with a network "
        f"connection: gloro-jax data prepare {config.source}. From a file you have: "
        f"gloro-jax data prepare {config.source} --from FILE.npz."
    )
