"""Children that are killed in the middle of what they write."""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.symlink", "os.truncate")


def killed_at(moment: int, action: Callable[[], object]) -> bool:
    """Does something in a child that is killed before its so manyth step that opens or changes files.

    Returns:
        Whether it was; if not, the action has fewer steps and is complete.
    """
    child = os.fork()
    if not child:
        steps = itertools.count()

        def step(event: str, arguments: Any) -> None:
            if event in STEPS and next(steps) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(step)
            action()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL
