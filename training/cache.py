"""The folder where compiled kernels, and what was found out about them, wait for the next run."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path


def kernel_cache() -> Path:
    """``task-losses/kernels`` in the user's cache, made if need be.

    That is in XDG_CACHE_HOME, an absolute path, or else in ~/.cache. What lies there is run, so nobody else may write
    there. Where the folder is another user's, or others can write to it, or this user cannot, as without a home, it is
    a folder of this process alone, which goes when the process ends.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (chosen if chosen.is_absolute() else Path.home() / ".cache") / "task-losses" / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        safe = _is_mine_alone(folder) and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: nobody knows where the home is
        safe = False
    return folder if safe else Path(_own_folder().name)


def _is_mine_alone(folder: Path) -> bool:
    if not hasattr(os, "getuid"):  # Windows has other means
        return True
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="task-losses-")
