"""Can one see the difference? ColorVideoVDP between what two networks of a study make of the same images.

    python -m training.bench.report.visible RESULTS --test-images DIR --json visible.json

The central 128 pixels of each restored image are enlarged 4 times, without smoothing, and seen on a ``standard_fhd``
display: a viewer who zooms in. 10 JOD are two images that nobody can tell apart; 1 JOD less is one that three of four
viewers tell from the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from torch import Tensor

from task_losses.files import write_file
from training.bench.report.crops import restored_by
from training.bench.report.rows import read_rows
from training.bench.study.conditions import add_condition_flags, conditions_of
from training.bench.study.data import read_folders, test_pair
from training.bench.study.metrics import load_metrics, measure

SIDE, ENLARGED = 128, 4
PAIR = ("l1", "ours~1")


def enlarged(image: Tensor) -> Tensor:
    """The central square of an image (1, 3, H, W), each pixel as a square of ``ENLARGED``."""
    top, left = ((side - SIDE) // 2 for side in image.shape[2:])
    square = image[..., max(0, top) : max(0, top) + SIDE, max(0, left) : max(0, left) + SIDE]
    return square.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.report.visible",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("results", type=Path, help="folder of a study, with its networks")
    add("--test-images", type=Path, nargs="+", required=True)
    add("--rows", nargs=2, default=list(PAIR), metavar="LABEL", help=f"the two rows [{' '.join(PAIR)}]")
    add("--json", type=Path, required=True, help="where to write task -> image -> JOD")
    add_condition_flags(parser)
    options = parser.parse_args(arguments)
    conditions = conditions_of(options)
    scores = load_metrics(["cvvdp"])
    if not scores:
        return 1
    found: dict[str, dict[str, float]] = {}
    for task, rows in read_rows(options.results, conditions).items():
        if not set(options.rows) <= set(rows):
            print(f"{task}: the study has not both of {' and '.join(options.rows)}", file=sys.stderr)
            continue
        for picture in read_folders(options.test_images):
            degraded, _ = test_pair(task, picture, crop=conditions.crop, level=conditions.levels[task][0])
            first, second = (enlarged(restored_by(rows[label], task, degraded)) for label in options.rows)
            found.setdefault(task, {})[picture.key] = measure(second, first, scores)["cvvdp"]
        values = sorted(found[task].values())
        print(f"{task}: median {values[len(values) // 2]:.2f} JOD, {values[0]:.2f} to {values[-1]:.2f}", flush=True)
    write_file(options.json, json.dumps(found, indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
