"""How good are the losses? Restoration networks are fine-tuned with each and measured.

    python -m training.bench.study.quality --train-images DIR --test-images DIR [DIR ...] --out DIR \
        --losses l1 random ours vgg file:mine.safetensors@full [--tasks sr] [--seeds 0 1 2] [--quick]
    python -m training.bench.report DIR [--quick]    # tables and verdicts of what is there, also on the way

Every loss starts from one L1-trained network per task and sees the same patches in the same order per seed. Results
are files in ``--out``; running again skips what is there, so a study can be interrupted and extended. See
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.study import peers
from training.bench.study.cells import Cell, Study, Test
from training.bench.study.conditions import add_condition_flags, conditions_of
from training.bench.study.data import TASKS, read_folders
from training.bench.study.spread import on_ray, one_by_one

HERE = "here"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the missing cells.

    Returns:
        the number of cells that could not be run.
    """
    options = _parser().parse_args(arguments)
    conditions = conditions_of(options)
    torch.set_num_threads(options.threads)
    test = Test(
        pictures=read_folders(options.test_images, limit=3 if options.quick else None),
        levels=conditions.levels,
        crop=conditions.crop,
        metrics=conditions.metrics,
    )
    training = read_folders([options.train_images], limit=20 if options.quick else None)
    study = Study(conditions.recipe, training, test, peers.sources_of(options), options.out)
    cells = [
        Cell(task, loss, ratio, seed)
        for seed, task, loss, ratio in product(options.seeds, options.tasks, options.losses, options.ratios)
        if not (loss in ("l1", *peers.WITHOUT_TRAINING) and ratio is not None)
    ]
    if options.ray is None:
        made = one_by_one(study, cells)
    else:
        made = on_ray(study, cells, None if options.ray == HERE else options.ray, options.threads)
    failures, begun = 0, time.monotonic()
    for number, (cell, reason) in enumerate(made, start=1):
        failures += reason is not None
        what = f"skipped: {reason}" if reason is not None else f"{time.monotonic() - begun:.0f} s since the beginning"
        print(f"[{number}/{len(cells)}] {cell} {what}", file=sys.stderr, flush=True)
    print(f"tables: python -m training.bench.report {options.out}, with the same flags for conditions", file=sys.stderr)
    return failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.study.quality",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--train-images", type=Path, required=True, help="folder of training images, such as BSDS500's")
    add("--test-images", type=Path, nargs="+", required=True, help="folders of test images, such as LIVE1 and Set5")
    add("--out", type=Path, required=True, help="results folder; finished cells in it are kept")
    add("--losses", nargs="+", required=True, help=(peers.__doc__ or "").replace("%", "%%"))
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add(
        "--ratios",
        nargs="+",
        type=lambda text: None if text == "alone" else float(text),
        default=[None],
        help="alone: the loss by itself [default]; a number R: L1 + weight x loss, where the weight gives\n"
        "the loss's gradient R times the norm of L1's at the start",
    )
    add("--seeds", nargs="+", type=int, default=[0])
    peers.add_source_flags(parser)
    add("--threads", type=int, default=torch.get_num_threads(), help="of each cell")
    add(
        "--ray",
        nargs="?",
        const=HERE,
        metavar="ADDRESS",
        help="several cells at once, by Ray (extra sweep): on this machine, or on the cluster of an address, all of\n"
        "whose nodes see --out",
    )
    add_condition_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
