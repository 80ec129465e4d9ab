"""Manners for the storage layer below checkpoints, where it fails.

It reads and writes arrays side by side, each as a task of an event loop. Where one fails, it closes
the loop while the others are under way; they then answer to a closed loop, with a page of
tracebacks after our one sentence, and now and then a crash as the process ends. It also logs every
error that it raises; ours say it once.
"""

import asyncio
import logging
from typing import Any, ClassVar

_LONGEST_WAIT = 10.0  # seconds


class _PatientLoop(asyncio.SelectorEventLoop):
    """A loop whose `close` lets pending tasks come in first; what they find no longer matters."""

    def close(self) -> None:
        tasks = set() if self.is_closed() or self.is_running() else asyncio.all_tasks(self)
        if tasks:
            self.run_until_complete(asyncio.wait(tasks, timeout=_LONGEST_WAIT))
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # looked at, so that it is not logged as never looked at
        super().close()


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _PatientLoop


def _is_new(record: logging.LogRecord) -> bool:
    """Whether a log record says more than the error that it logs."""
    return record.exc_info is None or "orbax" not in record.pathname


class Manners:
    """While any hold, event loops end after their tasks, and errors are raised and not logged."""

    _holding: ClassVar[int] = 0
    _before: ClassVar[Any] = None

    def __init__(self) -> None:
        if Manners._holding == 0:
            Manners._before = asyncio.get_event_loop_policy()
            asyncio.set_event_loop_policy(_Policy())
            logging.getLogger("absl").addFilter(_is_new)
        Manners._holding += 1

    def end(self) -> None:
        """Gives loops and logs back to what they were, where no others hold."""
        Manners._holding -= 1
        if Manners._holding == 0:
            logging.getLogger("absl").removeFilter(_is_new)
            asyncio.set_event_loop_policy(Manners._before)
