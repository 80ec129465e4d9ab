"""fit: the loop around the steps. No mathematics lives here."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gloro_jax import runs
from gloro_jax.data import Batch, Dataset, evaluation_batches, training_batches
from gloro_jax.evaluation import Report, verified_robust_accuracy
from gloro_jax.freeze import freeze
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.gloro import GloroNet
from gloro_jax.models import ModelConfig
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.metrics import MetricsLog, Totals
from gloro_jax.training.parallel import Backend, data_parallel
from gloro_jax.training.progress import TrainingProgress
from gloro_jax.training.state import TrainState, initial_state
from gloro_jax.training.step import make_eval_step, make_optimizer, make_train_step
from gloro_jax.version import __version__

_EVALUATION_BATCH = 256


@dataclasses.dataclass(frozen=True, eq=False)
class TrainResult:
    """What training leaves.

    Attributes:
        run: the run folder.
        frozen: the best epoch's network by estimated VRA on validation, with guaranteed bounds.
        best_epoch: which epoch that was, from 1.
        validation: its certified report on the validation split.
        history: one row per epoch, as in metrics.jsonl.
        seconds: wall time of the epochs, compilation included.
    """

    run: Path
    frozen: FrozenNet
    best_epoch: int
    validation: Report
    history: list[dict[str, Any]]
    seconds: float


@dataclasses.dataclass
class _Best:
    vra: float = -1.0
    clean: float = -1.0
    epoch: int = 0
    params: Any = None

    def offer(self, rates: dict[str, float], epoch: int, state: TrainState) -> None:
        if (rates["vra_estimate"], rates["clean"]) > (self.vra, self.clean):
            self.vra, self.clean, self.epoch = rates["vra_estimate"], rates["clean"], epoch
            self.params = jax.tree.map(np.array, state.params)


def fit(
    net: GloroNet | ModelConfig,
    data: Dataset,
    config: TrainConfig,
    *,
    run: str | os.PathLike[str],
    backend: Backend = "pmap",
) -> TrainResult:
    """Trains, picks the best epoch on validation, freezes and saves.

    Args:
        net: a model config, or a network of one's own (then `gj.load` needs it again).
        data: splits, from `gj.data.from_arrays` or `gj.data.digits`. The test split is not used.
        config: how to train.
        run: a new folder for config, metrics and weights.
        backend: how steps run on several devices.

    Returns:
        The result; `run` holds the same on disk.

    Raises:
        ValueError: if config, network and data do not fit; before anything is written.
        FileExistsError: if `run` exists.
        FloatingPointError: if the loss is NaN or infinite, with the step. Metrics, and the best
            epoch's weights so far, are kept, as they are after Ctrl-C.
    """
    if isinstance(net, ModelConfig):
        runs.check_model(net)
    built = net.build() if isinstance(net, ModelConfig) else net
    steps_per_epoch = _check(built, data, config)
    optimizer = make_optimizer(config, steps_per_epoch=steps_per_epoch)
    state = initial_state(built, optimizer, seed=config.seed, input_shape=data.input_shape)
    step = make_train_step(built, config, optimizer, steps_per_epoch=steps_per_epoch)
    folder = runs.create(run)
    runs.write_config(folder, _plain_config(net, data, config))
    trainer = data_parallel(step, backend=backend)
    evaluator = data_parallel(make_eval_step(built, config), backend=backend)

    best, history, start = _Best(), [], time.perf_counter()
    log = MetricsLog(folder)
    try:
        with TrainingProgress(total_steps=config.epochs * steps_per_epoch) as progress:
            for epoch in range(1, config.epochs + 1):
                state, row = _epoch(trainer, evaluator, state, data, config, epoch, progress)
                row["seconds"] = round(time.perf_counter() - start, 3)
                log.write(row)
                history.append(row)
                best.offer(row["validation"], epoch, state)
                progress.epoch(row, epochs=config.epochs)
    except BaseException:  # Ctrl-C and a diverged loss included: what was learnt is kept
        if best.epoch:
            _freeze(built, folder, "best", best.params, data.input_shape)
        raise
    frozen = _freeze(built, folder, "best", best.params, data.input_shape)
    _freeze(built, folder, "last", state.params, data.input_shape)
    held_out = [(data.validation.images, data.validation.labels)]
    report = verified_robust_accuracy(frozen, held_out, epsilon=config.epsilon)
    return TrainResult(folder, frozen, best.epoch, report, history, history[-1]["seconds"])


def _epoch(
    trainer: Callable[..., Any],
    evaluator: Callable[..., Any],
    state: TrainState,
    data: Dataset,
    config: TrainConfig,
    epoch: int,
    progress: TrainingProgress,
) -> tuple[TrainState, dict[str, Any]]:
    totals, waiting = Totals(), None
    batches = training_batches(
        data.train, batch_size=config.batch_size, seed=config.seed, epoch=epoch
    )
    first = (epoch - 1) * (len(data.train) // config.batch_size) + 1
    number = first
    for batch in batches:
        state, sums = trainer(state, batch)
        # The next step is under way before the last one's numbers are fetched.
        if waiting is not None:
            _add(totals, waiting, step=number - 1)
        waiting = sums
        number += 1
        progress.step()
    _add(totals, waiting, step=number - 1)
    state, validation = _evaluate(evaluator, state, data)
    return state, {"epoch": epoch, "train": totals.rates(), "validation": validation}


def _add(totals: Totals, sums: Any, *, step: int) -> None:
    loss = totals.add(sums)
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss is {loss} at step {step}. Lower learning_rate or clip_norm, or check the "
            "data; the metrics of earlier epochs are in the run folder."
        )


def _evaluate(
    evaluator: Callable[..., Any], state: TrainState, data: Dataset
) -> tuple[TrainState, dict[str, float]]:
    totals = Totals()
    size = _evaluation_batch(len(data.validation))
    for batch in evaluation_batches(data.validation, batch_size=size):
        state, sums = evaluator(state, Batch(*batch))
        totals.add(sums)
    return state, totals.rates()


def _evaluation_batch(examples: int) -> int:
    devices = jax.local_device_count()
    return -(-min(examples, _EVALUATION_BATCH) // devices) * devices


def _freeze(
    net: GloroNet,
    folder: Path,
    checkpoint: runs.Checkpoint,
    params: Any,
    input_shape: tuple[int, ...],
) -> FrozenNet:
    frozen = freeze(net, {"params": params}, input_shape=input_shape)
    runs.save_frozen(folder, checkpoint, frozen)
    return frozen


def _check(net: Any, data: Any, config: Any) -> int:
    if not isinstance(net, GloroNet):
        raise TypeError(f"fit trains a gj.GloroNet or a model config, got {type(net).__name__}.")
    if not isinstance(data, Dataset):
        raise TypeError(
            f"fit takes a Dataset, got {type(data).__name__}: make one with "
            "gj.data.from_arrays((images, labels), (test_images, test_labels))."
        )
    if not isinstance(config, TrainConfig):
        raise TypeError(
            f"fit takes a gj.training.TrainConfig, got {type(config).__name__}: for example "
            "gj.training.TrainConfig(epsilon=0.5, epochs=20)."
        )
    if net.num_classes != data.num_classes:
        raise ValueError(
            f"The network has {net.num_classes} classes and the data {data.num_classes}: "
            f"build it with num_classes={data.num_classes}."
        )
    if len(data.train) < config.batch_size:
        raise ValueError(
            f"batch_size {config.batch_size} exceeds the {len(data.train)} training examples."
        )
    devices = jax.local_device_count()
    if config.batch_size % devices:
        raise ValueError(
            f"batch_size {config.batch_size} must be a multiple of the {devices} devices."
        )
    return len(data.train) // config.batch_size


def _plain_config(
    net: GloroNet | ModelConfig, data: Dataset, config: TrainConfig
) -> dict[str, Any]:
    return {
        "gloro_jax": __version__,
        "model": dataclasses.asdict(net) if isinstance(net, ModelConfig) else None,
        "data": {"name": data.name, "examples": len(data.train), "input_shape": data.input_shape},
        "training": dataclasses.asdict(config),
    }
