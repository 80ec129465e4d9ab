"""Data parallelism: the only file that knows where devices are, in one process or in many.

A step is written once, for one device's share of the batch, and calls `value_and_grad` and
`sum_over_devices` from here. pmap is the engine. Checked shard_map is the second backend and the
witness: pmap silently returns one device's copy where a mean over devices was forgotten, while
shard_map refuses while tracing to call such a value replicated.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.platforms import compiler_options, scan_unroll

Backend = Literal["pmap", "shard_map"]
Step = Callable[[Any, Any], tuple[Any, Any]]

AXIS = "data"  # the axis that a batch is spread over


def value_and_grad(
    loss: Callable[..., tuple[Any, Any]],
    params: Any,
    batch: Any,
    *constants: Any,
    microbatches: int = 1,
) -> tuple[tuple[Any, Any], Any]:
    """`jax.value_and_grad(loss, has_aux=True)`, averaged over devices; to be called in a step.

    Args:
        loss: (params, batch, *constants) to (mean loss over the batch, auxiliary arrays).
        params: replicated.
        batch: this device's examples.
        constants: replicated arrays that take no gradient.
        microbatches: the batch is computed in this many parts, one after the other, and the
            results are averaged: less memory, the same mean.

    Returns:
        ((loss, auxiliary), gradient), each the mean over microbatches and devices.
    """
    # Under checked shard_map the gradient of replicated parameters is already a sum over devices,
    # and a mean after it would be too large by their number. Marked as varying, it is local.
    params, constants = jax.tree.map(_varying, (params, constants))

    def one(part: Any) -> Any:
        return jax.value_and_grad(loss, has_aux=True)(params, part, *constants)

    if microbatches == 1:
        return jax.lax.pmean(one(batch), AXIS)
    parts = jax.tree.map(lambda a: a.reshape((microbatches, -1, *a.shape[1:])), batch)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(part)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda a: a[0], parts))
    zero = jax.tree.map(lambda s: _varying(jnp.zeros(s.shape, s.dtype)), shapes)
    total, _ = jax.lax.scan(add, zero, parts, unroll=scan_unroll(microbatches))
    return jax.lax.pmean(jax.tree.map(lambda a: a / microbatches, total), AXIS)


def _varying(array: Any) -> Any:
    return jax.lax.pcast(array, AXIS, to="varying")


def sum_over_devices(tree: Any) -> Any:
    """Adds up every leaf over devices; to be called in a step."""
    return jax.lax.psum(tree, AXIS)


def compiled_for(step: Step, state: Any, batch: Any, *, devices: list[Any]) -> Any:
    """The program of `step`, compiled by the engine for devices that need not be there.

    Args:
        step: as for `data_parallel`.
        state: shapes and types of the state.
        batch: of the whole batch.
        devices: of a topology, or of this process.
    """
    lowered = _lowered(step, state, batch, devices)
    return lowered.compile(compiler_options=compiler_options())


def operations(step: Step, state: Any, batch: Any) -> float:
    """Floating-point operations of `step` on one device, counted on the program as written.

    Args:
        step: as for `data_parallel`.
        state: shapes and types of the state.
        batch: of the batch.
    """
    costs = _lowered(step, state, batch, jax.devices()[:1]).cost_analysis()
    return float((costs or {}).get("flops", 0.0))


def _lowered(step: Step, state: Any, batch: Any, devices: list[Any]) -> Any:
    count, mesh = len(devices), _mesh(devices)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def described(leaf: Any, sharding: Any, shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(lambda a: described(a, whole, a.shape), state)
    shards = jax.tree.map(
        lambda a: described(a, spread, (count, a.shape[0] // count, *a.shape[1:])), batch
    )
    return _mapped(step, devices).lower(state, shards)


def data_parallel(
    step: Step, *, backend: Backend = "pmap", devices: list[Any] | None = None
) -> Step:
    """Runs `step` on every device, each on its share of the batch.

    Args:
        step: (state, batch) to (state, metrics) for one device's share, with results equal on
            all devices.
        backend: "pmap", or "shard_map" with replication checked.
        devices: all devices of all processes unless given.

    Returns:
        (state, batch) to (state, metrics), for batches with a leading axis that the number of
        devices divides. The state given in is consumed. Where there are several processes, each
        gives its own rows of the batch, `share(batch_size)`, and the same state.

    Raises:
        ValueError: if the backend is unknown; when called, if a batch cannot be divided.
    """
    # Process by process, so that the rows of each lie together.
    everywhere = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    chosen = list(devices) if devices is not None else everywhere
    if backend == "pmap":
        call = _pmapped(step, chosen)
    elif backend == "shard_map":
        call = _shard_mapped(step, chosen)
    else:
        raise ValueError(f"backend is 'pmap' or 'shard_map', got {backend!r}.")
    # JAX 0.10 can deadlock when collective steps queue up on virtual CPU devices.
    must_wait = len(chosen) > 1 and chosen[0].platform == "cpu"

    processes = {device.process_index for device in chosen}

    def run(state: Any, batch: Any) -> tuple[Any, Any]:
        size = len(jax.tree.leaves(batch)[0]) * len(processes)
        if size % len(chosen):
            raise ValueError(
                f"A batch of {size} cannot be divided among {len(chosen)} devices: choose a "
                f"batch_size that is a multiple of {len(chosen)}."
            )
        result = call(state, batch)
        return jax.block_until_ready(result) if must_wait else result

    return run


def _mapped(step: Step, devices: list[Any]) -> Any:
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def _pmapped(step: Step, devices: list[Any]) -> Step:
    mapped = _mapped(step, devices)
    compiled: dict[Any, Any] = {}
    mesh = _mesh(devices)
    mine = sum(device.process_index == jax.process_index() for device in devices)

    def call(state: Any, batch: Any) -> tuple[Any, Any]:
        shards = jax.tree.map(lambda a: _split(a, mine), batch)
        if mine < len(devices):
            state, shards = _placed(state, shards, mesh)
        key = tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(shards))
        if key not in compiled:
            lowered = mapped.lower(state, shards)
            compiled[key] = lowered.compile(compiler_options=compiler_options())
        return compiled[key](state, shards)

    return call


def _shard_mapped(step: Step, devices: list[Any]) -> Step:
    mesh = _mesh(devices)
    whole, shared = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(whole, shared), out_specs=(whole, whole), check_vma=True
    )
    jitted = jax.jit(mapped, donate_argnums=0, compiler_options=compiler_options())
    if all(device.process_index == jax.process_index() for device in devices):
        return jitted
    return lambda state, batch: jitted(*_placed(state, batch, mesh))


def _mesh(devices: list[Any]) -> jax.sharding.Mesh:
    # In this very order, which make_mesh would change to suit a TPU's links: rows follow devices.
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=axis_types)


def _placed(state: Any, batch: Any, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """State and batch as arrays of all processes: compiled programs take no others there."""
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def replicated(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf  # a step returned it
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, whole, lambda index: array[index])

    def shared(leaf: Any) -> Any:
        return jax.make_array_from_process_local_data(spread, np.asarray(leaf))

    return jax.tree.map(replicated, state), jax.tree.map(shared, batch)


def share(size: int) -> slice:
    """The rows of a batch of `size` that this process gives to a step."""
    part = size // jax.process_count()
    return slice(part * jax.process_index(), part * (jax.process_index() + 1))


def _split(array: Any, parts: int) -> Any:
    return np.reshape(array, (parts, len(array) // parts, *array.shape[1:]))
