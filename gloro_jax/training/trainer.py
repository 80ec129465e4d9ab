"""The loop over steps and epochs, and what it must remember to be interrupted anywhere."""

import copy
import dataclasses
import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console

from gloro_jax.data import Dataset, evaluation_batches, training_batches
from gloro_jax.gloro import GloroNet
from gloro_jax.identity import named_leaves
from gloro_jax.paths import Place
from gloro_jax.schedules import parse_schedule
from gloro_jax.training import manifold
from gloro_jax.training.checkpoint import Checkpoints, Snapshot
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.interrupt import Interrupted, StopRequest
from gloro_jax.training.metrics import MetricsLog, Stopwatch, Totals, best_epoch
from gloro_jax.training.optimizers import learning_rate, make_optimizer
from gloro_jax.training.profiler import Profiler
from gloro_jax.training.progress import TrainingProgress
from gloro_jax.training.scaling import processes
from gloro_jax.training.scaling.parallel import Backend, data_parallel, share
from gloro_jax.training.scaling.requests import Requests
from gloro_jax.training.session import Session
from gloro_jax.training.state import TrainState, initial_state, started_from
from gloro_jax.training.step import make_eval_step, make_train_step

_EVALUATION_BATCH = 256


@dataclasses.dataclass
class Position:
    """Where a run stands, as plain data.

    Attributes:
        batches: batches done of the epoch under way.
        sums: of that epoch's metrics.
        history: one row per finished epoch.
        best_epoch: the best finished epoch on validation (`metrics.best_epoch`), from 1.
        seconds: spent so far, all sittings together.
        place: the devices and the JAX that it was last on.
    """

    batches: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    place: dict[str, Any] = dataclasses.field(default_factory=dict)


class Trainer:
    """One training run in memory.

    Attributes:
        position: where it stands.
        state: weights, vectors and optimiser.
        best: what `freeze` needs of the best epoch, None before the first.
        is_from_initial: whether it started from given weights.
    """

    def __init__(
        self,
        net: GloroNet,
        data: Dataset,
        config: TrainConfig,
        *,
        backend: Backend,
        initial: Mapping[str, Any] | None = None,
        own_optimizer: optax.GradientTransformation | None = None,
    ) -> None:
        self._data, self._config, self._own = data, config, own_optimizer
        per_epoch = self._steps_per_epoch = len(data.train) // config.batch_size
        optimizer = make_optimizer(config, steps_per_epoch=per_epoch, own=own_optimizer)
        shape = data.input_shape
        step = make_train_step(net, config, optimizer, steps_per_epoch=per_epoch, input_shape=shape)
        self._requests = Requests()
        self._train = data_parallel(self._requests.heard_by_all(step), backend=backend)
        judge = make_eval_step(net, config, input_shape=shape)
        self._evaluate = data_parallel(judge, backend=backend)
        self.state: TrainState = initial_state(net, optimizer, seed=config.seed, input_shape=shape)
        if initial is not None:
            self.state = started_from(
                self.state, initial, net=net, optimizer=optimizer, input_shape=shape
            )
        self.position, self.best, self.is_from_initial = Position(), None, initial is not None
        self._pending: Any = None
        self._taken = 0  # steps of the epoch under way that this sitting took
        self._clock = time.perf_counter()  # of the last snapshot

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.position.history) * self._steps_per_epoch + self.position.batches

    @property
    def learnt(self) -> dict[str, Any]:
        """A copy of what `freeze` needs: weights, and running means where there are any."""
        judged = self.state.judged
        return jax.tree.map(np.array, {name: judged[name] for name in ("params", "centering")})

    def snapshot(self) -> Snapshot:
        """Everything `restore` needs, copied.

        Raises:
            FloatingPointError: if the newest loss or a weight is not finite: such a state is not
                worth going on from, and must not displace one that is.
        """
        self._settle()
        self.position.seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()
        self.position.place = processes.place()
        trees = {"state": self.state} | ({} if self.best is None else {"best": self.best})
        arrays = {name: np.array(leaf) for name, leaf in named_leaves(trees)}
        _check_finite(arrays, self.step)
        return Snapshot(self.step, arrays, dataclasses.asdict(self.position))

    def restore(self, snapshot: Snapshot) -> None:
        """Continues from a snapshot.

        Raises:
            ValueError: if it belongs to another network or optimiser.
        """
        template = {"state": self.state, "best": self.learnt}
        if not snapshot.position["best_epoch"]:
            del template["best"]
        names = [name for name, _ in named_leaves(template)]
        shapes = {name: np.shape(leaf) for name, leaf in named_leaves(template)}
        if shapes != {name: array.shape for name, array in snapshot.arrays.items()}:
            raise ValueError(
                f"The checkpoint at step {snapshot.step} belongs to another network: "
                f"{sorted(shapes.keys() ^ snapshot.arrays.keys()) or 'shapes differ'}."
            )
        leaves = [snapshot.arrays[name] for name in names]
        tree = jax.tree.unflatten(jax.tree.structure(template), leaves)
        self.state, self.best = jax.tree.map(jax.numpy.array, tree["state"]), tree.get("best")
        self.position = Position(**snapshot.position)

    def follow_first(self) -> None:
        """Takes over where the first process stands; to be called by all, after it restored."""
        if jax.process_count() == 1:
            return
        said = json.dumps(dataclasses.asdict(self.position))
        self.position = Position(**json.loads(processes.first_says(said)))
        self.state = processes.from_first(self.state)
        if self.position.best_epoch:
            self.best = processes.from_first(self.best or self.learnt)

    def epochs(
        self,
        folder: Place,
        checkpoints: Checkpoints | None,
        log: MetricsLog | None,
        session: Session,
        stop: StopRequest,
    ) -> Iterator[dict[str, Any]]:
        """Trains to the end, and gives each epoch's row; whoever stops asking leaves a checkpoint.

        Without checkpoints and log where another process has them.

        Raises:
            Interrupted: after saving, if `stop` asks for it.
            FloatingPointError: if the loss is not finite.
        """
        total = self._config.epochs * self._steps_per_epoch
        watch, profiler = Stopwatch(), Profiler(folder if session.is_profiling else None)
        console = None if log else Console(quiet=True)
        progress = TrainingProgress(total_steps=total, done=self.step, console=console)
        with progress, profiler:
            while len(self.position.history) < self._config.epochs:
                for _ in self._steps(watch, profiler, stop):
                    progress.step()
                    is_last = self.position.batches == self._steps_per_epoch
                    if self._requests.is_due(self.step, stop) or not is_last:
                        self._save_if_due(checkpoints, session, stop, watch)
                row = self._finish_epoch(watch)
                if log:
                    log.write(row)
                progress.epoch(row, epochs=self._config.epochs)
                # One checkpoint per step: after an epoch's last, the one that knows its result.
                self._save_if_due(checkpoints, session, stop, watch)
                try:
                    with stop.asleep():  # the row is the caller's to change; the history is not
                        yield copy.deepcopy(row)
                except GeneratorExit:
                    self._save(checkpoints)
                    raise
        self._save(checkpoints)

    def _save(self, checkpoints: Checkpoints | None) -> None:
        if checkpoints:
            checkpoints.save(self.snapshot())
            checkpoints.finish()

    def _steps(self, watch: Stopwatch, profiler: Profiler, stop: StopRequest) -> Any:
        """Takes the remaining steps of an epoch, yielding after each."""
        batches = training_batches(
            self._data.train,
            batch_size=self._config.batch_size,
            seed=self._config.seed,
            epoch=len(self.position.history) + 1,
            skip=self.position.batches,
            rows=share(self._config.batch_size),
            area=self._config.augmentation.area,
            extra=self._data.extra,
        )
        for batch in watch.waiting("data", batches):
            with watch.measure("step"), profiler.step(self.step):
                self.state, sums = self._train(self.state, self._requests.added(batch, stop))
                # The last step's numbers are fetched while this one is under way.
                self._settle()
                self._pending = self.step + 1, sums
            self.position.batches += 1
            self._taken += 1
            yield

    def _settle(self) -> None:
        """Adds the sums of the newest step, which waits for it to end."""
        if self._pending is None:
            return
        totals, (step, sums) = Totals(self.position.sums), self._pending
        loss = totals.add(self._requests.heard(step, sums))
        self.position.sums, self._pending = totals.sums, None
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} at step {self.step}. Lower learning_rate or clip_norm, or "
                "check the data; the metrics of earlier epochs are in the run folder."
            )

    def _finish_epoch(self, watch: Stopwatch) -> dict[str, Any]:
        with watch.measure("step"):
            self._settle()
        with watch.measure("evaluation"):
            validation = self._validate()
        position, epoch = self.position, len(self.position.history) + 1
        examples, self._taken = self._taken * self._config.batch_size, 0
        seconds = watch.read()
        busy = seconds.get("data", 0.0) + seconds.get("step", 0.0)
        rate = learning_rate(self._config, steps_per_epoch=self._steps_per_epoch)
        radius = parse_schedule(self._config.epsilon_schedule, epochs=self._config.epochs)
        row = {
            "epoch": epoch,
            "step": epoch * self._steps_per_epoch,
            "train": Totals(position.sums).rates(),
            "validation": validation,
            "learning_rate": None if self._own else float(rate(epoch * self._steps_per_epoch)),
            "epsilon": self._config.epsilon * float(radius(epoch)),
            "timing": {**seconds, "images_per_second": round(examples / max(busy, 1e-9), 1)},
        }
        if far := manifold.distances(self.state.params):
            row["distance_from_orthogonal"] = max(map(float, far.values()))
        position.history.append(row)
        position.batches, position.sums = 0, {}
        if epoch == best_epoch(position.history):
            position.best_epoch = epoch
            self.best = self.learnt
        return row

    def _validate(self) -> dict[str, float]:
        totals, devices = Totals(), jax.device_count()
        size = -(-min(len(self._data.validation), _EVALUATION_BATCH) // devices) * devices
        for batch in evaluation_batches(self._data.validation, batch_size=size, rows=share(size)):
            self.state, sums = self._evaluate(self.state, batch)
            totals.add(sums)
        return totals.rates()

    def _save_if_due(
        self, checkpoints: Checkpoints | None, session: Session, stop: StopRequest, watch: Stopwatch
    ) -> None:
        must_stop = self._requests.is_due(self.step, stop)
        is_old = time.perf_counter() - self._clock >= session.checkpoint_seconds
        if checkpoints and (is_old or must_stop):
            with watch.measure("checkpoint"):
                checkpoints.save(self.snapshot())
        if must_stop:
            if checkpoints:
                checkpoints.finish()
            raise Interrupted(
                f"Stopped at step {self.step}; everything is saved. Go on with the same command "
                "and --resume.",
                number=stop.signal or self._requests.signal or signal.SIGTERM,
            )


def _check_finite(arrays: dict[str, np.ndarray], step: int) -> None:
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise FloatingPointError(
                f"{name} is not finite at step {step}. Lower learning_rate or clip_norm; earlier "
                "checkpoints and metrics are in the run folder."
            )
