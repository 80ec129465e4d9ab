"""Metrics: sums turned into rates, and the log that keeps them."""

import json
from pathlib import Path
from typing import Any

import numpy as np


class Totals:
    """Sums over the batches of an epoch."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}

    def add(self, sums: dict[str, Any]) -> float:
        """Adds one batch's sums and returns its mean loss."""
        numbers = {name: float(np.asarray(value)) for name, value in sums.items()}
        for name, number in numbers.items():
            self._totals[name] = self._totals.get(name, 0.0) + number
        return numbers["loss"] / numbers["count"]

    def rates(self) -> dict[str, float]:
        """Loss, clean accuracy and the estimated VRA over everything added."""
        count = self._totals["count"]
        return {
            "loss": self._totals["loss"] / count,
            "clean": self._totals["correct"] / count,
            "vra_estimate": self._totals["certified_estimate"] / count,
        }


class MetricsLog:
    """metrics.jsonl: one JSON object per line, appended as soon as an epoch ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.jsonl"

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; a last line that was cut off while being written is left out."""
    lines = (folder / "metrics.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]
