"""Metrics: sums turned into rates, where time goes, and the logs that keep both."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gloro_jax.paths import Place
from gloro_jax.runs.folder import write_atomically

T = TypeVar("T")


class Totals:
    """Sums over the batches of an epoch.

    Attributes:
        sums: what has been added up, by name.
    """

    def __init__(self, sums: dict[str, float] | None = None) -> None:
        self.sums = dict(sums or {})

    def add(self, sums: dict[str, Any]) -> float:
        """Adds one batch's sums and returns its mean loss."""
        numbers = {name: float(np.asarray(value)) for name, value in sums.items()}
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + number
        return numbers["loss"] / numbers["count"]

    def rates(self) -> dict[str, float]:
        """Loss, clean accuracy, estimated VRA, and that at twice the radius, of all added."""
        count = self.sums["count"]
        return {
            "loss": self.sums["loss"] / count,
            "clean": self.sums["correct"] / count,
            "vra_estimate": self.sums["certified_estimate"] / count,
            "vra_estimate_2x": self.sums.get("certified_estimate_2x", 0.0) / count,
        }


class Stopwatch:
    """Where the time goes: seconds per activity since the last reading."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Adds the time spent inside to `activity`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[activity] = self._seconds.get(activity, 0.0) + spent

    def waiting(self, activity: str, items: Iterable[T]) -> Iterator[T]:
        """Yields `items`, adding the time spent waiting for each to `activity`."""
        iterator = iter(items)
        while True:
            with self.measure(activity):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def read(self) -> dict[str, float]:
        """Seconds per activity, rounded to milliseconds; starts again at zero."""
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        self._seconds = {}
        return seconds


class MetricsLog:
    """metrics.jsonl: one JSON object per line, appended as soon as an epoch ends.

    Args:
        folder: the run folder.
        rows: the epochs that stand already, when a run is resumed: the file is cut back to them.
        is_writing_tensorboard: also write event files.
    """

    def __init__(
        self, folder: Place, rows: list[dict[str, Any]], *, is_writing_tensorboard: bool
    ) -> None:
        self._path = folder / "metrics.jsonl"
        self._lines = [json.dumps(row) + "\n" for row in rows]
        write_atomically(self._path, "".join(self._lines).encode())
        self._events: Any = None
        if is_writing_tensorboard:
            from tensorboardX import SummaryWriter

            step = rows[-1]["step"] + 1 if rows else 0
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row.

        Raises:
            OSError: if the disk is full or read-only; the checkpoints stay as they are.
        """
        self._lines.append(json.dumps(row) + "\n")
        try:
            if isinstance(self._path, Path):
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(self._lines[-1])
            else:  # objects of a bucket do not grow
                write_atomically(self._path, "".join(self._lines).encode())
        except OSError as error:
            raise OSError(
                f"{self._path} could not be written ({error}). Make room or mend the permissions, "
                "then go on with --resume."
            ) from error
        if self._events is not None:
            for name, value in _flat(row):
                self._events.add_scalar(name, value, row["step"])
            self._events.flush()

    def close(self) -> None:
        """Closes the event files."""
        if self._events is not None:
            self._events.close()


def _flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif value is not None:  # as the learning rate of an optimiser of one's own
            yield prefix + name, float(value)


def best_epoch(history: list[dict[str, Any]]) -> int:
    """The best row's epoch; of equals, the one that certifies more at 2 epsilon, then the last.

    A small validation split has many equals, and the first of them has learnt the least.
    """
    names = ("vra_estimate", "clean", "vra_estimate_2x")
    keys = [tuple(row["validation"].get(n, 0.0) for n in names) for row in history]
    return max(range(len(keys)), key=lambda i: (keys[i], i)) + 1
