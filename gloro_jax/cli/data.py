"""data list, data show, data prepare."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gloro_jax.cli.bars import Bar
from gloro_jax.cli.words import known, parse
from gloro_jax.data import store
from gloro_jax.data.dataset import DataConfig, Dataset
from gloro_jax.data.sources import STOCK, open_data

_FEW = 5  # pictures left out that are named
_USAGE = """\
gloro-jax data list                                 the sets that are there, and that could be
gloro-jax data show NAME|FILE.npz                   counts, mean and deviation, a contact sheet
gloro-jax data prepare NAME [--from FILE.npz|FOLDER]  write a set, once
"""


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """List data sets.

    Attributes:
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
    """

    data_dir: Path | None = None


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """Show what a data set holds, and write a contact sheet of it.

    Attributes:
        name: a prepared set, digits, or an .npz file.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
        image_size: how large to show photographs that are read from disk.
        sheet: the PNG file to write; NAME.png here unless given.
    """

    name: Annotated[str, tyro.conf.Positional]
    data_dir: Path | None = None
    image_size: int = 224
    sheet: Path | None = None


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Write a data set in array_record, once; training then reads it without TensorFlow.

    Without --from a stock set is downloaded, which takes TensorFlow (pip install
    'gloro-jax[prepare]'). With it, neither TensorFlow nor a network is needed. A set that could
    not be prepared to its end is never read.

    Attributes:
        name: mnist, fashion_mnist, svhn_cropped, cifar10, cifar100, or a name of your own.
        source: an .npz file of x_train, y_train, x_test, y_test, or a folder
            FOLDER/train/CLASS/*.png, FOLDER/test/CLASS/*.png.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
        resize: height and width, or one number for both, to bring the images of a folder to.
        shorter_side: for photographs that memory cannot hold: write them as JPEG with a shorter
            side of so many pixels (256 for networks that see 224), and read them from disk. The
            same command goes on where it was stopped.
        skip_corrupt: with --shorter-side, leave out and count what cannot be decoded.
        overwrite: replace the set if it is there.
    """

    name: Annotated[str, tyro.conf.Positional]
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    data_dir: Path | None = None
    resize: tuple[int, ...] | None = None
    shorter_side: int | None = None
    skip_corrupt: bool = False
    overwrite: bool = False


def data(words: list[str]) -> int:
    """`gloro-jax data`."""
    commands = {"list": _list, "show": _show, "prepare": _prepare}
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if words else 2
    return commands[known(words[0], commands, what="command data")](words[1:])


def _list(words: list[str]) -> int:
    options: ListOptions = parse(ListOptions, "data list", words)
    directory = store.data_directory(_text(options.data_dir))
    prepared = store.prepared_names(directory)
    table = Table("set", "train", "test", "image", title=escape(str(directory)))
    table.add_row("digits (inside scikit-learn)", "1438", "359", "8 x 8 x 1")
    for name in prepared:
        told = store.contents(name, directory)
        counts = [str(told["splits"].get(split, 0)) for split in ("train", "test")]
        shape = " x ".join(str(n or "any") for n in told["image_shape"])
        table.add_row(name, *counts, shape)
    for name in STOCK:
        if name not in prepared:
            table.add_row(name, "-", "-", "not prepared")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "Prepare a set, once: gloro-jax data prepare NAME, or from what you have: "
        "gloro-jax data prepare NAME --from FILE.npz|FOLDER"
    )
    return 0


def _show(words: list[str]) -> int:
    from gloro_jax.data.inspect import contact_sheet

    options: ShowOptions = parse(ShowOptions, "data show", words)
    opened = open_data(
        DataConfig(options.name, directory=_text(options.data_dir), image_size=options.image_size)
    )
    sheet = options.sheet or Path(f"{opened.name}.png")
    if sheet.suffix != ".png":
        raise ValueError(f"--sheet takes a file that ends in .png, got {sheet}.")
    console = Console(highlight=False)
    console.print(_statistics_table(opened))
    _print_skipped(console, getattr(opened.train.images, "told", {}))
    console.print(
        f"Shown with {opened.origin.validation:.0%} of the training images held out for "
        "validation; a recipe may hold out another share (train RECIPE --validation)."
        if opened.origin
        else ""
    )
    contact_sheet(opened, sheet)
    console.print(f"Contact sheet: {escape(str(sheet))}")
    return 0


def _statistics_table(opened: Dataset) -> Table:
    from gloro_jax.data.inspect import repeated, statistics

    splits = {name: getattr(opened, name) for name in ("train", "validation", "test")}
    found = {
        name: statistics(split, num_classes=opened.num_classes) for name, split in splits.items()
    }
    shape = " x ".join(str(n) for n in opened.input_shape)
    title = f"{escape(opened.name)}, {shape}, {opened.train.images.dtype}"
    table = Table("", *found, title=title)
    table.add_row("images", *(str(s.count) for s in found.values()))
    table.add_row("mean", *(_numbers(s.mean) for s in found.values()))
    table.add_row("deviation", *(_numbers(s.std) for s in found.values()))
    again = [repeated(split, of=opened.train) for split in splits.values()]
    if min(again) >= 0:  # of photographs on disk nobody looks
        table.add_row("also in train", "", *map(str, again[1:]))
    table.add_section()
    for label, name in enumerate(opened.class_names):
        table.add_row(f"{label} {escape(name)}", *(str(s.per_class[label]) for s in found.values()))
    return table


def _prepare(words: list[str]) -> int:
    from gloro_jax.data.preparing import prepare

    options: PrepareOptions = parse(PrepareOptions, "data prepare", words)
    directory = store.data_directory(_text(options.data_dir))
    with Bar() as bar:
        task = bar.add_task(f"preparing {options.name}", total=None)
        try:
            folder = prepare(
                options.name,
                source=options.source,
                directory=directory,
                resize=_size(options.resize),
                shorter_side=options.shorter_side,
                is_skipping_corrupt=options.skip_corrupt,
                is_overwriting=options.overwrite,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            kept = "What is finished is kept, and the same command goes on."
            raise KeyboardInterrupt(
                f"Stopped: {options.name} is not prepared. {kept if options.shorter_side else ''}"
            ) from None
    console = Console(highlight=False, soft_wrap=True)
    _print_skipped(console, store.contents(options.name, directory))
    where = "" if options.data_dir is None else f" --data-dir {options.data_dir}"
    console.print(
        f"{options.name} is in {escape(str(folder))}. Look at it: gloro-jax data show "
        f"{options.name}{escape(where)}"
    )
    return 0


def _print_skipped(console: Console, told: dict[str, Any]) -> None:
    """Counts and names the pictures that were left out."""
    skipped = told.get("skipped", [])
    if not skipped:
        return
    console.print(f"{len(skipped)} pictures cannot be read and were left out:")
    for line in skipped[:_FEW]:
        console.print(f"  {escape(line)}")
    if len(skipped) > _FEW:
        console.print("  ... all of them in contents.json of the set")


def _size(resize: tuple[int, ...] | None) -> tuple[int, int] | None:
    if resize is None:
        return None
    if len(resize) not in (1, 2) or min(resize) < 1:
        raise ValueError(f"--resize takes a height and a width, or one number, got {resize}.")
    return resize[0], resize[-1]


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
