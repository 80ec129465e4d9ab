"""Paths that people write, checked before anything is written: of this machine, or of a bucket."""

import contextlib
import errno
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from etils import epath

Place = Path | epath.Path  # of this machine, or in a bucket

# Storage layers below take these for a pattern, and write to one place and read from another.
_PATTERN = re.compile(r"\[.*\]|\\|:/")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):(?:/+|$)")
# Buckets that runs and data may be in, and the package that reaches each.
_BUCKETS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def place(path: str | os.PathLike[str]) -> Place:
    """A path on this machine or in a bucket: gs://bucket/runs/1, s3:// and az:// likewise.

    Raises:
        TypeError: if it is no path.
        ValueError: if the bucket cannot be reached, or as `local` does.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"A path is text or a pathlib.Path, got {type(path).__name__}.")
    text = os.fspath(path)
    found = _SCHEME.match(text)
    if not found or found[1] not in _BUCKETS:
        return local(text)
    inside = text[found.end() :]  # pathlib makes one slash of two
    if not inside.partition("/")[0]:
        raise ValueError(f"{text} names no bucket: {found[1]}://BUCKET/FOLDER.")
    whole = f"{found[1]}://{inside}"
    _reach(whole)
    return epath.Path(whole)


def is_in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether `place` would look for it in a bucket."""
    found = _SCHEME.match(os.fspath(path))
    return bool(found) and found[1] in _BUCKETS


@functools.cache
def _reach(path: str) -> None:
    """Looks once whether there is something; what is there does not matter."""
    kind = path.partition(":")[0]
    try:
        epath.Path(path).exists()
    except ImportError:
        raise ValueError(
            f"{path} is in a bucket, which takes a package that is not installed: pip install "
            f"{_BUCKETS[kind]}. Or mount the bucket, and give the path of the mount."
        ) from None
    except Exception as error:  # of that package: credentials, the network, permissions
        raise ValueError(
            f"{path} cannot be reached: {type(error).__name__}: {error}. Check the name of the "
            "bucket and the credentials of this machine."
        ) from error


def local(path: str | os.PathLike[str]) -> Path:
    """A path on this machine, with `~` for the home directory.

    Raises:
        ValueError: if it names another machine, as gs://bucket/run does, or a home directory that
            is not known.
    """
    text = os.fspath(path)
    if _SCHEME.match(text):
        raise ValueError(
            f"{text} names storage elsewhere, and this is read and written on this machine only; "
            "only run folders and data directories may lie in a bucket (gs://, s3://, az://). Copy "
            "it here, or mount the bucket and give the path of the mount."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{text} begins with a home directory that this machine does not know. Write the path "
            "out, or set the environment variable HOME."
        ) from None


def storable(path: str | os.PathLike[str]) -> Place:
    """As `place`, for a folder that checkpoints can be read back from.

    Raises:
        ValueError: if a character of the whole path would be read as a pattern.
    """
    folder = place(path)
    whole = folder.absolute() if isinstance(folder, Path) else folder
    if strange := _PATTERN.search(_SCHEME.sub("", whole.as_posix().removeprefix(whole.anchor))):
        raise ValueError(
            f"{whole} holds {strange[0]}, which the storage of checkpoints reads as a pattern or "
            "an address: what is saved there could not be read again. Choose a folder without."
        )
    return folder


@contextlib.contextmanager
def locked(folder: Place, *, busy: str) -> Iterator[None]:
    """Keeps others out of a folder; the lock ends with the process. Buckets have no locks.

    Raises:
        FileExistsError: with the message `busy`, if another process holds it.
    """
    if not isinstance(folder, Path):
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on this platform
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise FileExistsError(busy) from None
            if error.errno not in _NO_LOCKS:  # some NFS and Lustre mounts have none
                raise
        yield
