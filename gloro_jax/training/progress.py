"""What a person sees while training: a bar on a terminal, a line per epoch elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_PER_LINE = 60.0


class TrainingProgress:
    """A progress bar over steps with the latest loss, clean accuracy, estimated VRA, images/s, ETA.

    Args:
        total_steps: steps of the whole run.
        done: steps done before this sitting.
        console: where to draw; standard error unless given.
    """

    def __init__(self, *, total_steps: int, done: int = 0, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            "training", total=total_steps, completed=done, status="compiling"
        )
        self._last_line = time.perf_counter()
        self._first_step: float | None = None  # when it ended; before it, programs are compiled
        self._since = float(done)

    def __enter__(self) -> "TrainingProgress":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self) -> None:
        """Moves the bar by one step."""
        self._progress.advance(self._task)
        if self._first_step is None:
            self._first_step = time.perf_counter()
            self._since = self._done
            self._progress.update(self._task, status="first epoch of this sitting")

    def epoch(self, row: dict[str, Any], *, epochs: int) -> None:
        """Shows an epoch's metrics; VRA is labelled an estimate, because it is one."""
        validation, timing = row["validation"], row["timing"]
        status = (
            f"loss {row['train']['loss']:.3f}  clean {validation['clean']:.3f}  "
            f"VRA {validation['vra_estimate']:.3f} (estimate)  "
            f"{timing['images_per_second']:,.0f} images/s"
        )
        self._progress.update(self._task, status=status)
        is_due = time.perf_counter() - self._last_line > _SECONDS_PER_LINE
        if is_due or row["epoch"] % max(1, epochs // 10) == 0 or row["epoch"] == epochs:
            self._last_line = time.perf_counter()
            left = self._seconds_left()
            eta = f"  {_clock(left)} left" if left and row["epoch"] < epochs else ""
            self._progress.console.print(
                f"epoch {row['epoch']:>4}/{epochs}  {status}{eta}", highlight=False, soft_wrap=True
            )

    @property
    def _done(self) -> float:
        return float(self._progress.tasks[0].completed)

    def _seconds_left(self) -> float:
        """By the pace since the first step; 0 if there is none yet."""
        steps, total = self._done - self._since, self._progress.tasks[0].total
        if self._first_step is None or not steps or total is None:
            return 0.0
        return (time.perf_counter() - self._first_step) / steps * (total - self._done)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
