"""Rows of results: each file trains or measures, and writes a JSON file of experiments/results."""

import dataclasses
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gloro_jax.data import Dataset, Split

RESULTS = Path(__file__).parent.parent / "results"


def first_of(data: Dataset, count: int) -> Dataset:
    """The first training images alone, and all others as they are."""
    few = Split(data.train.images[:count], data.train.labels[:count])
    return dataclasses.replace(data, train=few, origin=None)


def others(name: str, *, key: str, field: str, named: Iterable[str]) -> list[dict[str, Any]]:
    """The rows under `key` of a file that is there, but for those whose `field` is named."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())[key] if path.is_file() else []
    return [row for row in rows if row[field] not in named]


def save(name: str, row: dict[str, Any], *, command: str) -> None:
    """Writes a row with the commit and the command that made it."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    whole = {**row, "commit": commit, "command": command}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
