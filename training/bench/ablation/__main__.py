"""One thing at a time: the released recipe with one setting changed, trained and put to the benchmark's test.

    python -m training.bench.ablation --train-images DIR --test-images DIR [DIR ...] --out DIR --runs DIR \
        [--tasks jpeg] [--questions adversary width] [--steps 120] [--crop 192] [--dial 0 0.5 1 2 4]

For each altered recipe: train, export, fine-tune a restoration network with the loss (a cell of
``training.bench.study.quality``, in the same results folder), measure. Runs, weights and cells that are there are not
made again. With ``--dial`` a difference is read at equal PSNR, along these settings of the released loss: what its dial
reaches too is no gain. Writes one file a task and question, ``ablations-TASK-QUESTION.json``, and ``ablations.md``,
which shows all that the folder holds. Processes with different questions can work on one folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.ablation.altered import loss_of
from training.bench.ablation.questions import QUESTIONS, alterations
from training.bench.report.ablations import render
from training.bench.report.bootstrap import Interval, Scores, front_difference, paired_difference
from training.bench.study import peers
from training.bench.study.cells import Cell, Study, Test, write_json
from training.bench.study.conditions import add_condition_flags, conditions_of
from training.bench.study.data import TASKS, read_folders

SEED = 0  # of the fine-tuning
Measured = Mapping[str, Scores]  # metric -> scores


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.dial and "psnr" not in options.metrics:
        parser.error("--dial compares at equal PSNR, so psnr must be among --metrics")
    torch.set_num_threads(options.threads)
    conditions = conditions_of(options)
    test = Test(read_folders(options.test_images), conditions.levels, conditions.crop, conditions.metrics)
    training = read_folders([options.train_images])
    study = Study(conditions.recipe, training, test, peers.sources_of(options), options.out)

    def scores(task: str, loss: str) -> Measured:
        result = study.run(Cell(task, loss, None, SEED))
        (by_level,) = result["evaluations"].values()
        by_picture = by_level[str(conditions.levels[task][0])]
        return {name: {(SEED, key): found[name] for key, found in by_picture.items()} for name in conditions.metrics}

    for task, question in product(options.tasks, options.questions):
        path = options.out / f"ablations-{task}-{question}.json"
        done = json.loads(path.read_text()) if path.is_file() else []
        for changes, altered in alterations(task, question, options.images):
            changes = _recorded(changes)
            if any(entry["changes"] == changes for entry in done):
                continue
            begun = time.monotonic()
            baseline, found = scores(task, "ours"), scores(task, loss_of(altered, options.runs))
            dial = [scores(task, f"ours~{setting:g}") for setting in options.dial]
            intervals = differences(found, baseline, dial)
            measured = {name: asdict(interval) for name, interval in intervals.items() if interval is not None}
            entry = {"question": question, "changes": changes, "start_steps": conditions.recipe.start_steps}
            if options.dial:
                entry["dial"] = options.dial
            done.append({**entry, "differences": measured})
            write_json(done, path)
            print(f"{task} {changes}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    (options.out / "ablations.md").write_text(render(options.out, conditions.metrics), encoding="utf-8")
    return 0


def differences(found: Measured, baseline: Measured, dial: Sequence[Measured]) -> dict[str, Interval | None]:
    """What an altered recipe has more than the released one: by PSNR as it is, by all others at equal PSNR.

    Args:
        dial: the released loss at some settings; none: all differences are as they are.

    Returns:
        metric -> difference; None where the altered recipe's PSNR lies outside of the dial's.
    """

    def at_equal_psnr(name: str) -> Interval | None:
        along = [(setting["psnr"], setting[name]) for setting in dial]
        compared = front_difference([(found["psnr"], found[name])], along, give_way=False)
        return compared.interval if compared else None

    return {
        name: at_equal_psnr(name) if dial and name != "psnr" else paired_difference(found[name], baseline[name])
        for name in found
    }


def _recorded(changes: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it; an image file by its name, since its folder is this machine's own."""
    recorded: dict[str, Any] = json.loads(json.dumps(changes))
    if "image" in recorded:
        recorded["image"] = Path(recorded["image"]).name
    return recorded


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.ablation",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--train-images", type=Path, required=True)
    add("--test-images", type=Path, nargs="+", required=True)
    add("--out", type=Path, required=True, help="results folder of the study")
    add("--runs", type=Path, required=True, help="folder for the trainings")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--questions", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    add(
        "--dial",
        type=float,
        nargs="+",
        default=[],
        help="settings of the released loss's dial along which all but PSNR is compared, at equal PSNR",
    )
    add("--images", type=Path, nargs="+", default=[], help="files that the question image tries as training images")
    add("--threads", type=int, default=torch.get_num_threads())
    peers.add_source_flags(parser)
    add_condition_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
