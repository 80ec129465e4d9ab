"""Ctrl-C and SIGTERM: the step under way is finished, then the run is saved."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside, after everything had been saved.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.signal = number


class StopRequest:
    """Whether somebody has asked training to stop.

    Attributes:
        signal: the number of the signal that asked; None while nobody has.
    """

    signal: int | None = None


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Notes SIGINT and SIGTERM instead of dying of them; the second one is not withheld.

    Outside the main thread signals cannot be caught, and nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    # What the shell told this process to ignore (nohup, &) stays ignored.
    earlier = {
        n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)
    }

    def note(number: int, frame: Any) -> None:
        del frame
        request.signal = number
        os.write(2, b"\nFinishing the step and saving; the same signal again stops at once.\n")
        signal.signal(number, earlier[signal.Signals(number)])

    for number in earlier:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
