"""Files written whole or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = ".{}.{}.partial"  # name of the file, number of the process


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to inside a ``with`` block; at its end the file there takes the place of ``path``.

    A kill, a power cut or a full disk leaves the old file or the new one. An exception leaves the old one, and nothing
    beside it; what a kill leaves beside it, :func:`remove_partials` removes. Several processes may do so at once: the
    last wins.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    partial = path.with_name(_PARTIAL.format(path.name, os.getpid()))
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # writing says what is wrong, but not where
            error.filename = str(path)
        raise
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
    for left in path.parent.glob(_PARTIAL.format(glob.escape(path.name), "*")):
        left.unlink(missing_ok=True)
