"""Writing the program and its papers, and reading them back with every digest compared."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import safetensors
from jax.core import Tracer
from jaxtyping import Array, Float

from gloro_jax.certification import certify
from gloro_jax.export.card import model_card
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.identity import digest_text, digest_words
from gloro_jax.margins import as_epsilon
from gloro_jax.paths import local
from gloro_jax.plain import brief, number
from gloro_jax.platforms import outside_jit
from gloro_jax.runs import frozen_content
from gloro_jax.version import __version__

_FORMAT = "1"
_PLATFORMS = ("cpu", "cuda", "tpu")
_PROGRAM, _WEIGHTS, _MANIFEST, _CARD = (
    "certify.stablehlo", "weights.safetensors", "manifest.json", "README.md"
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """An exported program, with its digests compared.

    Attributes:
        manifest: what manifest.json says.
        program: the deserialised program.
    """

    manifest: dict[str, Any]
    program: Any

    __repr__ = brief

    def __call__(self, images: Float[Array | np.ndarray, "n h w c"], *, epsilon: float) -> Any:
        """Certifies images, as `gj.certify` does.

        Returns:
            A dictionary of "prediction", "radius", "is_refused" and "slack", each (n,).

        Raises:
            TypeError: inside `jax.jit`.
            ValueError: if shape or type do not fit, epsilon is not positive and finite, or the
                program speaks for other weights than the manifest.
        """
        if isinstance(images, Tracer):
            raise TypeError(
                "Inside jit, call `program.call(images, epsilon)`: digests need values."
            )
        shape, dtype = tuple(self.manifest["input_shape"]), getattr(images, "dtype", type(images))
        if np.shape(images)[1:] != shape or dtype != np.float32 or not len(images):
            raise ValueError(
                f"The program takes float32 images (n, {', '.join(map(str, shape))}) in [0, 1], at "
                f"least one, got {dtype} of shape {np.shape(images)}."
            )
        out = dict(self.program.call(images, as_epsilon(epsilon)))
        digest = digest_text(out.pop("digest"))
        if digest != self.manifest["digest"]:
            raise ValueError(
                f"The program was made from the weights {digest}, and the manifest speaks of "
                f"{self.manifest['digest']}. Export the run again."
            )
        return out


@outside_jit
def write(
    frozen: FrozenNet,
    *,
    out: str | os.PathLike[str],
    epsilon: float | str,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Exports a frozen network into a new folder, whole or not at all.

    The program is compared with `gj.certify` on random images before the folder appears.

    Args:
        frozen: the network.
        out: the folder; it must not exist.
        epsilon: the l2 radius that the card speaks of; callers give their own.
        about: lines for the card by title, "Data" or "VRA" for example.

    Returns:
        The folder.

    Raises:
        FileExistsError: if `out` exists.
        TypeError: if `frozen` is not a FrozenNet, or `about` no dictionary.
        ValueError: if its digest does not match, or the program disagrees with `gj.certify`.
    """
    if not isinstance(frozen, FrozenNet):
        raise TypeError(f"export takes a FrozenNet, got {type(frozen).__name__}: gj.freeze first.")
    if about is not None and not isinstance(about, Mapping):
        raise TypeError(f"about is a dictionary of lines by title, got {type(about).__name__}.")
    frozen.check_digest()
    folder = local(out)
    if folder.exists():
        raise FileExistsError(f"{folder} exists. An export is never overwritten: choose another.")
    program = _program(frozen)
    _compare(program, frozen, number(epsilon))
    manifest = {
        "format": _FORMAT,
        "made_with": {"gloro-jax": __version__, "jax": jax.__version__},
        "digest": frozen.digest,
        "input_shape": list(frozen.input_shape),
        "num_classes": frozen.net.num_classes,
        "epsilon": number(epsilon),
        "platforms": list(program.platforms),
    }
    contents = {_PROGRAM: bytes(program.serialize()), _WEIGHTS: frozen_content(frozen)}
    contents[_CARD] = model_card(frozen, manifest, about or {}).encode()
    manifest["files"] = {name: _sha256(content) for name, content in contents.items()}
    contents[_MANIFEST] = json.dumps(manifest, indent=2).encode() + b"\n"
    _write_folder(folder, contents)
    return folder


def read(folder: str | os.PathLike[str]) -> Exported:
    """An exported program, ready to run.

    Raises:
        FileNotFoundError: if the folder or a file is not there.
        ValueError: if a file is damaged, or its digest is not the manifest's.
    """
    path = local(folder)
    if not (path / _MANIFEST).is_file():
        raise FileNotFoundError(f"{path} is no export: it has no {_MANIFEST}.")
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files, digest = dict(manifest["files"]), manifest["digest"]
        tuple(manifest["input_shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / _MANIFEST} is damaged: {error!r}.") from None
    if manifest.get("format") != _FORMAT or not {_PROGRAM, _WEIGHTS, _CARD} <= files.keys():
        raise ValueError(
            f"{path} has format {manifest.get('format')!r} and lists {sorted(files)}; this version "
            f"reads format {_FORMAT!r} with {_PROGRAM}, {_WEIGHTS} and {_CARD}."
        )
    for name in (_PROGRAM, _WEIGHTS, _CARD):
        found = _sha256((path / name).read_bytes())
        if found != files[name]:
            raise ValueError(
                f"The SHA-256 of {path / name} is {found}, and the manifest says {files[name]}: "
                "the file was altered or is of another export. Export the run again."
            )
    with safetensors.safe_open(path / _WEIGHTS, framework="numpy") as file:
        stored = (file.metadata() or {}).get("digest")
    if stored != digest:
        raise ValueError(
            f"The weights in {path} carry the digest {stored}, and the manifest {digest}: they are "
            "of two networks. Export the run again."
        )
    program = jax.export.deserialize(bytearray((path / _PROGRAM).read_bytes()))
    return Exported(manifest, program)


def _program(frozen: FrozenNet) -> Any:
    def program(images: Any, epsilon: Any) -> dict[str, Any]:
        certificate = certify(frozen, images, epsilon=epsilon)
        return {
            "prediction": certificate.prediction,
            "radius": certificate.radius,
            "is_refused": ~certificate.is_certified,
            "slack": certificate.slack,
            "digest": digest_words(bytes.fromhex(frozen.digest)),
        }

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *frozen.input_shape), np.float32)
    epsilon = jax.ShapeDtypeStruct((), np.float32)
    with _without_places():
        return jax.export.export(jax.jit(program), platforms=_PLATFORMS)(images, epsilon)


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Programs made meanwhile do not name the source files of this machine."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def _compare(program: Any, frozen: FrozenNet, epsilon: float) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 3):
        images = rng.uniform(size=(count, *frozen.input_shape)).astype(np.float32)
        theirs, ours = (
            program.call(images, np.float32(epsilon)),
            certify(frozen, images, epsilon=epsilon),
        )
        is_close = np.allclose(theirs["radius"], ours.radius, rtol=1e-3, atol=1e-5)
        if not (is_close and np.array_equal(theirs["prediction"], ours.prediction)):
            raise ValueError("The exported program and gj.certify disagree; nothing was written.")


def _write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    partial.chmod(0o755)
    try:
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
