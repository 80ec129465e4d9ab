"""Stopping together: what one process is asked for, all hear of, and all do after the same step.

A signal reaches one host, or each of them at another moment. So each step adds up, over all
devices, whether anybody was asked to stop; its sums are the same everywhere, and known everywhere
once the next step was begun.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.training.interrupt import StopRequest
from gloro_jax.training.scaling.parallel import Step, sum_over_devices

_ASKS = "asks"


class Requests:
    """The requests to stop of every process; where there is only one, its own."""

    def __init__(self) -> None:
        self._is_alone = jax.process_count() == 1
        self._stop_after: int | None = None

    def heard_by_all(self, step: Step) -> Step:
        """`step`, whose batch also says whether this process asks, and whose sums, how many do."""
        if self._is_alone:
            return step

        def and_asks(state: Any, given: Any) -> tuple[Any, Any]:
            batch, asks = given
            state, sums = step(state, batch)
            return state, {**sums, _ASKS: sum_over_devices(jnp.sum(asks))}

        return and_asks

    def added(self, batch: Any, stop: StopRequest) -> Any:
        """What the step of `heard_by_all` takes."""
        if self._is_alone:
            return batch
        return batch, np.full(jax.local_device_count(), stop.signal is not None, np.float32)

    def heard(self, step: int, sums: dict[str, Any]) -> dict[str, Any]:
        """The sums of a step without what `heard_by_all` added, which is noted."""
        if not self._is_alone and np.asarray(sums[_ASKS]) > 0 and self._stop_after is None:
            self._stop_after = step + 1  # by when every process has seen these sums
        return {name: value for name, value in sums.items() if name != _ASKS}

    def is_due(self, step: int, stop: StopRequest) -> bool:
        """Whether to stop after this step."""
        if self._is_alone:
            return stop.signal is not None
        return self._stop_after is not None and step >= self._stop_after
