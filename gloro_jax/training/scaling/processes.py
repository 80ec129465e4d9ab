"""Processes: joining them, agreeing before the first step, and who writes files.

One process per host, or per accelerator under Slurm, runs the same command. Process 0 is the
first: it alone makes the run folder, writes checkpoints, metrics and weights, and prints. The
others take part in every step, and say nothing unless something is wrong.
"""

import functools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

_HEARTBEAT = 20  # seconds after which a process that says nothing counts as dead
_LONGEST_WAIT = 300  # seconds for all processes to arrive


def join(
    *, coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the processes of a training; before anything is computed.

    Without arguments, a TPU pod or a Slurm step of several tasks is recognised, and anything else
    is one process, for which nothing is done.

    Args:
        coordinator: HOST:PORT of process 0, the same everywhere.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        ValueError: if only some of the three are given, or they are no such numbers.
        OSError: if process 0 cannot listen at that port.
        ConnectionError: if the others do not arrive within five minutes; it names the address.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator HOST:PORT, --processes N and --process I go together: the address of "
            "process 0, how many there are, and which one this is."
        )
    if coordinator is not None and processes is not None and process is not None:
        _check_place(coordinator, processes, process)
        if processes == 1:
            return
        _arrive(coordinator, processes, process)
    elif not _is_one_of_several():
        return
    # Of JAX's ways to add up between CPU processes, the one that its wheels bring.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    start = functools.partial(
        jax.distributed.initialize,
        coordinator,
        processes,
        process,
        local_device_ids=_all_of_the_node(),
        heartbeat_timeout_seconds=_HEARTBEAT,
        initialization_timeout=_LONGEST_WAIT,
    )
    try:
        _interruptibly(start)
    except Exception as error:
        where = coordinator or "its coordinator"
        raise ConnectionError(
            f"This process could not join the others through {where}: "
            f"{str(error).splitlines()[0][:200]}. Start every process with the same --coordinator "
            "and --processes, each with its own --process, and let the port through the firewall."
        ) from None


def _arrive(coordinator: str, processes: int, process: int) -> None:
    """Says what this process waits for, and looks whether process 0 can listen, or does."""
    print(
        f"Process {process} of {processes}: waits for the others at {coordinator}, at most "
        f"{_LONGEST_WAIT} s.",
        file=sys.stderr,
        flush=True,
    )
    if process > 0:
        _wait_for(coordinator)
    else:
        _check_port(coordinator)


def _interruptibly(act: Callable[[], None]) -> None:
    """Runs `act` in a thread: waiting in JAX's own code, the main one would not hear of Ctrl-C."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failures:
        raise failures[0]


def _check_port(coordinator: str) -> None:
    """Looks whether process 0 can listen: where it cannot, JAX ends it by a crash.

    Raises:
        OSError: if another program listens there.
    """
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise OSError(
            f"Process 0 cannot listen at port {port} ({error.strerror}): another program does, the "
            "same training perhaps. Give --coordinator another port, to every process."
        ) from None


def _wait_for(coordinator: str) -> None:
    """Waits until process 0 listens: JAX ends the process without a word of ours if it never does.

    Raises:
        ConnectionError: if it does not listen in time.
    """
    host, _, port = coordinator.rpartition(":")
    last = time.monotonic() + _LONGEST_WAIT
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > last:
                raise ConnectionError(
                    f"Process 0 does not answer at {coordinator} ({error}). Start it with the same "
                    "--coordinator, an address that the others can reach, and let the port through "
                    "the firewall."
                ) from None
            time.sleep(0.5)


def _check_place(coordinator: str, processes: int, process: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(
            f"--coordinator is HOST:PORT of process 0, a port from 1 to 65535; got {coordinator!r}."
        )
    if processes < 1 or not 0 <= process < processes:
        raise ValueError(f"--process runs from 0 to --processes - 1, got {process} of {processes}.")


def _is_one_of_several() -> bool:
    """Whether the environment is that of a TPU pod or of a Slurm step with several tasks."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    return "," in hosts or (tasks.isdigit() and int(tasks) > 1 and "SLURM_PROCID" in os.environ)


def _all_of_the_node() -> list[int] | None:
    """The GPUs of this process where Slurm runs one a node: all, of which JAX would take the first.

    None where JAX finds out: one process to each GPU, another cluster, or the user's own choice.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE")
    is_alone = bool(re.fullmatch(r"1(\(x\d+\))?", tasks or ""))
    count = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if not is_alone or not count.isdigit() or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    return list(range(int(count)))


def is_first() -> bool:
    """Whether this process writes files and prints; true where there is only one."""
    return jax.process_index() == 0


def place() -> dict[str, Any]:
    """What a run's last bits depend on, beside its config."""
    devices = jax.devices()
    kinds = sorted({str(device.device_kind) for device in devices})
    where = {"devices": len(devices), "kind": ", ".join(kinds), "jax": jax.__version__}
    return where | ({"processes": n} if (n := jax.process_count()) > 1 else {})


def check_agreement(facts: dict[str, Any]) -> None:
    """Compares what every process was told; to be called by all.

    Raises:
        ValueError: at every process, if they were told different things; it lists them.
    """
    if jax.process_count() == 1:
        return
    everyone = [json.loads(text) for text in _everyone_says(json.dumps(facts))]
    differences = [
        f"  {name}: {everyone[0].get(name, 'absent')} at process 0, "
        f"{told.get(name, 'absent')} at process {number}"
        for number, told in enumerate(everyone)
        for name in sorted(everyone[0].keys() | told.keys())
        if everyone[0].get(name) != told.get(name)
    ]
    if differences:
        raise ValueError(
            "The processes of this training were told different things:\n"
            + "\n".join(differences)
            + "\nGive every process the same command, the same data and the same version."
        )


def at_first(act: Callable[[], T]) -> T | None:
    """Runs `act` at the first process only; its failure is everyone's. To be called by all.

    Returns:
        What `act` returned; None at the others.

    Raises:
        ConnectionAbortedError: at the others, if `act` failed at the first, with its message.
    """
    if jax.process_count() == 1:
        return act()
    result: T | None = None
    failure: BaseException | None = None
    if is_first():
        try:
            result = act()
        except BaseException as error:  # the others wait to hear of it
            failure = error
    said = first_says(str(failure) or type(failure).__name__ if failure is not None else "")
    if failure is not None:
        raise failure
    if said:
        raise ConnectionAbortedError(f"Process 0 says: {said}")
    return result


def first_says(text: str) -> str:
    """What the first process says, at all of them; to be called by all."""
    if jax.process_count() == 1:
        return text
    return _everyone_says(text if is_first() else "")[0]


def from_first(tree: Any) -> Any:
    """The arrays of the first process, at all of them; shapes and types agree already."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def _everyone_says(text: str) -> list[str]:
    said = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array([len(said)]))).reshape(-1)
    filled = np.zeros(max(int(sizes.max()), 1), np.uint8)
    filled[: len(said)] = said
    rows = np.asarray(multihost_utils.process_allgather(filled)).reshape(len(sizes), -1)
    kept = [row[:size] for row, size in zip(rows.astype(np.uint8), sizes, strict=True)]
    return [row.tobytes().decode() for row in kept]
