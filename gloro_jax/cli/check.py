"""check: proves a certificate file again, alone or beside the run and the data it speaks of."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax import certificates, runs
from gloro_jax.alarms import norm_alarm
from gloro_jax.certificates import check_certificate as checker
from gloro_jax.cli.opened import data_config
from gloro_jax.cli.words import parse
from gloro_jax.data.dataset import DataConfig
from gloro_jax.data.sources import open_data, open_test_split


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Prove a certificate file again, from the arrays in it.

    The file alone is a theorem about its own weights, inputs and labels. --run compares the layers
    and weights with a run, and tests that run's stored norms from below; --data compares the inputs
    and labels with a data set. Exits with status 1 if the file is refused. check_certificate.py
    does the same without this library, --run apart.

    Attributes:
        file: the certificate.
        run: a run folder, whose network the file must hold.
        data: a prepared set or an .npz file, whose images and labels the file must hold.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
        checkpoint: which weights of the run, "best" by validation, or "last".
    """

    file: Annotated[Path, tyro.conf.Positional]
    run: Path | None = None
    data: str | None = None
    data_dir: Path | None = None
    checkpoint: Literal["best", "last"] = "best"


def check(words: list[str]) -> int:
    """`gloro-jax check`."""
    options: CheckOptions = parse(CheckOptions, "check", words)
    if options.file.is_dir():
        raise ValueError(
            f"{options.file} is a folder, and check proves a certificate file. A run writes one: "
            f"gloro-jax certify {options.file} --out FILE."
        )
    if not options.file.is_file():
        raise FileNotFoundError(f"{options.file} is not there.")
    network, alarm = None, ""
    if options.run is not None:
        frozen = runs.load(options.run, checkpoint=options.checkpoint)
        network = (certificates.describe(frozen), certificates.weights(frozen))
        alarm = norm_alarm(frozen)
    console = Console(highlight=False, soft_wrap=True)
    try:
        if alarm:
            raise certificates.Refused(f"the norms of {options.run} are false: {alarm}")
        data = None if options.data is None else _data(options)
        proved = certificates.check(options.file, data=data, run=network)
    except certificates.Refused as refusal:
        where = escape(str(options.file))
        console.print(f"[bold red]REFUSED[/] {where}: {escape(checker.plain(refusal))}")
        return 1
    console.print(escape("\n  ".join(proved["words"])))
    return 0


def _data(options: CheckOptions) -> tuple[Any, Any]:
    """Images and labels of the split that the file names, as the run or the options say."""
    header, _ = checker.read_certificate(options.file)
    split = header["source"]["split"]
    if options.run is not None:
        stored = runs.read_config(options.run, sections=("data",))
        config = data_config(options.run, stored, data=options.data, directory=options.data_dir)
    else:
        directory = None if options.data_dir is None else str(options.data_dir)
        # Photographs on disk are looked at in the size that the network sees.
        size = checker.whole(header["input"]["shape"][0], 1)
        config = DataConfig(str(options.data), directory=directory, image_size=size)
    if split == "test":
        opened, _ = open_test_split(config)
    elif split in ("train", "validation"):
        opened = getattr(open_data(config), split)
    else:
        raise certificates.Refused(f"the file speaks of a split {split!r}")
    return opened.images, opened.labels
