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
    """The rows under `key` of a file that is there, but for those whose `field` is named.

    Each says from which commit it is, as the file will be of another one.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    kept = [row for row in found[key] if row[field] not in named]
    return [{"commit": found["commit"], **row} for row in kept]


def head() -> str:
    """The commit that is checked out."""
    return subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()


def save(name: str, row: dict[str, Any], *, command: str) -> None:
    """Writes a row with the commit and the command that made it."""
    whole = {**row, "commit": head(), "command": command}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def origin(found: dict[str, Any]) -> str:
    """The command and the commit of a file of results, and earlier commits that it has rows of."""
    rows = [row for rows in found.values() if isinstance(rows, list) for row in rows]
    commits = {row["commit"][:12] for row in rows if isinstance(row, dict) and "commit" in row}
    earlier = "".join(f", some rows `{commit}`" for commit in sorted(commits))
    return f"Command: `{found['command']}`, commit `{found['commit'][:12]}`{earlier}."
