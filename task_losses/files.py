"""Files written whole or not at all, and read within bounds."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = ".{}.{}.partial"  # name of the file, eight random digits


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside a ``with`` block, an OSError that says what is wrong, but not where, gets the name of a file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to inside a ``with`` block; at its end the file there takes the place of ``path``.

    A kill, a power cut or a full disk leaves the old file or the new one. An exception leaves the old one, and nothing
    beside it; what a kill leaves beside it, :func:`remove_partials` removes. Several processes and threads may do so at
    once: the last wins.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    # Random, not a process's number: threads share that one, and so may machines that share a folder.
    partial = path.with_name(_PARTIAL.format(path.name, secrets.token_hex(4)))
    try:
        with naming(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    with suppress(OSError):  # Windows opens no folder, and some file systems sync none
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_file(path: Path, content: bytes) -> None:
    """Replaces or makes a file; see :func:`replacing`."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def remove_partials(path: Path) -> None:
    """Removes what killed writers of a file left beside it; nobody may be writing it."""
    for left in path.parent.glob(_PARTIAL.format(glob.escape(path.name), "[0-9a-f]" * 8)):
        left.unlink(missing_ok=True)


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file. Pipes and devices, which may never answer or never end, are not opened.

    Args:
        most: bytes that it may have.

    Raises:
        OSError: the file cannot be read, is no regular file, or is larger.
    """
    try:
        _check_regular(path, path.stat(), most)
        # It may have been replaced since; opening a pipe must not wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, f"no name of a file: {error}") from error
    with open(descriptor, "rb") as file:
        _check_regular(path, os.fstat(descriptor), most)
        content = file.read(most + 1)
    if len(content) > most:  # it grew meanwhile
        raise OSError(errno.EFBIG, f"larger than {most} bytes, the most that is read", str(path))
    return content


def _check_regular(path: Path, found: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes, at most {most} are read", str(path))
