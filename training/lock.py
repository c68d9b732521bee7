"""A lock that one process holds at a time, and that no dead process keeps."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from task_losses.files import naming

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without locks


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock on a file, which is made if need be and stays.

    The system gives the lock back when the process ends, however it ends. On a file system that knows no locks this
    does nothing.

    Args:
        wait: until the other process gives it back.

    Raises:
        BlockingIOError: another process holds it; the message says which.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            _take(file, wait)
        except OSError as error:
            if error.errno in _TAKEN:
                file.seek(0)
                owner = file.readline().strip() or "another process"
                raise BlockingIOError(
                    f"{path.parent} is in use by {owner}: wait for it or stop it, or choose another folder"
                ) from error
            if error.errno not in _UNKNOWN:
                raise
        with naming(path):  # without a buffer, which on a full disk would fail once more when the file is closed
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
        try:
            yield
        finally:
            _give_back(file)


if sys.platform == "win32":
    import msvcrt

    def _take(file: TextIO, wait: bool) -> None:
        file.seek(1 << 30)  # behind the text, which others may read
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

    def _give_back(file: TextIO) -> None:
        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _take(file: TextIO, wait: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def _give_back(file: TextIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
