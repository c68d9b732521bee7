"""One thing at a time: the released recipe with one setting changed, trained and put to the benchmark's test.

    python -m training.bench.ablation.ablations --train-images DIR --test-images DIR [DIR ...] --out DIR --runs DIR \
        [--tasks jpeg] [--questions adversary width] [--steps 120] [--crop 192]

For each variant: train, export, fine-tune a restoration network with it (a cell of ``training.bench.study.quality``, in
the same results folder), measure. Runs, weights and cells that are there are not made again. Writes one file a task and
question, ``ablations-TASK-QUESTION.json``, and ``ablations.md``, which shows all that the folder holds. Processes with
different questions can work on one folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch

from training.bench.ablation.altered import Variant, loss_of, released
from training.bench.report.bootstrap import Interval, Scores, paired_difference
from training.bench.report.rows import add_condition_flags, conditions_of
from training.bench.report.tables import column_title, shown, table
from training.bench.study import peers
from training.bench.study.cells import Cell, Study, Test, write_json
from training.bench.study.data import TASKS, read_folders

# Question -> variants, each what is changed of the task's released recipe: settings, or attributes of Variant.
QUESTIONS: dict[str, list[dict[str, Any]]] = {
    "adversary": [
        {"wiener": 0},
        {"wiener": 5},
        {"wiener": 9},
        {"upscale": True},
        {"upscale": True, "wiener": 0},
        {"generator": True, "wiener": 0, "upscale": True},
    ],
    "statistics": [{"shared_norm": False}],
    "steps": [{"steps": 25}, {"steps": 50}, {"steps": 100}, {"steps": 200}, {"steps": 400}],
    "updates": [{"critic_updates": 3, "steps": 34}],
    "width": [{"channels": (width,)} for width in (8, 16, 24, 32, 48, 64)],
    "finest": [{"channels": (width,) * 7 + (last,)} for width, last in ((32, 24), (32, 16), (24, 16), (16, 32))],
    "pyramid": [
        {"longest_side": 120},
        {"longest_side": 280},
        {"scales": 6},
        {"scales": 4},
        {"scales": 5, "ratio": 0.6},
        {"scales": 4, "ratio": 0.5},
    ],
    "form": [
        {"taps": (1, 4, 5), "distance": "squared"},
        {"taps": (1, 4, 5), "distance": "absolute"},
        {"taps": (1, 4), "distance": "absolute"},
        {"taps": (0, 4), "distance": "squared"},
        {"taps": (0, 4), "distance": "absolute"},
        {"taps": (0, 1, 4), "distance": "squared"},
        {"taps": (4,), "distance": "squared"},
        {"taps": (1,), "distance": "squared"},
        {"taps": (0, 2), "distance": "squared"},
        {"taps": (0, 3), "distance": "squared"},
    ],
    "share": [{"image_share": share} for share in (0.1, 0.25, 0.5, 0.6, 0.75, 0.9)],
    "exponent": [{"image_exponent": exponent} for exponent in (1.0, 1.5, 2.0)],
    "range": [{"input_range": (-1.0, 1.0)}],
    "penalty": [{"penalty_weight": 0.01}, {"penalty_weight": 1.0}, {"penalty_weight": 10.0}],
    "strength": [
        {"jpeg_quality": (10, 10)},
        {"jpeg_quality": (5, 15)},
        {"jpeg_quality": (20, 60)},
        {"noise_sigma": (25.0, 25.0)},
        {"noise_sigma": (5.0, 25.0)},
        {"noise_sigma": (40.0, 80.0)},
    ],
    "image": [{"image": f"skimage:{name}"} for name in ("astronaut", "coffee", "rocket")],
    # The first is the released recipe itself, trained again: what other kernels and versions make of it.
    "seed": [{"anew": True}, *({"seed": seed} for seed in (1, 2, 3))],
    "objective": [
        {"objective": "hinge", "spectral_norm": True},
        {"objective": "hinge", "spectral_norm": False},
        {"objective": "wgan-gp", "spectral_norm": False},
    ],
    "average": [{"average": 0.9}, {"average": 0.98}],
    "normalisation": [{"unit_features": True}],
    "weights": [
        *({"scale_growth": growth} for growth in (0.5, 0.71, 1.41, 2.0)),
        {"equal_scales": True},
        {"tap_weights": (1.0, 3.0)},
        {"tap_weights": (3.0, 1.0)},
    ],
    "resolution": [{"resolution": "full"}],
}
OF_ONE_TASK = {"jpeg_quality": "jpeg", "noise_sigma": "denoise"}
SEED = 0  # of the fine-tuning


def variants(task: str, question: str, images: Sequence[Path] = ()) -> Iterator[tuple[dict[str, Any], Variant]]:
    """What is changed, and the result; what the recipe has already is left out.

    Args:
        images: files that the question ``image`` tries too.
    """
    recipe = released(task)
    further = [{"image": str(path)} for path in images if question == "image"]
    for changes in [*QUESTIONS[question], *further]:
        if any(OF_ONE_TASK.get(name, task) != task for name in changes):
            continue
        if changes.keys() & {"image_share", "image_exponent"} and 0 not in recipe.taps:  # no image to speak of
            continue
        try:
            variant = Variant.of(recipe, changes)
        except ValueError as error:  # such as super-resolution from a level that was not upscaled
            print(f"{task} {changes}: left out: {error}", file=sys.stderr)
            continue
        if variant != Variant(recipe):
            yield changes, variant


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    conditions = conditions_of(options)
    test = Test(read_folders(options.test_images), conditions.levels, conditions.crop, conditions.metrics)
    training = read_folders([options.train_images])
    study = Study(conditions.recipe, training, test, peers.sources_of(options), options.out)

    def scores(task: str, loss: str) -> dict[str, Scores]:
        result = study.run(Cell(task, loss, None, SEED))
        (by_level,) = result["evaluations"].values()
        by_picture = by_level[str(conditions.levels[task][0])]
        return {name: {(SEED, key): found[name] for key, found in by_picture.items()} for name in conditions.metrics}

    for task, question in product(options.tasks, options.questions):
        path = options.out / f"ablations-{task}-{question}.json"
        done = json.loads(path.read_text()) if path.is_file() else []
        for changes, variant in variants(task, question, options.images):
            changes = _recorded(changes)
            if any(entry["changes"] == changes for entry in done):
                continue
            begun = time.monotonic()
            baseline, found = scores(task, "ours"), scores(task, loss_of(variant, options.runs))
            intervals = {name: paired_difference(found[name], baseline[name]) for name in conditions.metrics}
            measured = {name: asdict(interval) for name, interval in intervals.items() if interval is not None}
            entry = {"question": question, "changes": changes, "start_steps": conditions.recipe.start_steps}
            done.append({**entry, "differences": measured})
            write_json(done, path)
            print(f"{task} {changes}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    (options.out / "ablations.md").write_text(render(options.out, conditions.metrics), encoding="utf-8")
    return 0


def render(folder: Path, metrics: Sequence[str]) -> str:
    """All variants measured so far: differences to the released recipe, by task and question."""
    parts = []
    files = sorted(folder.glob("ablations-*-*.json"))
    for task, of_task in groupby(files, key=lambda path: path.stem.split("-")[1]):
        rows = []
        for entry in (entry for path in of_task for entry in json.loads(path.read_text())):
            changes = ", ".join(f"{name} {_text(value)}" for name, value in entry["changes"].items())
            intervals = (
                shown(name, Interval(**entry["differences"][name])) if name in entry["differences"] else ""
                for name in metrics
            )
            rows.append([entry["question"], changes, str(entry["start_steps"]), *intervals])
        parts += [f"## {task}", table(["question", "changed", "start", *map(column_title, metrics)], rows)]
    return "\n\n".join(parts) + "\n"


def _recorded(changes: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it; an image file by its name, since its folder is this machine's own."""
    recorded: dict[str, Any] = json.loads(json.dumps(changes))
    if "image" in recorded:
        recorded["image"] = Path(recorded["image"]).name
    return recorded


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.ablation.ablations",
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
    add("--images", type=Path, nargs="+", default=[], help="files that the question image tries as training images")
    add("--threads", type=int, default=torch.get_num_threads())
    peers.add_source_flags(parser)
    add_condition_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
