"""Paths of this machine's files: what people write for one, checked before anything is written."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

# Storage layers below take these for a pattern, and write to one place and read from another.
_PATTERN = re.compile(r"\[.*\]|\\|:/")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def local(path: str | os.PathLike[str]) -> Path:
    """A path on this machine, with `~` for the home directory.

    Raises:
        ValueError: if it names another machine, as gs://bucket/run does, or a home directory that
            is not known.
    """
    text = os.fspath(path)
    if _SCHEME.match(text):
        raise ValueError(
            f"{text} names storage elsewhere, and files are read and written on this machine only. "
            "Copy it here, or mount the bucket and give the path of the mount."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{text} begins with a home directory that this machine does not know. Write the path "
            "out, or set the environment variable HOME."
        ) from None


def storable(path: str | os.PathLike[str]) -> Path:
    """As `local`, for a folder that checkpoints can be read back from.

    Raises:
        ValueError: if a character of the whole path would be read as a pattern.
    """
    folder = local(path)
    whole = folder.absolute()
    if strange := _PATTERN.search(whole.relative_to(whole.anchor).as_posix()):
        raise ValueError(
            f"{whole} holds {strange[0]}, which the storage of checkpoints reads as a pattern or "
            "an address: what is saved there could not be read again. Choose a folder without."
        )
    return folder


@contextlib.contextmanager
def locked(folder: Path, *, busy: str) -> Iterator[None]:
    """Keeps others out of a folder; the lock ends with the process.

    Raises:
        FileExistsError: with the message `busy`, if another process holds it.
    """
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
