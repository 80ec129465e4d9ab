"""Rows of results: each file trains or measures, and writes a JSON file of experiments/results."""

import json
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"


def save(name: str, row: dict[str, Any], *, command: str) -> None:
    """Writes a row with the commit and the command that made it."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    whole = {**row, "commit": commit, "command": command}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
