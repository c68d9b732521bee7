"""The folder where compiled kernels, and what was found out about them, wait for the next run."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path


def kernel_cache() -> Path:
    """``task-losses/kernels`` in the user's cache, made if need be.

    That is in XDG_CACHE_HOME, an absolute path, or else in ~/.cache. Where neither can be written, as for users
    without a home, it is a folder of this process alone, which goes when the process ends: what is loaded as code must
    not lie where others can write.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (chosen if chosen.is_absolute() else Path.home() / ".cache") / "task-losses" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: nobody knows where the home is
        return Path(_own_folder().name)
    return folder if os.access(folder, os.W_OK) else Path(_own_folder().name)


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="task-losses-")
