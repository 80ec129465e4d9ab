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
        is_asleep: whether training waits for its caller, who gets signals as ever.
    """

    def __init__(self, *, has_caller: bool = True) -> None:
        self.signal: int | None = None
        self.is_asleep = False
        self._has_caller = has_caller

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """While the caller of an iterator over epochs has the word; never where there is none."""
        self.is_asleep = self._has_caller
        try:
            yield
        finally:
            self.is_asleep = False


class _Watch:
    """The trainings of this process that listen, and the handlers from before the first of them."""

    def __init__(self) -> None:
        self.requests: list[StopRequest] = []
        self.earlier: dict[int, Any] = {}

    def add(self, request: StopRequest) -> None:
        if not self.requests:
            handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
            # What the shell told this process to ignore (nohup, &) stays ignored.
            ignored = (signal.SIG_IGN, None)
            self.earlier = {n: h for n, h in handlers.items() if h not in ignored}
            for number in self.earlier:
                signal.signal(number, self.note)
        self.requests.append(request)

    def remove(self, request: StopRequest) -> None:
        self.requests.remove(request)
        if not self.requests:
            for number, handler in self.earlier.items():
                signal.signal(number, handler)

    def note(self, number: int, frame: Any) -> None:
        awake = [request for request in self.requests if not request.is_asleep]
        if not awake or any(request.signal for request in awake):  # at once
            earlier = self.earlier[number]
            if callable(earlier):
                earlier(number, frame)
            else:  # the system's own way
                signal.signal(number, earlier)
                signal.raise_signal(signal.Signals(number))
            return
        for request in awake:
            request.signal = number
        os.write(2, b"\nFinishing the step and saving; the same signal again stops at once.\n")


_watch = _Watch()


@contextlib.contextmanager
def listening(*, has_caller: bool) -> Iterator[StopRequest]:
    """Notes SIGINT and SIGTERM instead of dying of them; the second one is not withheld.

    Outside the main thread signals cannot be caught, and nothing is changed. `has_caller` says
    whether anybody has the word between epochs, and gets the signals then.
    """
    request = StopRequest(has_caller=has_caller)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    _watch.add(request)
    try:
        yield request
    finally:
        _watch.remove(request)
