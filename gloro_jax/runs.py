"""The run folder: what a training run leaves behind, and how it is loaded again.

    config.json            the model, the data and the training, as plain data
    metrics.jsonl          one line per epoch
    checkpoints/           what an unfinished run needs to go on
    weights/best.safetensors, weights/last.safetensors
                           weights as executed, guaranteed norms, and a digest over both
    summary.json           how a finished run ended

Loading reads JSON and arrays; it never executes anything a file says.
"""

import contextlib
import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy

from gloro_jax.freeze import from_arrays
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.gloro import GloroNet
from gloro_jax.models import ModelConfig

Checkpoint = Literal["best", "last"]

_FORMAT = "1"
_PLACES = ("source", "directory")


def create(run: str | os.PathLike[str]) -> Path:
    """Makes a new run folder.

    Raises:
        FileExistsError: if something is there already; nothing in it is touched.
    """
    folder = Path(run)
    taken = FileExistsError(
        f"{folder} exists and is not empty. Runs are never overwritten: choose another --run, or "
        "go on with that one with --resume."
    )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise taken
    try:
        (folder / "weights").mkdir(parents=True)  # one of two runs that start together fails here
    except FileExistsError:
        raise taken from None
    return folder


def reopen(run: str | os.PathLike[str], config: dict[str, Any]) -> Path:
    """The folder of a run that was begun with this very config, to go on with it.

    Raises:
        ValueError: if it was begun with another one; the message lists the differences.
    """
    there = flat(_comparable(read_config(run)))
    wanted = flat(_comparable(json.loads(json.dumps(config))))
    differences = [
        f"  {name}: {there.get(name, 'absent')} in the run, {wanted.get(name, 'absent')} now"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name)
    ]
    if differences:
        raise ValueError(
            f"{run} was begun with another config, so it cannot be resumed with this one:\n"
            + "\n".join(differences)
            + "\nGive the same options, or choose another --run."
        )
    return Path(run)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second training out of the run folder; the lock ends with the process.

    Raises:
        FileExistsError: if another process is training there.
    """
    with (folder / "lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on this platform
            pass
        except BlockingIOError:
            raise FileExistsError(
                f"Another process is training in {folder}. Wait for it, or choose another --run."
            ) from None
        yield


def check_model(model: ModelConfig) -> None:
    """Raises a ValueError unless `model` can be read back from a run folder as it is."""
    plain = json.loads(json.dumps(dataclasses.asdict(model)))
    if from_plain(ModelConfig, plain, where="model") != model:
        raise ValueError(
            f"{type(model).__name__} cannot be stored as a model config. Pass the network itself, "
            "fit(model.build(), ...), and give it again to gj.load(run, net=...)."
        )


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes config.json, whole or not at all."""
    _write_atomically(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Writes summary.json, whole or not at all."""
    _write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")


def read_summary(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads summary.json; empty where the run has not finished."""
    path = Path(run) / "summary.json"
    return _read_object(path) if path.is_file() else {}


def read_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads config.json.

    Raises:
        FileNotFoundError: if this is no run folder.
        ValueError: if the file is not a JSON object.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{Path(run)} is no run folder: it has no config.json. `gloro-jax train` makes one."
        )
    return _read_object(path)


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that was cut off while being written is left out."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text().split("\n") if path.is_file() else [""]
    try:
        return [json.loads(line) for line in lines[:-1]]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON lines: {error}.") from None


def save_frozen(folder: Path, checkpoint: Checkpoint, frozen: FrozenNet) -> None:
    """Writes a frozen network's weights, norms and digest, whole or not at all."""
    metadata = {
        "format": _FORMAT,
        "digest": frozen.digest,
        "input_shape": json.dumps(frozen.input_shape),
    }
    arrays = {name: np.asarray(array, order="C") for name, array in frozen.arrays().items()}
    _write_atomically(_weights(folder, checkpoint), safetensors.numpy.save(arrays, metadata))


def load(
    run: str | os.PathLike[str], *, checkpoint: Checkpoint = "best", net: GloroNet | None = None
) -> FrozenNet:
    """The frozen network of a run, with the bounds stored there.

    The digest is compared; it finds accidents, not forgers (SECURITY.md).

    Args:
        run: the run folder.
        checkpoint: "best" by validation, or "last".
        net: the network, where it was not built from a model config of this library.

    Raises:
        FileNotFoundError: if the folder or the checkpoint is not there.
        ValueError: if a file is damaged, belongs to another network, or does not match its digest.
    """
    if checkpoint not in typing.get_args(Checkpoint):
        raise ValueError(f"checkpoint is 'best' or 'last', got {checkpoint!r}.")
    model = read_config(run).get("model")
    if net is not None:
        built = net
    elif model is not None:
        built = from_plain(ModelConfig, model, where="model").build()
    else:
        raise ValueError(
            f"{Path(run)} was trained with a network of your own: pass it, gj.load(run, net=...)."
        )
    path = _weights(Path(run), checkpoint)
    arrays, metadata = _read_arrays(path)
    try:
        input_shape = tuple(json.loads(metadata["input_shape"]))
        return from_arrays(built, arrays, input_shape=input_shape, digest=metadata["digest"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None


def from_plain(cls: Any, plain: Any, *, where: str = "config") -> Any:
    """A config dataclass from what `json.loads` returned, strictly.

    Raises:
        ValueError: if a field is unknown (the near ones are named) or has the wrong type.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"{where} must be an object, got {plain!r}.")
    fields = typing.get_type_hints(cls)
    for name in plain:
        if name not in fields:
            near = difflib.get_close_matches(name, fields) or sorted(fields)
            raise ValueError(f"{where} has no field {name!r}; did you mean {', '.join(near)}?")
    values = {
        name: _typed(fields[name], value, where=f"{where}.{name}") for name, value in plain.items()
    }
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}.") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return found


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's result: not the version, nor where its data lies."""
    data = config.get("data")
    kept = {k: v for k, v in data.items() if k not in _PLACES} if isinstance(data, dict) else data
    return {"model": config.get("model"), "training": config.get("training"), "data": kept}


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data as one level, "training.augmentation.crop": 4."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        path: leaf
        for name, value in tree.items()
        for path, leaf in flat(value, f"{prefix}.{name}" if prefix else name).items()
    }


def _typed(kind: Any, value: Any, *, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_plain(kind, value, where=where)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_typed(k, v, where=where) for k, v in zip(kinds, value, strict=True))
    elif origin is Literal and value in arguments:
        return value
    elif origin in (typing.Union, types.UnionType) and value is None and type(None) in arguments:
        return None
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind in (int, bool, str) and type(value) is kind:
        return value
    raise ValueError(f"{where} must be {kind}, got {value!r}.")


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: did the run finish?")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no weights file: {error}.") from None
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}; this version reads {_FORMAT!r}."
        )
    return arrays, metadata


def _weights(folder: Path, checkpoint: Checkpoint) -> Path:
    return folder / "weights" / f"{checkpoint}.safetensors"


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
