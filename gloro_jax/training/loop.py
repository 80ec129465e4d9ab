"""fit, and the same epoch by epoch."""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any

import optax

from gloro_jax import runs
from gloro_jax.data import Dataset
from gloro_jax.freezing import check_freezable
from gloro_jax.gloro import GloroNet
from gloro_jax.models import ModelConfig
from gloro_jax.paths import is_in_bucket, place
from gloro_jax.platforms import in_32_bits, one_blas_thread
from gloro_jax.training.beginning import check, facts, plain_config, say_if_small
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.optimizers import described
from gloro_jax.training.scaling import processes
from gloro_jax.training.scaling.parallel import Backend
from gloro_jax.training.session import Session
from gloro_jax.training.sitting import TrainResult, begin, finish, train
from gloro_jax.training.trainer import Trainer


def fit(
    net: GloroNet | ModelConfig,
    data: Dataset,
    config: TrainConfig,
    *,
    run: str | os.PathLike[str],
    session: Session | None = None,
    backend: Backend = "pmap",
    initial: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainResult:
    """Trains, picks the best epoch on validation, freezes and saves.

    Args:
        net: a model config, or a network of one's own (then `gj.load` needs it again).
        data: splits, from `gj.data.from_arrays` or `gj.data.open_data`. The test split is not
            used.
        config: how to train.
        run: a folder for config, metrics, checkpoints and weights; new, unless resuming.
        session: resuming, checkpoints, event files, profile; see `Session`.
        backend: how steps run on several devices.
        initial: "params", and "centering" where the network has it, to start from, as
            `gj.runs.load_variables` returns them; fresh ones from the seed unless given.
        optimizer: one of optax's or of one's own, in place of the config's optimiser, clipping,
            learning rate and Lookahead, that takes gradients and parameters, and no loss. Square
            parameters named "orthogonal" keep theirs. Resuming compares its kind, not its numbers.

    Returns:
        The result; `run` holds the same on disk.

    Raises:
        TypeError: if a layer could not be frozen in the end, before anything is written.
        ValueError: if config, network and data do not fit, before anything is written; or if a
            checkpoint is damaged or the run was begun with another config.
        FileExistsError: if `run` exists and is not to be resumed, or is being trained in.
        FloatingPointError: if the loss is NaN or infinite, with the step. Metrics, checkpoints and
            the best epoch's weights so far are kept.
        Interrupted: after Ctrl-C or SIGTERM, when everything was saved.
        OSError: if a checkpoint cannot be written; earlier ones stay as they are.
    """
    told = session or Session(), backend, initial, optimizer
    training = Epochs(_run(net, data, config, run, *told, has_caller=False))
    for _ in training:
        pass
    assert training.result
    return training.result


def epochs(
    net: GloroNet | ModelConfig,
    data: Dataset,
    config: TrainConfig,
    *,
    run: str | os.PathLike[str],
    session: Session | None = None,
    backend: Backend = "pmap",
    initial: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> "Epochs":
    """As `fit`, epoch by epoch: for those who log elsewhere or stop by a rule of their own.

        for row in gj.training.epochs(net, data, config, run="runs/m"):
            tracker.log(row["validation"], step=row["epoch"])

    A row is a line of metrics.jsonl. When there is none left, the network is frozen and saved, and
    `result` is what `fit` returns. `close()`, the end of a `with` block around the iterator, an
    error in the loop and the end of the program save a checkpoint; the same call with
    `Session(is_resuming=True)` goes on from it. A row is a copy. Arguments and errors are `fit`'s.
    """
    told = session or Session(), backend, initial, optimizer
    return Epochs(_run(net, data, config, run, *told, has_caller=True))


class Epochs:
    """An iterator over the rows of a training.

    Attributes:
        result: what `fit` returns, once the last epoch has been asked for; None before.
    """

    def __init__(self, steps: Generator[dict[str, Any], None, TrainResult]) -> None:
        self._steps = steps
        self.result: TrainResult | None = None
        self._close = _closer(steps)
        _unfinished.add(self._close)
        _close_at_the_end()

    def __iter__(self) -> "Epochs":
        return self

    @in_32_bits
    def __next__(self) -> dict[str, Any]:
        # From the first number to the last: with two threads, BLAS rounds otherwise than with one.
        with one_blas_thread():
            try:
                return next(self._steps)
            except StopIteration as stop:
                self.result = stop.value or self.result
                raise StopIteration from None

    def __enter__(self) -> "Epochs":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends here: a checkpoint is saved, and the run folder is free for another training."""
        _unfinished.discard(self._close)
        self._close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


_unfinished: set[Callable[[], None]] = set()


@functools.cache
def _close_at_the_end() -> None:
    """Has what is unfinished saved when the program ends, while saving may still start threads.

    `atexit` comes after `concurrent.futures` has closed its door, which uses the same private hook.
    """
    hook: Any = threading
    hook._register_atexit(lambda: [close() for close in list(_unfinished)])


def _closer(steps: Any) -> Callable[[], None]:
    @in_32_bits
    def close() -> None:
        steps.close()

    return close


def _run(
    net: GloroNet | ModelConfig,
    data: Dataset,
    config: TrainConfig,
    run: str | os.PathLike[str],
    session: Session,
    backend: Backend,
    initial: Mapping[str, Any] | None,
    optimizer: optax.GradientTransformation | None,
    *,
    has_caller: bool,
) -> Generator[dict[str, Any], None, TrainResult]:
    if isinstance(net, ModelConfig):
        runs.check_model(net)
    built = net.build() if isinstance(net, ModelConfig) else net
    check(built, data, config)
    folder = place(run)
    if is_in_bucket(run) and (session.is_profiling or session.is_writing_tensorboard):
        raise ValueError(
            f"--profile and --tensorboard write files of this machine, and the run folder {folder} "
            "is in a bucket: leave them out, or choose a run folder here."
        )
    plain = plain_config(net, data, config)
    if optimizer is not None:
        plain["own_optimizer"] = described(optimizer)
    processes.check_agreement(facts(plain, session))
    if not session.is_resuming:  # before the weights are made, which may take a minute
        processes.at_first(lambda: runs.check_new(run))
    options: Any = {"backend": backend, "initial": initial, "own_optimizer": optimizer}
    trainer = Trainer(built, data, config, **options)
    if built is net:  # of one's own: what cannot be frozen in the end need not be trained
        check_freezable(built, trainer.learnt, input_shape=data.input_shape)
    if initial is not None:
        plain["initial"] = runs.variables_digest(trainer.learnt)
    with contextlib.ExitStack() as stack:
        processes.at_first(lambda: begin(folder, plain, session, stack))
        if processes.is_first():
            say_if_small(data.validation)
        yield from train(trainer, folder, session, built, data, has_caller=has_caller)
        return finish(trainer, folder, built, data, config)
