"""Who decodes photographs: threads on a few cores, processes on many.

Pillow gives the interpreter's lock back while it decodes and resizes, but a fifth of a picture's
time is Python, so that threads use about five cores and no more (`experiments.bench.decoding`).
"""

import atexit
import concurrent.futures
import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any

_MOST_THREADS = 4
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_EVERY = 2.0  # seconds

Task = concurrent.futures.Future[Any]


def count() -> int:
    """The cores that this process was granted, which may be fewer than the machine has."""
    import joblib

    return joblib.cpu_count()


def are_processes() -> bool:
    """Whether this process has more cores than its threads could use."""
    return count() > _MOST_THREADS


def pool() -> concurrent.futures.Executor:
    """As many workers as there are cores; a script that starts them needs no main guard."""
    if not are_processes():
        return concurrent.futures.ThreadPoolExecutor(count(), "photographs")
    from joblib.externals import loky

    made = loky.ProcessPoolExecutor(count(), initializer=_begin, initargs=(os.getpid(),))
    # Ctrl-C, and Slurm's SIGTERM, reach all processes of a terminal or a job step; what they mean
    # is for the one that trains to say. Blocked here, they are blocked in what is started here;
    # Python's tracker of resources, which loky starts first, would unblock them as it starts.
    resource_tracker.ensure_running()
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        made.submit(os.getpid)  # starts them all
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
    return made


@functools.cache
def lasting() -> concurrent.futures.Executor:
    """The pool for batches, which stays until the program ends."""
    started = pool()
    atexit.register(started.shutdown)
    return started


@contextlib.contextmanager
def tasks(futures: Iterable[Task]) -> Iterator[list[Task]]:
    """Tasks of a pool, in order; those that have not begun when this is left are cancelled.

    Raises:
        ChildProcessError: if a worker was killed; the next call of `lasting` starts new ones.
    """
    begun: list[Task] = []
    try:
        begun.extend(futures)  # a pool that lost a worker takes no more tasks
        yield begun
    except concurrent.futures.BrokenExecutor:
        lasting.cache_clear()
        raise ChildProcessError(
            f"One of {count()} processes that decode photographs was ended from outside, mostly "
            "because memory ran out. The same command goes on, a training with --resume; with "
            f"fewer of them: LOKY_MAX_CPU_COUNT={max(1, count() // 2)} in the environment."
        ) from None
    finally:
        for task in begun:
            task.cancel()


def _begin(parent: int) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when the one that it works for is no more, however it ended."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os._exit(1)
