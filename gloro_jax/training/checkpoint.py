"""Checkpoints: everything a run needs to go on, written by orbax in the background.

A checkpoint is a flat dictionary of arrays, the position in the data as JSON, and a SHA-256 over
both: a truncated or half-copied checkpoint is noticed here, whatever the storage layer makes of it.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

Arrays = dict[str, np.ndarray]

_KEPT = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """One moment of a run.

    Attributes:
        step: steps taken.
        arrays: state and best weights, by path.
        position: plain data: where in the epoch, the metrics so far, the best epoch.
    """

    step: int
    arrays: Arrays
    position: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder; the newest two are kept."""

    def __init__(self, run: Path) -> None:
        self._folder = (run / "checkpoints").resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def steps(self) -> list[int]:
        """The steps at which finished checkpoints lie here, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, snapshot: Snapshot) -> None:
        """Begins to write; the arrays must not change afterwards.

        Raises:
            OSError: if this write or the one before failed. Earlier checkpoints are untouched.
        """
        if snapshot.step in self.steps():
            return
        sealed = {**snapshot.position, "digest": _digest(snapshot)}
        items = ocp.args.Composite(
            arrays=ocp.args.StandardSave(snapshot.arrays), position=ocp.args.JsonSave(sealed)
        )
        self._guarded(snapshot.step, lambda: self._manager.save(snapshot.step, args=items))

    def finish(self) -> None:
        """Waits until what was begun is written; raises an OSError if it could not be."""
        self._guarded(self._manager.latest_step(), self._manager.wait_until_finished)

    def close(self) -> None:
        """Gives the folder back."""
        self._manager.close()

    def restore(self, step: int | None = None) -> Snapshot | None:
        """The newest checkpoint, or that of `step`; None if there is none at all.

        Raises:
            ValueError: if it is damaged or not there. Another one is named, never taken silently.
        """
        steps = self.steps()
        if step is None and not steps:
            return None
        chosen = steps[-1] if step is None else step
        if chosen not in steps:
            there = ", ".join(str(step) for step in steps) or "none"
            raise ValueError(f"There is no checkpoint at step {chosen}; there is {there}.")
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(), position=ocp.args.JsonRestore()
        )
        try:
            found = self._manager.restore(chosen, args=items)
            arrays = {name: np.asarray(array) for name, array in found["arrays"].items()}
            position = dict(found["position"])
            snapshot = Snapshot(chosen, arrays, position)
            digest = position.pop("digest", None)
            is_whole = digest == _digest(snapshot)
        except Exception as error:  # orbax raises whatever its storage layer raised
            raise ValueError(self._damaged(chosen, steps, str(error).split("\n")[0])) from error
        if not is_whole:
            raise ValueError(self._damaged(chosen, steps, "its digest does not match"))
        return snapshot

    def reload(self) -> None:
        """Looks at the folder again, after checkpoints were moved."""
        self._manager.reload()

    def _damaged(self, step: int, steps: list[int], why: str) -> str:
        older = [s for s in steps if s < step]
        way_out = (
            f"Go on from the older one with --resume --resume-step {older[-1]}."
            if older
            else "There is no older one: start again in a new folder."
        )
        where = self._folder / str(step)
        return f"The checkpoint at step {step}, {where}, is damaged: {why}. {way_out}"

    def _guarded(self, step: int | None, write: Any) -> None:
        try:
            write()
        except Exception as error:
            whole = [s for s in self.steps() if s != step]
            kept = f"The one at step {whole[-1]} is whole" if whole else "There is no earlier one"
            raise OSError(
                f"A checkpoint could not be written to {self._folder} "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). {kept}. "
                "Make room or mend the permissions, then go on with --resume."
            ) from error


def _digest(snapshot: Snapshot) -> str:
    sha = hashlib.sha256(json.dumps([snapshot.step, snapshot.position], sort_keys=True).encode())
    for name in sorted(snapshot.arrays):
        array = snapshot.arrays[name]
        sha.update(f"{name} {array.shape} {array.dtype.str}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
