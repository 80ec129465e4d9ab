"""Certificate files taken apart, changed, and sealed again: what a careful forger would do."""

import hashlib
import json

import numpy as np
import safetensors
import safetensors.numpy

from gloro_jax.certificates import check_certificate as checker


def read(path):
    """The header and writable arrays."""
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["certificate"])
        return header, {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def seal(path, header, arrays):
    """Writes the file with every digest made to fit."""
    for name, array in arrays.items():
        header["arrays"][name] = checker.digest(array)
    kept = {name: sha for name, sha in header["arrays"].items() if name in arrays}
    header["arrays"] = kept | {k: v for k, v in header["arrays"].items() if k == "inputs"}
    steps = {step["layer"]: step for step in checker.every(header["network"]) if "layer" in step}
    for layer, claim in header["norms"].items():
        if layer in steps and steps[layer]["kernel"] in header["arrays"]:
            claim["kernel_sha256"] = header["arrays"][steps[layer]["kernel"]]
    header["summary"] = checker.summary_of(arrays)
    return save(path, header, arrays)


def save(path, header, arrays):
    """Writes the file as it is, with a fitting digest of the header."""
    text = json.dumps(header)
    metadata = {"certificate": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path.write_bytes(safetensors.numpy.save(arrays, metadata))
    return path
