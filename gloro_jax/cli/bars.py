"""Progress of long commands: a bar on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

_SECONDS_PER_LINE = 30.0


class Bar(Progress):
    """Rich's bar on standard error; where that is no terminal, lines say what is under way."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        super().__init__(console=console, transient=True, disable=not console.is_terminal)
        self._last_line = time.monotonic()

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
        """As Rich's; says that it begins."""
        task = super().add_task(description, *arguments, **options)
        self._line(f"{description} ...")
        return task

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As Rich's; says how far it is, when the last line is old."""
        super().update(task_id, **changes)
        self._line_if_due(task_id)

    def advance(self, task_id: TaskID, advance: int | float = 1) -> None:
        """As Rich's; says how far it is, when the last line is old."""
        super().advance(task_id, advance)
        self._line_if_due(task_id)

    def _line_if_due(self, task_id: TaskID) -> None:
        if time.monotonic() - self._last_line >= _SECONDS_PER_LINE:
            task = next(task for task in self.tasks if task.id == task_id)
            total = "" if task.total is None else f" of {task.total:.0f}"
            self._line(f"{task.description}: {task.completed:.0f}{total}")

    def _line(self, words: str) -> None:
        if not self.console.is_terminal:
            self.console.print(words)
            self._last_line = time.monotonic()
