"""State dicts from files: names and arrays, and never code."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gloro_jax.data.npz import open_npz
from gloro_jax.paths import local

State = dict[str, np.ndarray]

# Under these keys training scripts put the state dict of the network beside other things.
_WRAPPERS = ("backbone", "state_dict", "model")
# What DataParallel and torch.compile put before every name.
_WRAPPED = ("module.", "_orig_mod.")
_PREFIX = "state_dict/"


def read_state_dict(file: str | os.PathLike[str]) -> State:
    """The tensors of a file by name, as arrays; nothing in the file is executed.

    Raises:
        FileNotFoundError: if it is not there.
        ImportError: if torch is needed and missing.
        ValueError: if it holds anything but named tensors.
    """
    path = local(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there.")
    readers = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
    }
    suffix = ".pth" if path.name.endswith(".pth.tar") else path.suffix
    if suffix not in readers:
        raise ValueError(
            f"A state dict is a file in one of {[*sorted(readers), '.pth.tar']}, got {path.name}."
        )
    state = readers[suffix](path)
    while prefix := next((p for p in _WRAPPED if _have(state, p)), ""):
        state = {name.removeprefix(prefix): array for name, array in state.items()}
    return state


def _have(state: State, prefix: str) -> bool:
    return bool(state) and all(name.startswith(prefix) for name in state)


def _read_npz(path: Path) -> State:
    try:
        with open_npz(path) as file:
            # Files that hold more than a state dict keep it under this prefix.
            inside = [name for name in file.files if name.startswith(_PREFIX)] or file.files
            return {name.removeprefix(_PREFIX): file[name] for name in inside}
    except Exception as error:  # zip, header and pickle errors are of many types
        raise ValueError(f"{path} cannot be read as an .npz of arrays: {error}.") from None


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged, no safetensors file, or of a type NumPy lacks: {error}."
        ) from None


def _read_torch(path: Path) -> State:
    try:
        import torch  # type: ignore[import-not-found]
    except ImportError:
        raise ImportError(
            f"Reading {path.name} needs PyTorch: pip install 'gloro-jax[torch]'. A .safetensors or "
            ".npz file needs nothing."
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle's, zip's and its own
        raise ValueError(
            f"{path} is no file of tensors alone, so it is not opened: a pickle can execute code. "
            f"({str(error).splitlines()[0]})"
        ) from None
    for name in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
            break
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"{path} holds {type(loaded).__name__} and no state dict.")
    other = [str(name) for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise ValueError(f"{path} is no state dict: {', '.join(sorted(other)[:8])} are no tensors.")
    return {name: _array(tensor.detach()) for name, tensor in loaded.items()}


def _array(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16; integers stay what they are, to be refused by name.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
