"""One part of a stage, in a process of its own: what the runner starts.

python -m training.bench.device.part losses.eager --file runs/losses.json
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

import torch

from training.bench.device.runner import SKIPPED
from training.bench.device.stages import PARTS
from training.bench.device.work import Skipped, Work


def main() -> int:
    """Runs the part that the command line names; its status is 1 where a row says an error."""
    parser = argparse.ArgumentParser(description="A part of a stage of `python -m training.bench.device`.")
    parser.add_argument("part", choices=[*(part.full_name for part in PARTS), "sanitizer.bare"], metavar="STAGE.PART")
    parser.add_argument("--file", type=Path, required=True, help="of the stage's results; rows are added to it")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--end", type=float, default=math.inf, help="of its time, in seconds since 1970")
    parser.add_argument("--commit")
    parser.add_argument("--prepared", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("TASK_LOSSES_WEIGHTS", "embedded")  # there may be no network
    kind = arguments.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
    stage, _, part = arguments.part.partition(".")
    work = Work(part, arguments.file, device, arguments.end, arguments.commit, arguments.prepared)
    try:
        importlib.import_module(f"training.bench.device.{stage}").PARTS[part](work)
    except (Skipped, ModuleNotFoundError) as reason:  # a machine may lack what only some parts need
        work.add(skipped=str(reason))
        print(reason)
        return SKIPPED
    return 1 if work.errors else 0


if __name__ == "__main__":
    sys.exit(main())
