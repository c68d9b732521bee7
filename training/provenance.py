"""What a file or a figure was made with: without it a number means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RETIRED = (
    "training/retired.json"  # below ROOT: name and sha256 of weight files that the manifest does not list any more
)


def code_commit(root: Path = ROOT) -> str:
    """The commit of the code, marked when tracked files differ from it; "unknown" outside a checkout.

    A repository around the code's folder says nothing about the code, nor does one that git's own variables name.
    """
    try:
        if not os.path.samefile(_git(root, "rev-parse", "--show-toplevel"), root):
            return "unknown"
        return _git(root, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *command: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *command], cwd=folder, env=plain, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Commit, versions and hardware, as they are now."""
    return {
        "commit": code_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
