"""train --dry-run: what a training takes, before it is paid for."""

import dataclasses
import math
from typing import Any

from rich.console import Console
from rich.table import Table

from gloro_jax.data import DataConfig, open_data
from gloro_jax.models import ModelConfig
from gloro_jax.recipes import Recipe
from gloro_jax.training.scaling import rehearsal

_MOST_PARTS = 64  # microbatches that are tried where the step does not fit


def rehearse(
    options: Any, recipe: Recipe, model: ModelConfig, data: DataConfig, *, is_given_classes: bool
) -> int:
    """Compiles the step and prints what it takes; 1 if it does not fit, and what would.

    Args:
        options: of the command.
        recipe: its data need not be there.
        model: the network; of as many classes as the data, unless the user says how many.
        data: what the user names.
        is_given_classes: whether the user says how many classes.
    """
    if options.topology and options.devices is not None:
        raise ValueError("--topology names its devices: leave --devices out.")
    shape, examples, classes = _asked(recipe, data)
    is_told = is_given_classes or classes is None
    task = rehearsal.task_of(
        model if is_told else dataclasses.replace(model, num_classes=classes),
        options.training,
        input_shape=shape,
        examples=examples,
        topology=options.topology,
        devices=options.devices,
    )
    where = options.topology or f"{task.devices} virtual CPU devices"
    console = Console(highlight=False, soft_wrap=True)
    told = Console(stderr=True, highlight=False)
    told.print(f"Compiling the training step for {where}; large networks take minutes ...")
    found = rehearsal.rehearse(task)
    console.print(_table(task, found, where))
    if found.fits:
        return 0
    console.print(_too_large(found))
    for parts in _finer(task, found):
        told.print(f"Trying --microbatches {parts} ...")
        training = dataclasses.replace(task.training, microbatches=parts)
        finer = dataclasses.replace(task, training=training)
        if (found := rehearsal.rehearse(finer)).fits:
            console.print(_table(finer, found, f"{where} with --microbatches {parts}"))
            console.print(
                f"It fits with [bold]--microbatches {parts}[/]: the same batch, in parts."
            )
            return 1
    smaller = math.ceil(task.training.batch_size / 2 / found.devices) * found.devices
    console.print(
        f"No number of microbatches that was tried fits. Try more devices, --compute bfloat16, or "
        f"--batch-size {smaller}."
    )
    return 1


def _asked(recipe: Recipe, data: DataConfig) -> tuple[tuple[int, ...], int, int | None]:
    """One image's shape, examples of an epoch, and classes unless they are the recipe's."""
    if data.source != recipe.data.source:
        opened = open_data(data)
        return opened.input_shape, len(opened.train), opened.num_classes
    shape: tuple[int, ...] = recipe.input_shape
    if recipe.data.image_size is not None and data.image_size is not None:
        shape = (data.image_size, data.image_size, *shape[2:])
    return shape, recipe.examples, None


def _finer(task: rehearsal.Task, found: rehearsal.Found) -> list[int]:
    """Microbatches to try, each twice the one before."""
    batch, parts = task.training.batch_size, task.training.microbatches
    doubled = [parts << i for i in range(1, _MOST_PARTS.bit_length())]
    return [n for n in doubled if n <= _MOST_PARTS and batch % (n * found.devices) == 0]


def _table(task: rehearsal.Task, found: rehearsal.Found, where: str) -> Table:
    batch, parts = task.training.batch_size, found.devices * task.training.microbatches
    table = Table(title=f"the training step on {where}", show_header=False)
    rows = {
        "network": str(task.model["family"]),
        "parameters": f"{found.parameters:,}",
        "operations an image": f"{_flops(found.flops_per_image)}, forward and backward",
        "batch": f"{batch} over {found.devices} devices, {batch // parts} at once on each",
        "batch sizes that divide": f"multiples of {parts}",
        "compiled in": f"{found.seconds:.0f} s",
    }
    if not found.error:
        total = found.arguments + found.temporaries
        share = f", {100 * total / found.chip_bytes:.0f} % of a chip's" if found.chip_bytes else ""
        rows["memory a device"] = (
            f"{_gib(total)}{share}: state and batch {_gib(found.arguments)}, "
            f"the step {_gib(found.temporaries)}"
        )
        counts = ", ".join(f"{n} {kind}" for kind, n in found.collectives.items())
        rows["collectives a step"] = counts or "none"
    if found.peak_flops and found.flops_per_image:
        share = rehearsal.SHARE_OF_PEAK
        seconds = task.examples * found.flops_per_image / (share * found.peak_flops * found.devices)
        rows["estimate of an epoch"] = (
            f"{seconds / 60:.1f} min of {task.examples:,} images at {share:.0%} of peak; "
            f"{task.training.epochs} epochs: "
            f"{seconds * task.training.epochs * found.devices / 3600:,.0f} chip-hours"
        )
    for name, words in rows.items():
        table.add_row(name, words)
    return table


def _too_large(found: rehearsal.Found) -> str:
    first = next((line for line in found.error.splitlines() if line.strip()), "")
    if not first:
        total, chip = _gib(found.arguments + found.temporaries), _gib(found.chip_bytes)
        first = f"{total} on a chip that has {chip}."
    return f"[bold red]It does not fit:[/] {first[:300]}"


def _flops(count: float) -> str:
    return f"{count / 1e9:,.2f} GFLOP" if count >= 1e8 else f"{count / 1e6:,.2f} MFLOP"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.2f} MiB"
