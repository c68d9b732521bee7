"""Children that are killed in the middle of what they write."""

import itertools
import os
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
