"""Who decodes photographs: threads on a few cores, processes on many.

Pillow gives the interpreter's lock back while it decodes and resizes, but a fifth of a picture's
time is Python, so that threads use about five cores and no more (`experiments.bench.decoding`).
"""

import atexit
import concurrent.futures
import contextlib
import functools
import signal
from collections.abc import Iterable, Iterator
from typing import Any

_MOST_THREADS = 4
_ENDED = (
    "A process that decodes photographs was ended from outside, mostly because memory ran out. "
    "Fewer of them at a time: LOKY_MAX_CPU_COUNT=8 in the environment; up to "
    f"{_MOST_THREADS} there are threads only."
)

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

    return loky.ProcessPoolExecutor(count(), initializer=_begin)


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
        RuntimeError: if a worker was killed; the next call of `lasting` starts new ones.
    """
    begun = list(futures)
    try:
        yield begun
    except concurrent.futures.BrokenExecutor:
        lasting.cache_clear()
        raise RuntimeError(_ENDED) from None
    finally:
        for task in begun:
            task.cancel()


def _begin() -> None:
    # Ctrl-C reaches all processes of a terminal; what it means is for the one that trains to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
