"""One thing at a time: the released recipe with one setting changed, trained and put to the benchmark's test.

    python -m training.bench.ablations --train-images DIR --test-images DIR [DIR ...] --out DIR --runs DIR \
        [--tasks jpeg] [--questions adversary width] [--steps 120] [--crop 192]

For each variant: train, export, fine-tune a restoration network with it (a cell of ``training.bench.quality``, in the
same results folder), measure. Runs, weights and cells that are there are not made again. Writes ``ablations.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from training import export, train
from training.bench import peers
from training.bench.cells import Cell, Study, Test
from training.bench.data import TASKS, read_folders
from training.bench.peers import OURS
from training.bench.restoration import short_hash
from training.bench.rows import add_condition_flags, conditions_of
from training.bench.statistics import Interval, Scores, paired_difference
from training.bench.tables import column_title, shown, table
from training.config import INDIFFERENT, Config
from training.run_folder import RunFolder

# Question -> variants, each the settings in which it differs from the task's released recipe.
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
    "steps": [{"steps": 25}, {"steps": 50}, {"steps": 200}, {"steps": 400}],
    "updates": [{"critic_updates": 3, "steps": 34}],
    "width": [{"channels": (width,)} for width in (8, 16, 24, 32, 48, 64)],
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
    "share": [{"image_share": share} for share in (0.1, 0.25, 0.5, 0.75, 0.9)],
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
    "image": [{"image": f"skimage:{name}"} for name in ("astronaut", "coffee", "rocket", "cat", "retina")],
    "seed": [{"seed": seed} for seed in (1, 2, 3)],
}
OF_ONE_TASK = {"jpeg_quality": "jpeg", "noise_sigma": "denoise"}
SEED = 0  # of the fine-tuning


def released(task: str) -> Config:
    """The recipe of the released weights."""
    return Config.from_dict(OURS[task]().weights_info["config"])


def variants(task: str, questions: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], Config]]:
    """Question, changed settings and configuration; what the recipe has already is left out."""
    recipe = asdict(released(task))
    for question, changes in ((name, changes) for name in questions for changes in QUESTIONS[name]):
        elsewhere = any(OF_ONE_TASK.get(name, task) != task for name in changes)
        if elsewhere or all(recipe[name] == value for name, value in changes.items()):
            continue
        try:
            yield question, changes, Config.from_dict({**recipe, **changes})
        except ValueError as error:  # such as super-resolution from a level that was not upscaled
            print(f"{task} {changes}: left out: {error}", file=sys.stderr)


def weights_of(config: Config, runs: Path) -> Path:
    """The weight file of a configuration, trained and exported first if need be."""
    settings = {name: value for name, value in asdict(config).items() if name not in INDIFFERENT}
    form = {name: settings.pop(name) for name in export.FORM}
    folder = RunFolder(runs / f"{config.task}-{short_hash(settings)}")
    path = folder.path / f"{short_hash(form)}.safetensors"
    if not path.is_file():
        checkpoint = folder.load_checkpoint() if folder.checkpoint_path.exists() else None
        if checkpoint is None:
            folder.create(config)
        else:
            folder.resume_logs(config, checkpoint["scale"] * config.steps + checkpoint["step"])
        train.train(config, folder, checkpoint)
        export.export(folder, form=form).replace(path)
    return path


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

    for task in options.tasks:
        baseline = scores(task, "ours")
        path = options.out / f"ablations-{task}.json"
        done = json.loads(path.read_text()) if path.is_file() else []
        for question, changes, config in variants(task, options.questions):
            if any(entry["changes"] == json.loads(json.dumps(changes)) for entry in done):
                continue
            begun = time.monotonic()
            found = scores(task, f"file:{weights_of(config, options.runs)}")
            intervals = {name: paired_difference(found[name], baseline[name]) for name in conditions.metrics}
            measured = {name: asdict(interval) for name, interval in intervals.items() if interval is not None}
            done.append({"question": question, "changes": changes, "differences": measured})
            path.write_text(json.dumps(done, indent=1))
            print(f"{task} {changes}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    (options.out / "ablations.md").write_text(render(options.out, conditions.metrics), encoding="utf-8")
    return 0


def render(folder: Path, metrics: Sequence[str]) -> str:
    """All variants measured so far: differences to the released recipe, task by task."""
    parts = []
    for path in sorted(folder.glob("ablations-*.json")):
        parts.append(f"## {path.stem.removeprefix('ablations-')}")
        rows = []
        for entry in json.loads(path.read_text()):
            changes = ", ".join(f"{name} {_text(value)}" for name, value in entry["changes"].items())
            intervals = (
                shown(name, Interval(**entry["differences"][name])) if name in entry["differences"] else ""
                for name in metrics
            )
            rows.append([entry["question"], changes, *intervals])
        parts.append(table(["question", "changed", *map(column_title, metrics)], rows))
    return "\n\n".join(parts) + "\n"


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.ablations", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--train-images", type=Path, required=True)
    add("--test-images", type=Path, nargs="+", required=True)
    add("--out", type=Path, required=True, help="results folder of the study")
    add("--runs", type=Path, required=True, help="folder for the trainings")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--questions", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    add("--threads", type=int, default=torch.get_num_threads())
    peers.add_source_flags(parser)
    add_condition_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
