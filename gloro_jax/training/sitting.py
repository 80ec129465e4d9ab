"""One sitting of a training: its folder, its checkpoints, and what is left of it in the end."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape

from gloro_jax import guarantees, runs
from gloro_jax.data import Dataset
from gloro_jax.evaluation import Report, verified_robust_accuracy
from gloro_jax.evaluation.tightness import layer_norms
from gloro_jax.freezing import freeze
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.gloro import GloroNet
from gloro_jax.paths import Place, locked
from gloro_jax.plain import brief
from gloro_jax.training.checkpoint import Checkpoints
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.interrupt import Interrupted, listening
from gloro_jax.training.metrics import MetricsLog
from gloro_jax.training.scaling import processes
from gloro_jax.training.session import Session
from gloro_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class TrainResult:
    """What training leaves.

    Attributes:
        run: the run folder.
        frozen: the best epoch's network by estimated VRA on validation, with guaranteed bounds.
        best_epoch: which epoch that was, from 1.
        validation: its certified report on the validation split.
        history: one row per epoch, as in metrics.jsonl.
        seconds: wall time of training, all sittings together, compilation included.
    """

    run: Place
    frozen: FrozenNet
    best_epoch: int
    validation: Report
    history: list[dict[str, Any]]
    seconds: float

    __repr__ = brief


def begin(run: Place, plain: dict[str, Any], session: Session, stack: contextlib.ExitStack) -> None:
    """Makes or reopens the run folder, and keeps it for this process alone."""
    folder = _open_folder(run, plain, session)
    busy = f"Another process is training in {folder}. Wait for it, or choose another --run. "
    busy += "(An iterator of gj.training.epochs that was left early is that, until its close().)"
    stack.enter_context(locked(folder, busy=busy))


def _open_folder(run: Place, plain: dict[str, Any], session: Session) -> Place:
    if session.is_resuming and (run / "config.json").is_file():
        # The weights a run started from matter no more once it has a checkpoint.
        stored = runs.read_config(run).get("initial")
        return runs.reopen(run, {"initial": stored, **plain})
    folder = run if session.is_resuming and runs.is_unborn(run) else runs.create(run)
    runs.write_config(folder, plain)
    return folder


def train(
    trainer: Trainer,
    folder: Place,
    session: Session,
    net: GloroNet,
    data: Dataset,
    *,
    has_caller: bool,
) -> Iterator[dict[str, Any]]:
    """Trains from where the run stands to its end, and gives each epoch's row."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    checkpoints = log = None
    if processes.is_first():
        checkpoints = Checkpoints(folder, identity=runs.identity(folder))
    try:
        if session.is_resuming:
            processes.at_first(lambda: _resume(trainer, checkpoints, folder, session, console))
            trainer.follow_first()
        if checkpoints:
            rows, is_drawing = trainer.position.history, session.is_writing_tensorboard
            log = MetricsLog(folder, rows, is_writing_tensorboard=is_drawing)
        with listening(has_caller=has_caller) as stop:
            yield from trainer.epochs(folder, checkpoints, log, session, stop)
    except (Exception, Interrupted) as error:  # a diverged loss included: what was learnt is kept
        try:
            if trainer.best is not None and checkpoints:
                _freeze(net, folder, "best", trainer.best, data.input_shape)
        except Exception as second:
            error.add_note(f"The best weights so far could not be frozen either: {second}")
        raise
    finally:
        if log:
            log.close()
        if checkpoints:
            checkpoints.close()


def _resume(
    trainer: Trainer,
    checkpoints: Checkpoints | None,
    folder: Place,
    session: Session,
    console: Console,
) -> None:
    assert checkpoints  # the first process has them
    snapshot = checkpoints.restore(session.resume_step)
    if snapshot is None:
        if (folder / "summary.json").exists():
            raise ValueError(
                f"{folder} holds trained weights and no checkpoint to go on from: they were "
                "removed, or it was made of another run. Nothing was touched; to train these "
                f"weights on, choose a new folder: --run NEW --init-from {folder}."
            )
        if runs.read_config(folder).get("initial") and not trainer.is_from_initial:
            raise ValueError(
                f"{folder} started from the weights of another run and has no checkpoint yet: "
                "start again in a new folder, with the same --init-from."
            )
        kept = ""
        if any(folder.glob("weights/*.safetensors")):  # of a run that an error ended
            aside = runs.set_aside(folder, [])
            kept = f"; its best weights so far now lie in {escape(str(aside))}"
        console.print(f"no finished checkpoint yet: starting from the beginning{kept}")
        return
    trainer.restore(snapshot)
    earlier, now = trainer.position.place, processes.place()
    if earlier and earlier != now:
        console.print(
            f"saved on {_in_words(earlier)}; now on {_in_words(now)}. Sums are rounded otherwise "
            "there: the run goes on, and does not end with the very bits that it would have."
        )
    later = [step for step in checkpoints.steps() if step > snapshot.step]
    if later:
        aside = runs.set_aside(folder, later)
        checkpoints.reload()
        console.print(f"what came after step {snapshot.step} now lies in {escape(str(aside))}")
    console.print(f"resumed at step {snapshot.step}")


def _in_words(where: dict[str, Any]) -> str:
    several = f" in {n} processes" if (n := where.get("processes", 1)) > 1 else ""
    return f"{where['devices']} x {where['kind']}{several} with JAX {where['jax']}"


def finish(
    trainer: Trainer, folder: Place, net: GloroNet, data: Dataset, config: TrainConfig
) -> TrainResult:
    """Freezes the best and the last weights, and writes the summary."""
    frozen = _freeze(net, folder, "best", trainer.best, data.input_shape)
    last = _freeze(net, folder, "last", trainer.learnt, data.input_shape)
    held_out = [(data.validation.images, data.validation.labels)]
    report = verified_robust_accuracy(
        frozen,
        held_out,
        epsilon=config.epsilon,
        guarantee=guarantees.parse(config.guarantee),
    )
    position = trainer.position
    norms = layer_norms(last, trainer.state.spectral, steps=config.power_steps)
    summary = {
        "best_epoch": position.best_epoch,
        "seconds": round(position.seconds, 1),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "validation": {"clean": report.clean_accuracy, "vra": report.vra},
        "norms": norms,
    }
    if processes.is_first():
        runs.write_summary(folder, summary)
    return TrainResult(
        folder, frozen, position.best_epoch, report, position.history, position.seconds
    )


def _freeze(
    net: GloroNet,
    folder: Place,
    checkpoint: runs.Checkpoint,
    learnt: Any,
    input_shape: tuple[int, ...],
) -> FrozenNet:
    """The network with true bounds: at every process, written by the first."""
    frozen = freeze(net, learnt, input_shape=input_shape)
    if processes.is_first():
        runs.save_variables(folder, checkpoint, learnt)
        runs.save_frozen(folder, checkpoint, frozen)
    return frozen
