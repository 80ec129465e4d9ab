"""Stopping together: what one process is asked for, all hear of, and all do after the same step.

A signal reaches one host, or each of them at another moment. So each step adds up, over all
devices, whether anybody was asked to stop; its sums are the same everywhere, and known everywhere
once the next step was begun.
"""

import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.training.interrupt import StopRequest
from gloro_jax.training.scaling.parallel import Step, sum_over_devices

_ASKS = "asks"
_NUMBERS = (signal.SIGTERM, signal.SIGINT)  # in doubt the latter, after which nobody tries again


class Requests:
    """The requests to stop of every process; where there is only one, its own.

    Attributes:
        signal: the number of the signal that another process was stopped by, once it is known.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._is_alone = jax.process_count() == 1
        self._stop_after: int | None = None

    def heard_by_all(self, step: Step) -> Step:
        """`step`, whose batch also says whether this process asks, and whose sums, how many do."""
        if self._is_alone:
            return step

        def and_asks(state: Any, given: Any) -> tuple[Any, Any]:
            batch, asks = given
            state, sums = step(state, batch)
            return state, {**sums, _ASKS: sum_over_devices(jnp.sum(asks, axis=0))}

        return and_asks

    def added(self, batch: Any, stop: StopRequest) -> Any:
        """What the step of `heard_by_all` takes."""
        if self._is_alone:
            return batch
        asks = np.array([stop.signal == number for number in _NUMBERS], np.float32)
        return batch, np.tile(asks, (jax.local_device_count(), 1))

    def heard(self, step: int, sums: dict[str, Any]) -> dict[str, Any]:
        """The sums of a step without what `heard_by_all` added, which is noted."""
        if not self._is_alone and self._stop_after is None:
            counts = np.asarray(sums[_ASKS])
            asked = [number for number, n in zip(_NUMBERS, counts, strict=True) if n > 0]
            if asked:
                self.signal = asked[-1]
                self._stop_after = step + 1  # by when every process has seen these sums
        return {name: value for name, value in sums.items() if name != _ASKS}

    def is_due(self, step: int, stop: StopRequest) -> bool:
        """Whether to stop after this step."""
        if self._is_alone:
            return stop.signal is not None
        return self._stop_after is not None and step >= self._stop_after
