"""What a command looks at: a run's network, images, radius and guarantee, from its options."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape

from gloro_jax import certificates, guarantees, runs
from gloro_jax.data.dataset import DataConfig, Split
from gloro_jax.data.sources import open_data, open_test_split
from gloro_jax.evaluation import Report, verified_robust_accuracy
from gloro_jax.evaluation.vra import check_reach
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.guarantees import Guarantee
from gloro_jax.plain import from_plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images, which weights and which radius: options of several commands.

    Attributes:
        data: the run's own data, unless this names a prepared set or an .npz file.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
        epsilon: the l2 radius, images in [0, 1], 0.3 or 36/255; the run's own number unless given,
            also where it was trained against linf balls of that radius.
        split: which images; "test" is for reporting, "validation" for choosing.
        checkpoint: "best" by validation, or "last".
    """

    data: str | None = None
    data_dir: Path | None = None
    epsilon: str | None = None
    split: Literal["test", "validation", "train"] = "test"
    checkpoint: Literal["best", "last"] = "best"


class Opened(NamedTuple):
    """A run, and the images to look at with it.

    Attributes:
        frozen: the network.
        split: the images.
        epsilon: the l2 radius.
        source: which images these are, in words.
        title: what tables are called.
        guarantee: what is certified; None is the strict guarantee.
    """

    frozen: FrozenNet
    split: Split
    epsilon: float
    source: str
    title: str
    guarantee: Guarantee | None = None


def open_run(run: Path, selection: Selection) -> Opened:
    """The network and the images that the options name.

    Raises:
        ValueError: if the images are not of the classes that the run knows, or are said to be the
            run's training or validation images and are not.
    """
    config = runs.read_config(run, sections=("data", "training"))
    frozen = runs.load(run, checkpoint=selection.checkpoint)
    say_if_unfinished(run)
    data = data_config(run, config, data=selection.data, directory=selection.data_dir)
    radius = config["training"]["epsilon"] if selection.epsilon is None else selection.epsilon
    if selection.split == "test":
        split, names = open_test_split(data)
    else:
        opened = open_data(data)
        split, names = getattr(opened, selection.split), opened.class_names
        if config["data"].get("fingerprint") not in (None, opened.fingerprint):
            raise ValueError(
                f"{data.source} does not hold the images that {run} was trained on, so its "
                f"{selection.split} split is not the run's. Look at its test split."
            )
    known = tuple(config["data"].get("class_names") or ())
    if names and known and names != known:
        raise ValueError(
            f"The classes of {data.source} are {names}, those of {run} {known}: labels would mean "
            "different things. Number the classes alike."
        )
    shape = tuple(np.shape(split.images)[1:])
    if isinstance(split.images, np.ndarray) and shape != tuple(frozen.input_shape):
        raise ValueError(
            f"The images of {data.source} are {shape}, and the network of {run} takes "
            f"{tuple(frozen.input_shape)}: name data of that size with --data."
        )
    source = f"{Path(data.source).name}, {selection.split} split"
    epsilon = float(certificates.as_fraction(radius))
    check_reach(epsilon, frozen.input_shape)
    return Opened(frozen, split, epsilon, source, f"{run}, {source}")


def with_guarantee(opened: Opened, run: Path, given: str | None) -> Opened:
    """With what the options, or else the run, say is to be certified."""
    config = runs.read_config(run, sections=("data", "training"))
    words = given or config["training"].get("guarantee") or "strict"
    guarantee, names = _guarantee(words), list(config["data"].get("class_names") or ())
    if words == "cifar100-superclasses" and names != sorted(names):
        raise ValueError(
            f"cifar100-superclasses numbers the classes of CIFAR-100 in alphabetical order, and "
            f"those of {run} are {names[:3]} and so on. Write the sets down: [0,2][1] ..."
        )
    if guarantee is not None:
        guarantee.check(opened.frozen.net.num_classes)
    return opened._replace(guarantee=guarantee)


def _guarantee(words: str) -> Guarantee | None:
    """From words, or from a file that holds them."""
    try:
        if Path(words).is_file():
            lines = Path(words).read_text(encoding="utf-8").splitlines()
            words = "".join("".join(line.partition("#")[0].split()) for line in lines)
        return guarantees.parse(words)
    except (UnicodeDecodeError, ValueError) as error:
        why = "it holds no text." if isinstance(error, UnicodeDecodeError) else str(error)
        raise ValueError(f"--guarantee is words, or a file that holds them: {why}") from None


def say_if_unfinished(run: Path) -> None:
    """One line on standard error about a run whose training has not ended."""
    if words := runs.unfinished(run):
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold yellow]{escape(words)}[/]"
        )


def data_config(
    run: Path, config: dict[str, Any], *, data: str | None, directory: Path | None
) -> DataConfig:
    """What to certify on: the user's choice, or what the run was trained on."""
    stored = {k: v for k, v in config["data"].items() if k in DataConfig.__dataclass_fields__}
    if data is not None:
        stored["source"] = data
    if stored.get("source") is None:
        raise ValueError(
            f"{run} names no data that could be opened again: it was imported, or trained on "
            "arrays of your own. Name a prepared set or a file with --data FILE.npz, or go on from "
            "Python: gj.load(run) with gj.evaluation."
        )
    if stored.get("image_size") is None:  # photographs on disk: as large as the network sees them
        stored["image_size"] = next(iter(config["data"].get("input_shape") or ()), None)
    if directory is not None:
        stored["directory"] = str(directory)
    return from_plain(DataConfig, stored, where="data")


def certified(opened: Opened) -> Report:
    """The report on the opened images."""
    split = opened.split
    return verified_robust_accuracy(
        opened.frozen,
        [(split.images, split.labels)],
        epsilon=opened.epsilon,
        guarantee=opened.guarantee,
    )
