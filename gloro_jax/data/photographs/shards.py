"""Sets too large for memory: JPEG files in shards, which are read by number.

    DIRECTORY/gloro_images/NAME/1.0.0/train-00000-of-00641.array_record, ..., test-..., labels-*.npy

A record is one JPEG file: upright, in colour, its shorter side brought to one length. Labels lie
beside the shards, and of test images a digest of the pixels each. A shard is written whole or not
at all, and what a stopped preparation finished is kept: the same command goes on.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gloro_jax.data import store
from gloro_jax.data.folders import listed
from gloro_jax.data.imagenet import Listed, Member
from gloro_jax.data.images import flat, look
from gloro_jax.data.photographs import workers
from gloro_jax.data.photographs.decoding import decoder, digest, with_shorter_side
from gloro_jax.data.photographs.pictures import Pictures
from gloro_jax.paths import locked

_PER_SHARD = 2000
_QUALITY = 95
_BUILDING = ".building"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file to be written.

    Attributes:
        name: of the file.
        files: the pictures and their labels.
        side: their shorter side.
        has_digests: whether a digest of each picture's pixels is kept.
        plan: a digest of all this, of the pictures' sizes and times, and of the decoder.
    """

    name: str
    files: Listed
    side: int
    has_digests: bool
    plan: str


def prepare_shards(
    name: str,
    source: Path,
    *,
    directory: Path,
    side: int,
    is_skipping: bool,
    on_progress: Callable[[int, int], None],
) -> Path:
    """Writes a tree of photographs as a set of shards; goes on where it was stopped before.

    Raises:
        ValueError: if pictures cannot be decoded and are not to be skipped: they are counted, and
            the first are named; what is finished is kept.
    """
    files, class_names = listed(source)
    shards = [s for split, pairs in files.items() for s in _shards(split, pairs, side)]
    target = store.set_folder(name, directory)
    place = target.parent / _BUILDING
    place.mkdir(parents=True, exist_ok=True)
    with locked(place, busy=f"Another process is preparing {name}, in {place}."):
        _clear(place, shards)
        told = _write_all(place, shards, on_progress)
        bad = [line for one in told for line in one["bad"]]
        if bad and not is_skipping:
            raise ValueError(
                f"{len(bad)} of {sum(len(s.files) for s in shards)} pictures cannot be read:\n  "
                + "\n  ".join(bad[:5])
                + ("\n  ..." if len(bad) > 5 else "")
                + "\nLeave them out with --skip-corrupt, for which all is done; or mend them, and "
                "only what lies in a file with one of them is done again."
            )
        contents = _finish(place, list(files), shards, told)
        contents |= {"source": str(source), "class_names": class_names, "shorter_side": side}
        store.write_contents(place, contents)
        replaced = target.parent / ".replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        place.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    return target


def open_shards(folder: Path, told: dict[str, Any], split: str, *, size: int) -> Pictures:
    """The photographs of one split.

    Raises:
        ValueError: if a file is missing or has another length than when it was written.
    """
    names = sorted(file for file in told["files"] if file.startswith(f"{split}-"))
    beside = [f"labels-{split}.npy", f"digests-{split}.npy"]
    for file in [*names, *(file for file in beside if file in told["files"])]:
        path, length = folder / file, told["sizes"][file]
        if not path.is_file() or path.stat().st_size != length:
            raise ValueError(
                f"{path} is missing or not as long as it was written. Prepare the set again: "
                "gloro-jax data prepare NAME --overwrite."
            )
    digests = np.load(folder / beside[1]) if beside[1] in told["files"] else None
    return Pictures(
        tuple(folder / file for file in names),
        told,
        np.arange(told["splits"][split]),
        size,
        digests,
    )


def labels(folder: Path, split: str) -> np.ndarray:
    """The labels of one split, (n,)."""
    return np.load(folder / f"labels-{split}.npy")


def _shards(split: str, pairs: Listed, side: int) -> list[Shard]:
    parts = range(0, len(pairs), _PER_SHARD)
    found = []
    for number, start in enumerate(parts):
        files = pairs[start : start + _PER_SHARD]
        sha = hashlib.sha256(decoder().encode())
        for path, label in files:
            sha.update(repr((str(path), label, side, *_state(path))).encode())
        name = f"{split}-{number:05}-of-{len(parts):05}.array_record"
        found.append(Shard(name, files, side, split == "test", sha.hexdigest()))
    return found


def _clear(place: Path, shards: list[Shard]) -> None:
    """Removes what another plan left there, or one that was stopped within a shard."""
    done = [shard.name for shard in shards if _finished(place, shard)]
    kept = {"lock", *done, *(f"{name}.json" for name in done)}
    for path in place.iterdir():
        if path.name not in kept:
            path.unlink()


def _finished(place: Path, shard: Shard) -> dict[str, Any] | None:
    """What a shard holds that was written to this plan before."""
    beside = place / f"{shard.name}.json"
    told = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return told if told.get("plan") == shard.plan else None


def _state(path: Path | Member) -> tuple[int, ...]:
    """Size and time of a file; nothing of a link that leads nowhere, which is no picture."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_size, found.st_mtime_ns


def _write_all(
    place: Path, shards: list[Shard], on_progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    total, done = sum(len(shard.files) for shard in shards), 0
    told: dict[str, dict[str, Any]] = {}
    with workers.pool() as pool:
        names = {pool.submit(_write_shard, place, shard): shard for shard in shards}
        with workers.tasks(names) as tasks:
            for task in concurrent.futures.as_completed(tasks):
                told[names[task].name] = task.result()
                done += len(names[task].files)
                on_progress(done, total)
    return [told[shard.name] for shard in shards]


def _write_shard(place: Path, shard: Shard) -> dict[str, Any]:
    """Writes a shard unless it is there, and says what it holds."""
    if (earlier := _finished(place, shard)) is not None:
        return earlier
    path, beside = place / shard.name, place / f"{shard.name}.json"
    partial = place / f"{shard.name}.partial"
    kept, digests, bad = [], [], []
    with _writing(partial) as writer:
        for file, label in shard.files:
            try:
                raw, seen = _encoded(file, shard)
            except ValueError as error:
                bad.append(str(error))
                continue
            writer.write(raw)
            kept.append(label)
            digests.append(seen)
    told = {"labels": kept, "digests": digests, "bad": bad, "sha256": store.sha256(partial)}
    told["plan"] = shard.plan
    os.replace(partial, path)
    partial.write_text(json.dumps(told), encoding="utf-8")
    os.replace(partial, beside)
    return told


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """A writer of records.

    Raises:
        OSError: if the disk is full, for which array_record has a RuntimeError.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        writer: Any = ArrayRecordWriter(str(path), "group_size:1")
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:
        raise OSError(
            f"{path} could not be written: {str(error).split(';')[0]}. Make room; what is finished "
            "is kept, and the same command goes on."
        ) from None


def _encoded(file: Path | Member, shard: Shard) -> tuple[bytes, str]:
    """The JPEG file of a picture, and the digest of what it decodes to."""
    from PIL import Image

    look(file)  # what cannot be meant, an animation say, is refused
    picture = with_shorter_side(flat(file, channels=3, side=shard.side), shard.side)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=_QUALITY, subsampling=0)
    if not shard.has_digests:
        return buffer.getvalue(), ""
    with Image.open(buffer) as again:
        again.load()
        return buffer.getvalue(), digest(again).hex()


def _finish(
    place: Path, splits: list[str], shards: list[Shard], told: list[dict[str, Any]]
) -> dict[str, Any]:
    """Labels and digests in one file a split, and what contents.json says."""
    counts, files = {}, {s.name: one["sha256"] for s, one in zip(shards, told, strict=True)}
    for split in splits:
        parts = [one for s, one in zip(shards, told, strict=True) if s.name.startswith(f"{split}-")]
        found = np.array([label for one in parts for label in one["labels"]], np.int32)
        if not len(found):
            raise ValueError(f"No picture of the {split} split can be read: {told[-1]['bad'][:1]}.")
        counts[split] = len(found)
        arrays: dict[str, np.ndarray] = {f"labels-{split}.npy": found}
        if split == "test":
            raw = bytes.fromhex("".join(seen for one in parts for seen in one["digests"]))
            arrays[f"digests-{split}.npy"] = np.frombuffer(raw, np.uint8).reshape(len(found), -1)
        for file, array in arrays.items():
            np.save(place / file, array)
            files[file] = store.sha256(place / file)
    for shard in shards:
        (place / f"{shard.name}.json").unlink()
    return {
        "kind": "shards",
        "splits": counts,
        "files": files,
        "sizes": {file: (place / file).stat().st_size for file in files},
        "image_shape": [None, None, 3],
        "decoder": decoder(),
        "skipped": [line for one in told for line in one["bad"]],
    }
