"""The weights of a run: frozen ones under a digest, and those that training moved."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy

from gloro_jax.freezing import from_arrays
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.gloro import GloroNet
from gloro_jax.identity import DIGEST_VERSION, named_leaves
from gloro_jax.models import from_plain_model
from gloro_jax.paths import Place, place
from gloro_jax.runs.folder import read_config, read_summary, write_atomically

Checkpoint = Literal["best", "last"]

_FORMAT = "1"
# That of frozen weights is the version of their digest (gloro_jax.identity).
_FROZEN_FORMATS = ("1", "2")

_logger = logging.getLogger(__name__)


def save_frozen(folder: Place, checkpoint: Checkpoint, frozen: FrozenNet) -> None:
    """Writes a frozen network's weights, norms and digest, whole or not at all."""
    _save(_weights(folder, checkpoint), frozen_content(frozen))


def frozen_content(frozen: FrozenNet) -> bytes:
    """A frozen network's weights, norms and digest as a safetensors file."""
    metadata = {
        "format": str(frozen.digest_version),
        "digest": frozen.digest,
        "input_shape": json.dumps(frozen.input_shape),
    }
    arrays = {name: np.asarray(array, order="C") for name, array in frozen.arrays().items()}
    return _content(arrays, metadata)


def save_variables(folder: Place, checkpoint: Checkpoint, variables: Any) -> None:
    """Writes what a training may start from: "params", and "centering" where there is any."""
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named_leaves(variables)}
    metadata = {"format": _FORMAT, "sha256": variables_digest(arrays)}
    content = _content(arrays, metadata)
    _save(_weights(folder, checkpoint, what=".variables"), content)


def _save(path: Place, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)  # weights/ may have been moved away
    write_atomically(path, content)


def _content(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same arrays: that library shuffles metadata."""
    made = safetensors.numpy.save(arrays, metadata)
    end = 8 + int.from_bytes(made[:8], "little")
    header = json.loads(made[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + made[end:]


def load_variables(
    run: str | os.PathLike[str], *, checkpoint: Checkpoint = "best"
) -> dict[str, Any]:
    """What a run's training moved: "params" and "centering", for `fit(..., initial=)`.

    Raises:
        FileNotFoundError: if the run holds none; runs made before version 0.1 do not.
        ValueError: if the file is damaged.
    """
    path = _weights(place(run), checkpoint, what=".variables")
    if not path.is_file():
        read_config(run)  # raises where there is no run
        if read_summary(run):
            raise FileNotFoundError(
                f"{place(run)} keeps what certifies and not what trains, as the networks of the "
                f"zoo do: {path.name} is not there, so no training can start from it."
            )
    arrays, metadata = _read_arrays(path, formats=(_FORMAT,))
    if metadata.get("sha256") != variables_digest(arrays):
        raise ValueError(f"{path} is damaged: its arrays are not those of its SHA-256.")
    tree: dict[str, Any] = {"params": {}, "centering": {}}
    for name, array in arrays.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array
    return tree


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
    path = _weights(place(run), checkpoint)
    model = read_config(run).get("model")
    if net is not None:
        built = net
    elif model is not None:
        built = from_plain_model(model).build()
    else:
        raise ValueError(
            f"{place(run)} was trained with a network of your own, which only Python can build: "
            "gj.load(run, net=...), then gj.evaluation, gj.certificates.write and gj.export.write "
            "(docs/your-own-data.md)."
        )
    arrays, metadata = _read_arrays(path)
    version = int(metadata["format"])
    try:
        input_shape = tuple(json.loads(metadata["input_shape"]))
        frozen = from_arrays(
            built,
            arrays,
            input_shape=input_shape,
            digest=metadata["digest"],
            digest_version=version,
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    if version < DIGEST_VERSION:
        _logger.warning(
            "%s was frozen by an earlier version: its digest binds weights and bounds, and not the "
            "layers without weights. Train or import it again to have them bound too.",
            path,
        )
    return frozen


def _read_arrays(
    path: Place, *, formats: tuple[str, ...] = _FROZEN_FORMATS
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: weights are written when a training has ended. One that was "
            "interrupted goes on with the same gloro-jax train command and --resume."
        )
    try:
        with _here(path) as here, safetensors.safe_open(here, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no weights file: {error}.") from None
    if metadata.get("format") not in formats:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}; this version reads "
            f"{' and '.join(formats)}."
        )
    return arrays, metadata


@contextlib.contextmanager
def _here(path: Place) -> Iterator[Path]:
    """The file itself, or a copy on this machine of one in a bucket."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def variables_digest(variables: Any) -> str:
    """SHA-256 over every array with its name, in hexadecimal; a tree, or one level of names."""
    sha = hashlib.sha256()
    for name, leaf in sorted(named_leaves(variables), key=lambda pair: pair[0]):
        array = np.asarray(leaf)
        sha.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return sha.hexdigest()


def _weights(folder: Place, checkpoint: Checkpoint, *, what: str = "") -> Place:
    if checkpoint not in typing.get_args(Checkpoint):
        raise ValueError(f"checkpoint is 'best' or 'last', got {checkpoint!r}.")
    return folder / "weights" / f"{checkpoint}{what}.safetensors"
