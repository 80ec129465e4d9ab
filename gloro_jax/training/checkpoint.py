"""Checkpoints: everything a run needs to go on, written by orbax in the background.

A checkpoint is a flat dictionary of arrays, the position in the data as JSON, and a SHA-256 over
both: a truncated or half-copied checkpoint is noticed here, whatever the storage layer makes of it.
It also holds the identity of its run, so that one of another run is not gone on from.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gloro_jax.paths import Place
from gloro_jax.training.storage import Manners

Arrays = dict[str, np.ndarray]

_KEPT = 2
_LONGEST_REASON = 160


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
    """The checkpoints of one run folder; the newest two are kept.

    Args:
        run: the run folder.
        identity: of the run's config and data.
    """

    def __init__(self, run: Place, *, identity: str = "") -> None:
        folder = run / "checkpoints"
        self._folder = folder.resolve() if isinstance(folder, Path) else folder
        self._identity = identity
        # The arrays are equal at every process, and one writes them: no other waits for it here.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            cleanup_tmp_directories=jax.process_count() == 1,
            create=False,
            multiprocessing_options=alone,
        )
        self._folder.mkdir(exist_ok=True)
        self._manners = Manners()
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except BaseException:
            self._manners.end()
            raise

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
        sealed = {
            **snapshot.position, "run": self._identity, "digest": _digest(snapshot, self._identity)
        }  # fmt: skip
        items = ocp.args.Composite(
            arrays=ocp.args.StandardSave(snapshot.arrays), position=ocp.args.JsonSave(sealed)
        )
        self._guarded(snapshot.step, lambda: self._manager.save(snapshot.step, args=items))

    def finish(self) -> None:
        """Waits until what was begun is written, and reads it back.

        Raises:
            OSError: if it could not be written, or cannot be read.
        """
        newest = self._manager.latest_step()

        def read_back() -> None:
            self._manager.wait_until_finished()
            if newest is not None:
                self._read(newest)

        self._guarded(newest, read_back)

    def close(self) -> None:
        """Gives the folder back."""
        try:
            self._manager.close()
        finally:
            self._manners.end()

    def restore(self, step: int | None = None) -> Snapshot | None:
        """The newest checkpoint, or that of `step`; None if there is none at all.

        Raises:
            ValueError: if it is damaged, not there, or of another run. Another one is named, never
                taken silently.
        """
        steps = self.steps()
        if step is None and not steps:
            return None
        chosen = steps[-1] if step is None else step
        if chosen not in steps:
            there = ", ".join(str(step) for step in steps) or "none"
            raise ValueError(f"There is no checkpoint at step {chosen}; there is {there}.")
        try:
            snapshot, identity = self._read(chosen)
        except Exception as error:  # orbax raises whatever its storage layer raised
            raise ValueError(self._damaged(chosen, steps, _in_short(error))) from error
        if self._identity and identity not in ("", self._identity):
            raise ValueError(
                f"The checkpoint at step {chosen}, {self._folder / str(chosen)}, was made by a run "
                "with another config or other data. Put it back where it came from, or resume from "
                "a checkpoint of this run."
            )
        return snapshot

    def _read(self, step: int) -> tuple[Snapshot, str]:
        """A checkpoint, found whole, and the identity of its run; "" before runs had one."""
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(), position=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=items)
        arrays = {name: np.asarray(array) for name, array in found["arrays"].items()}
        position = dict(found["position"])
        digest, identity = position.pop("digest", None), str(position.pop("run", ""))
        snapshot = Snapshot(step, arrays, position)
        if digest != _digest(snapshot, identity):
            raise ValueError("its digest does not match")
        return snapshot, identity

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
                f"({_in_short(error)}). {kept}. "
                "Make room or mend the permissions, then go on with --resume."
            ) from error


def _in_short(error: Exception) -> str:
    """The first words of an error of the storage layer, which goes on with a page of JSON."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + " ..."


def _digest(snapshot: Snapshot, identity: str) -> str:
    sealed = [snapshot.step, snapshot.position, *([identity] if identity else [])]
    sha = hashlib.sha256(json.dumps(sealed, sort_keys=True).encode())
    for name in sorted(snapshot.arrays):
        array = snapshot.arrays[name]
        sha.update(f"{name} {array.shape} {array.dtype.str}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
