"""What a person sees while training: a bar on a terminal, a line per epoch elsewhere."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """A progress bar over steps with the latest loss, clean accuracy and estimated VRA."""

    def __init__(self, *, total_steps: int, console: Console | None = None) -> None:
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
        self._task = self._progress.add_task("training", total=total_steps, status="compiling")

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

    def epoch(self, row: dict[str, Any], *, epochs: int) -> None:
        """Shows an epoch's metrics; VRA is labelled an estimate, because it is one."""
        validation = row["validation"]
        status = (
            f"loss {row['train']['loss']:.3f}  clean {validation['clean']:.3f}  "
            f"VRA {validation['vra_estimate']:.3f} (estimate)"
        )
        self._progress.update(self._task, status=status)
        every = max(1, epochs // 10)
        if row["epoch"] % every == 0 or row["epoch"] == epochs:
            self._progress.console.print(
                f"epoch {row['epoch']:>4}/{epochs}  {status}", highlight=False
            )
