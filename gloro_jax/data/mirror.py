"""Prepared sets in a bucket: copied to this machine once, and looked at before they are read.

    gs://BUCKET/DATA/gloro_images/NAME/1.0.0/  ->  CACHE/gs/BUCKET/DATA/gloro_images/NAME/1.0.0/

array_record reads files of this machine by position, which a bucket serves slowly and at a price
for every record; a copy costs one pass, and the next run finds it. contents.json says which files
there are and their SHA-256; it is written last, here and there, so that half a copy is never read.
"""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from gloro_jax.data import store
from gloro_jax.paths import Place, local, locked

_CHUNK = 2**24
_WAIT = 1.0  # seconds between looks at whether another process is done


def here(directory: Place) -> Path:
    """The directory of this machine that stands for `directory`, which may be one itself.

    A bucket's is under $XDG_CACHE_HOME/gloro_jax, or ~/.cache/gloro_jax.

    Raises:
        ValueError: if the name of the bucket's folder leads out of that.
    """
    if isinstance(directory, Path):
        return directory
    if ".." in directory.parts:
        raise ValueError(f"{directory} holds '..', and a copy of it would be elsewhere.")
    cache = local(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return cache / "gloro_jax" / re.sub(":/+", "/", os.fspath(directory))


def fetch(name: str, directory: Place) -> Path:
    """Sees to it that a prepared set is on this machine, and returns the directory it is in.

    What was copied before is not copied again, and a copy that was stopped goes on. Of several
    processes of one machine, one copies and the others wait.

    Raises:
        ValueError: if a file is not in the bucket, or is not the one that was prepared.
        OSError: if the bucket or the disk fails; the files that are whole are kept.
    """
    if isinstance(directory, Path):
        return directory
    mine = here(directory)
    told = store.contents_file(name, directory).read_bytes()
    beside = store.set_folder(name, mine).parent
    beside.mkdir(parents=True, exist_ok=True)
    while not _is_whole(name, mine, told):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(beside, busy="another process copies"))
            except FileExistsError:
                time.sleep(_WAIT)
                continue
            if not _is_whole(name, mine, told):
                _copy(name, directory, mine, told)
    return mine


def send(name: str, directory: Place) -> None:
    """Copies the set that was prepared `here` into the bucket, contents.json last.

    Raises:
        OSError: if that fails; the set stays here, and the message says where.
    """
    mine = here(directory)
    try:
        _copy(name, mine, directory, store.contents_file(name, mine).read_bytes())
    except OSError as error:
        folder, goal = store.set_folder(name, mine), store.set_folder(name, directory)
        raise OSError(
            f"{name} is prepared in {folder}, and could not be sent to {goal}: {error}. Copy that "
            "folder there, contents.json last."
        ) from error


def _is_whole(name: str, mine: Path, told: bytes) -> bool:
    own = store.contents_file(name, mine)
    if not own.is_file() or own.read_bytes() != told:
        return False
    files = store.contents(name, mine)["files"]
    return all((store.set_folder(name, mine) / file).is_file() for file in files)


def _copy(name: str, source: Place, target: Place, told: bytes) -> None:
    """Copies the files that contents.json at the source lists, and last itself, `told`."""
    folder, goal = store.set_folder(name, source), store.set_folder(name, target)
    goal.mkdir(parents=True, exist_ok=True)
    # Until the new copy is whole, there is none: no reader takes its files for those of before.
    store.contents_file(name, target).unlink(missing_ok=True)
    files = store.contents(name, source)["files"]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"copying {name} from {source}", total=len(files))
        for file, digest in files.items():
            if isinstance(goal, Path):
                _fetch_file(folder / file, goal / file, digest)
            else:
                _stream(folder / file, goal / file)
            bar.advance(task)
    store.contents_file(name, target).write_bytes(told)


def _fetch_file(source: Place, target: Path, digest: str) -> None:
    if target.is_file() and store.sha256(target) == digest:
        return
    if not source.exists():
        raise ValueError(f"{source} is not there, and contents.json beside it lists it.")
    partial = target.with_name(f"{target.name}.partial")
    _stream(source, partial)
    if store.sha256(partial) != digest:
        partial.unlink()
        raise ValueError(
            f"{source} is not the file that was prepared: its SHA-256 differs from the one in "
            "contents.json. Copy the set into the bucket again."
        )
    os.replace(partial, target)


def _stream(source: Place, target: Place) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, _CHUNK)  # pyright: ignore[reportArgumentType]
