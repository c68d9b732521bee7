"""Children that are killed in the middle of what they write, or whose disk fails there."""

import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.symlink", "os.truncate")


def killed_at(
    moment: int, action: Callable[[], object], number: int = signal.SIGKILL, where: Path | None = None
) -> bool:
    """Does something in a child that gets a signal before its so manyth step that opens or changes files.

    Args:
        where: counts the steps in this folder alone.

    Returns:
        Whether it did; if not, the action has fewer steps and is complete.
    """
    child = os.fork()
    if not child:
        steps, sent = itertools.count(), []

        def step(event: str, arguments: Any) -> None:
            if event not in STEPS or (where is not None and str(where) not in str(arguments[0])):
                return
            if next(steps) == moment:
                sent.append(moment)
                os.kill(os.getpid(), number)

        try:
            sys.addaudithook(step)
            action()
        finally:
            os._exit(len(sent))
    return os.waitpid(child, 0)[1] != 0


def without_disk_from(moment: int, action: Callable[[], int], where: Path, code: int) -> int:
    """Does something in a child for which every write in a folder fails from the so manyth step on.

    Args:
        code: of the system's error, like ``errno.ENOSPC``.

    Returns:
        What the action returns; 99 where it raises.
    """
    child = os.fork()
    if not child:
        steps, result = itertools.count(), 99

        def step(event: str, arguments: Any) -> None:
            changes = event in STEPS and str(where) in str(arguments[0])
            if event == "open" and changes:
                changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if changes and next(steps) >= moment and event != "os.remove":
                raise OSError(code, os.strerror(code), str(arguments[0]))

        try:
            sys.addaudithook(step)
            result = action()
        finally:
            os._exit(result)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_past(size: int, action: Callable[[], object]) -> bool:
    """Does something in a child that is killed in the middle of a write: as soon as a file has so many bytes.

    Returns:
        Whether it was; if not, no file is larger and the action is complete.
    """
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and writing raises
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            action()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def without_room_past(size: int, action: Callable[[], int]) -> int:
    """Does something in a child for which a write fails as soon as a file has so many bytes, as on a full disk.

    Returns:
        What the action returns; 99 where it raises.
    """
    child = os.fork()
    if not child:
        result = 99
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            result = action()
        finally:
            os._exit(result)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
