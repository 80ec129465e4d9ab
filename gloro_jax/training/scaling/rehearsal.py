"""Rehearsal: the real training step at its real batch, compiled for devices that are not there.

Virtual CPU devices, or a TPU topology that libtpu describes without a TPU. What it says of memory
and collectives is what the compiler says of the very program; of time it says an estimate.

It runs in a process of its own: `python -m gloro_jax.training.scaling.rehearsal`, with a Task as
JSON on standard input, and what was found as JSON on the last line of standard output.
"""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.data.batches import Batch
from gloro_jax.models import as_plain, from_plain_model
from gloro_jax.plain import from_plain
from gloro_jax.platforms import compiling_for
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.scaling.parallel import compiled_for, operations
from gloro_jax.training.state import state_shapes
from gloro_jax.training.step import make_train_step

SHARE_OF_PEAK = 0.35  # what the estimate of time supposes
_COUNTED = 4  # examples that operations are counted on

# GiB of memory and peak TFLOP/s (bfloat16) of one chip, as their maker states them.
_CHIPS = {
    "v2": (16, 46), "v3": (32, 123), "v4": (32, 275), "v5e": (16, 197), "v5p": (95, 459),
    "v6e": (32, 918),
}  # fmt: skip
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


@dataclasses.dataclass(frozen=True)
class Task:
    """What to rehearse.

    Attributes:
        model: a model config, as plain data.
        training: how to train.
        input_shape: one image.
        examples: of an epoch.
        topology: of a TPU, "v5e:4x4"; "" for virtual CPU devices.
        devices: how many of those.
    """

    model: dict[str, Any]
    training: TrainConfig
    input_shape: tuple[int, ...]
    examples: int
    topology: str = ""
    devices: int = 1


@dataclasses.dataclass(frozen=True)
class Found:
    """What the compiled program says.

    Attributes:
        devices: how many.
        kind: what they are.
        parameters: trainable numbers.
        flops_per_image: of a training step; a multiply-add is two.
        arguments: bytes a device of state and batch.
        temporaries: bytes a device that the step needs beside them.
        chip_bytes: what a chip has; 0 where that is not known.
        peak_flops: of a chip, in bfloat16; 0 where that is not known.
        collectives: how many of each kind a step performs.
        seconds: that compiling took.
        error: what the compiler said where the program does not fit; empty if it does.
    """

    devices: int
    kind: str
    parameters: int
    flops_per_image: float
    arguments: int
    temporaries: int
    chip_bytes: int
    peak_flops: float
    collectives: dict[str, int]
    seconds: float
    error: str = ""

    @property
    def fits(self) -> bool:
        """Whether the step compiled, into the memory that a chip is known to have."""
        is_within = self.arguments + self.temporaries <= (self.chip_bytes or math.inf)
        return not self.error and is_within


def rehearse(task: Task) -> Found:
    """Compiles the step of `task` in a process with devices of its own.

    Raises:
        ValueError: if the devices do not divide the batch, or the topology is not known.
        ImportError: if a topology is asked for and libtpu is not installed.
        RuntimeError: if compiling failed for another reason.
    """
    kind = task.topology.partition(":")[0]
    if task.topology and kind not in _CHIPS:
        raise ValueError(
            f"--topology is a kind of TPU and its shape, v5e:4x4 for example; got "
            f"{task.topology!r}. Kinds: {', '.join(_CHIPS)}."
        )
    if task.devices < 1:
        raise ValueError(f"--devices is at least 1, got {task.devices}.")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1" if task.topology else str(task.devices),
        "TPU_SKIP_MDS_QUERY": "1",
        "JAX_ENABLE_X64": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "gloro_jax.training.scaling.rehearsal"],
        input=json.dumps(dataclasses.asdict(task)),
        capture_output=True,
        text=True,
        env=environment,
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return Found(**json.loads(lines[-1]))
    said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    for name, error in (("ValueError", ValueError), ("ImportError", ImportError)):
        if said.startswith(f"{name}: "):
            raise error(said.removeprefix(f"{name}: "))
    raise RuntimeError(f"The rehearsal failed: {said[:500]}")


def _devices(task: Task) -> list[Any]:
    if not task.topology:
        return list(jax.devices())
    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
        from jax.experimental import topologies
    except ImportError:
        raise ImportError(
            "A topology takes libtpu, which needs no TPU: pip install 'gloro-jax[tpu-rehearsal]'."
        ) from None
    try:
        described = topologies.get_topology_desc(topology_name=task.topology, platform="tpu")
    except Exception as error:
        raise ValueError(
            f"libtpu knows no topology {task.topology!r}: {str(error).splitlines()[0][:200]} For "
            "example v5e:2x2, v5e:4x4, v4:2x2x2, v5p:2x2x2."
        ) from None
    return list(described.devices)


def _compile(task: Task) -> Found:
    config, devices = task.training, _devices(task)
    parts = len(devices) * config.microbatches
    if config.batch_size % parts:
        below, above = (config.batch_size // parts * parts, -(-config.batch_size // parts) * parts)
        raise ValueError(
            f"{len(devices)} devices times {config.microbatches} microbatches do not divide the "
            f"batch of {config.batch_size}: choose a multiple of {parts}, "
            f"{f'{below} or {above}' if below else above} for example."
        )
    net, steps = from_plain_model(task.model).build(), max(1, task.examples // config.batch_size)
    optimizer = make_optimizer(config, steps_per_epoch=steps)
    told = {"steps_per_epoch": steps, "input_shape": task.input_shape}
    step = make_train_step(net, config, optimizer, **told)
    state = state_shapes(net, optimizer, input_shape=task.input_shape)
    kind = task.topology.partition(":")[0]
    memory, peak = _CHIPS.get(kind, (0, 0))
    start, error, program = time.perf_counter(), "", None
    with compiling_for("tpu" if task.topology else "cpu"):
        try:
            batch = _batch(config.batch_size, task.input_shape)
            program = compiled_for(step, state, batch, devices=devices)
        except Exception as failure:
            if "RESOURCE_EXHAUSTED" not in str(failure):
                raise
            error = str(failure)
    used = program.memory_analysis() if program else None
    return Found(
        devices=len(devices),
        kind=kind or "cpu",
        parameters=sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params)),
        flops_per_image=_flops(step, state, task.input_shape),
        arguments=int(used.argument_size_in_bytes) if used else 0,
        temporaries=int(used.temp_size_in_bytes) if used else 0,
        chip_bytes=memory * 2**30,
        peak_flops=peak * 1e12,
        collectives=_collectives(program.as_text()) if program else {},
        seconds=round(time.perf_counter() - start, 1),
        error=error[:2000],
    )


def _batch(size: int, input_shape: tuple[int, ...]) -> Batch:
    def shape(*axes: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((size, *axes), dtype)

    return Batch(
        shape(*input_shape, dtype=jnp.uint8),
        shape(dtype=jnp.int32),
        shape(dtype=jnp.bool_),
        shape(dtype=jnp.int32),
    )


def _flops(step: Any, state: Any, input_shape: tuple[int, ...]) -> float:
    """Counted on the program as written, its loops unrolled, for a few images on one device."""

    def counted(size: int) -> float:
        return operations(step, state, _batch(size, input_shape))

    # The difference of two sizes leaves out what a step does once: norms, and the optimiser.
    return (counted(2 * _COUNTED) - counted(_COUNTED)) / _COUNTED


def _collectives(text: str) -> dict[str, int]:
    found = {name: len(re.findall(rf"= .*\b{name}(?:-start)?\(", text)) for name in _COLLECTIVES}
    return {name: count for name, count in found.items() if count}


def task_of(
    model: Any, training: TrainConfig, *, input_shape: tuple[int, ...], examples: int,
    topology: str | None, devices: int | None,
) -> Task:  # fmt: skip
    """A Task of configs."""
    count = 1 if devices is None else devices
    return Task(as_plain(model), training, input_shape, examples, topology or "", count)


if __name__ == "__main__":
    told = json.loads(sys.stdin.read())
    plain = {**told, "training": from_plain(TrainConfig, told["training"], where="training")}
    plain["input_shape"] = tuple(plain["input_shape"])
    print(json.dumps(dataclasses.asdict(_compile(Task(**plain)))))
