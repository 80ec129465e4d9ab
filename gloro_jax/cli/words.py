"""Words into options, for every command alike."""

import difflib
from typing import Any

import tyro


def parse(options: Any, command: str, words: list[str]) -> Any:
    """The options dataclass filled from the words after `gloro-jax command`."""
    return tyro.cli(options, prog=f"gloro-jax {command}", args=words)


def known(word: str, table: Any, *, what: str) -> str:
    """`word`, or a ValueError that names its neighbours in `table`."""
    if word in table:
        return word
    near = difflib.get_close_matches(word, table) or sorted(table)
    raise ValueError(f"There is no {what} {word!r}; did you mean {', '.join(near)}?")
