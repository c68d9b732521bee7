"""Python code in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Puts a manifest in place if the folder has one.
_PRELUDE = """
import json, pathlib, sys
from task_losses import JPEGLoss, SRLoss, TaskLoss, WeightsError, sources
pinned = pathlib.Path("pinned.json")
if pinned.is_file():
    sources.manifest = lambda: json.loads(pinned.read_bytes())
"""


def start(code: str, folder: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", seconds: float = 120) -> str:
    """What a process printed. Fails if it did, or if it takes too long."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out.strip()
