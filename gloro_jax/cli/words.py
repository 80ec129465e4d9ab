"""Words into options, for every command alike."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from gloro_jax.paths import is_in_bucket, local
from gloro_jax.plain import in_words, number

_REGISTRY = ConstructorRegistry()
_PLACES = ("run", "init_from", "data_dir")  # options that may name a bucket


@_REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A number may be a fraction, for the field's radii are: 36/255."""
    if info.type is not float:
        return None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda words: number(words[0]),
        is_instance=lambda value: isinstance(value, (float, int)),
        str_from_instance=lambda value: [_typed(value)],
    )


def _typed(value: float) -> str:
    words = in_words(value)
    return words if number(words) == value else str(value)


def parse(options: Any, command: str, words: list[str], *, places: tuple[str, ...] = ()) -> Any:
    """The options dataclass filled from the words after `gloro-jax command`.

    Args:
        options: the dataclass.
        command: its name.
        words: what was typed after it.
        places: options beside the usual ones that may name a bucket.

    Raises:
        ValueError: if a path among them is none of this machine's; runs and data directories may
            be in buckets.
    """
    found = tyro.cli(options, prog=f"gloro-jax {command}", args=words, registry=_REGISTRY)
    values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    paths = {
        name: local(value)
        for name, value in values.items()
        if isinstance(value, Path) and not (name in (*_PLACES, *places) and is_in_bucket(value))
    }
    return dataclasses.replace(found, **paths)


def check_new_file(path: Path | None, option: str, *, ends: str = "") -> None:
    """Raises, before any work is done, unless a new file can be made there."""
    if path is None:
        return
    if path.exists():
        raise FileExistsError(f"{option} takes a new file, and {path} exists.")
    if path.suffix != ends and ends:
        raise ValueError(f"{option} takes a file that ends in {ends}, got {path}.")
    check_folder_of(path, option)


def check_folder_of(path: Path, option: str) -> None:
    """Raises unless the folder of a file is there, and the file is no folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{option} takes a file, and {path} is a folder.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{option} {path}: there is no folder {path.parent}. Make it first: mkdir -p "
            f"{path.parent}"
        )


def known(word: str, table: Any, *, what: str) -> str:
    """`word`, or a ValueError that names its neighbours in `table`."""
    if word in table:
        return word
    near = difflib.get_close_matches(word, table) or sorted(table)
    raise ValueError(f"There is no {what} {word!r}; did you mean {', '.join(near)}?")
