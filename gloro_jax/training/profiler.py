"""Recording a few steps with JAX's profiler."""

import contextlib
from collections.abc import Iterator
from types import TracebackType

import jax

from gloro_jax.paths import Place

_WARM_UP, _RECORDED = 5, 10  # the first steps compile and would dwarf the others


class Profiler:
    """Records steps 6 to 15 of this sitting into RUN/profile; does nothing without a folder."""

    def __init__(self, run: Place | None) -> None:
        self._folder = run / "profile" if run else None
        self._seen, self._is_recording = 0, False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Marks one training step."""
        if self._folder is None:
            yield
            return
        self._seen += 1
        if self._seen == _WARM_UP + 1:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._is_recording = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if self._seen == _WARM_UP + _RECORDED:
            self._stop()

    def _stop(self) -> None:
        if self._is_recording:
            jax.profiler.stop_trace()
            self._is_recording = False
