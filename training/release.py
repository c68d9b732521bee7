"""Makes the package's weights again: trains every task by its recipe, exports, and releases if asked to.

    python training/release.py                       # runs/release/TASK/TASK.safetensors
    python training/release.py --release v2          # and into the package and its manifest
    python training/release.py --tasks sr --seed 1   # one task; flags of training/train.py are passed on

A command that was stopped goes on where it was when it is given again.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import_module("training")  # before torch: it says how torch's threads wait

from task_losses import WeightsError
from training import train
from training.export import export
from training.recipes import RECIPES
from training.run_folder import RunFolder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python training/release.py",
        description=(__doc__ or "").split("\n\n")[0],
        allow_abbrev=False,  # --task would be taken for --tasks
    )
    parser.add_argument("--tasks", nargs="+", choices=RECIPES, default=list(RECIPES), help="default: all")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/release"), help="where the runs' folders go (%(default)s)"
    )
    parser.add_argument("--release", metavar="VERSION", help="also put the weights into the package, as TASK-VERSION")
    arguments, flags = parser.parse_known_args(argv)
    folders = {task: RunFolder(arguments.out / task) for task in arguments.tasks}
    for task, folder in folders.items():
        begun = time.monotonic()
        resume = ["--resume"] if folder.checkpoint_path.exists() else []
        status = train.main(["--task", task, *flags, "--out", str(folder.path), *resume])
        if status:
            return status
        print(f"{task}: {time.monotonic() - begun:.0f} s")
    for folder in folders.values():  # last: it changes the checkout, whose state every training records
        try:
            export(folder, arguments.release)
        except (ValueError, OSError, WeightsError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
