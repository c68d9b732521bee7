"""Finished cells of a study, read from its folder: nothing here trains, restores or loads a metric."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

from training.bench.report.bootstrap import Scores
from training.bench.study.cells import evaluation_name
from training.bench.study.conditions import Conditions
from training.bench.study.data import TASKS
from training.bench.study.peers import WITHOUT_TRAINING


@dataclass
class Row:
    """All seeds of one loss in one regime.

    Attributes:
        label: name of the loss, with its regime unless it stood alone.
        loss: name of the loss.
        ratio: None for the loss alone, else its gradient's norm relative to L1's.
        scores: metric -> (seed, image) -> score, averaged over the test levels.
        files: result file of each seed; the network lies beside it.
    """

    label: str
    loss: str
    ratio: float | None
    results: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    files: dict[int, Path] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The loss, at whatever setting of its dial."""
        return self.loss.partition("~")[0]

    @property
    def dial(self) -> float | None:
        """Setting of the loss's texture term; None where the study left it to the loss."""
        found = re.match(r"~([0-9.]+)", self.loss.removeprefix(self.family))
        return float(found[1]) if found else None

    @property
    def seeds(self) -> list[int]:
        return sorted({result["config"]["seed"] for result in self.results})

    def seeds_of(self, metric: str) -> set[int]:
        """Those that were measured by a metric."""
        return {seed for seed, _ in self.scores.get(metric, {})}

    def mean(self, metric: str) -> float | None:
        values = list(self.scores.get(metric, {}).values())
        return mean(values) if values else None

    def median(self, name: str) -> float | None:
        """Median over the seeds of a figure that each training leaves, such as ``loss_seconds``."""
        values = [result[name] for result in self.results if result.get(name) is not None]
        return median(values) if values else None


Rows = dict[str, Row]  # by label, in the order of the tables


def read_rows(folder: Path, conditions: Conditions) -> dict[str, Rows]:
    """Rows of every task that has finished cells under these conditions.

    Args:
        folder: of results, as ``training.bench.study.quality --out`` leaves it.

    Raises:
        ValueError: the folder holds no such cell.
    """
    recipe = json.loads(json.dumps(conditions.recipe.settings))
    files = {path: json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))}
    chosen = {path: result for path, result in files.items() if result["config"]["recipe"] == recipe}
    rows = {task: collect(chosen, task, conditions) for task in TASKS}
    rows = {task: of_task for task, of_task in rows.items() if of_task}
    if not rows:
        raise ValueError(
            f"{str(folder)!r} holds {len(files)} result files, {len(chosen)} of them of the recipe {recipe}, none "
            f"measured on {evaluation_name(conditions.crop)} at {dict(conditions.levels)}: name the folder of a study "
            "and the flags that it was made with"
        )
    return rows


def collect(results: Mapping[Path, dict[str, Any]], task: str, conditions: Conditions) -> Rows:
    """Rows of one task. Results that were not measured under the conditions are left out.

    Two losses of one name, such as a weight file before and after it was made anew, stay apart: their identity joins
    the name.
    """
    levels = [str(level) for level in conditions.levels[task]]
    measured = {}
    for path, result in results.items():
        by_level = result["evaluations"].get(evaluation_name(conditions.crop), {})
        if result["config"]["task"] == task and all(by_level.get(level) for level in levels):
            measured[path] = (result, by_level)
    names = _names(result["config"] for result, _ in measured.values())
    rows: Rows = {}
    scores: dict[str, dict[str, dict[tuple[int, str], float]]] = defaultdict(lambda: defaultdict(dict))
    for path, (result, by_level) in sorted(measured.items(), key=lambda item: _order(item[1][0])):
        config = result["config"]
        loss = names[config["loss"], config["identity"]]
        label = loss if config["ratio"] is None else f"{loss} + L1, {config['ratio']:g}"
        row = rows.setdefault(label, Row(label, loss, config["ratio"]))
        row.results.append(result)
        row.files[config["seed"]] = path
        for metric in conditions.metrics:
            for image in by_level[levels[0]]:
                values = [by_level[level].get(image, {}).get(metric) for level in levels]
                if None not in values:
                    scores[label][metric][config["seed"], image] = mean(values)
    for label, row in rows.items():
        row.scores = dict(scores[label])
    return rows


def _names(configs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """(loss, identity) -> name."""
    identities = defaultdict(set)
    for config in configs:
        identities[config["loss"]].add(config["identity"])
    return {
        (loss, identity): loss if len(known) == 1 else f"{loss} ({identity[:12]})"
        for loss, known in identities.items()
        for identity in known
    }


def _order(result: Mapping[str, Any]) -> tuple[Any, ...]:
    config = result["config"]
    name = config["loss"]
    first = [*WITHOUT_TRAINING, "l1", "random"]
    rank = first.index(name) if name in first else len(first)
    return (rank, name, config["identity"], config["ratio"] or 0.0, config["seed"])


def front(rows: Rows, loss: str) -> list[Row]:
    """What is known of a loss's trade-off, from the loss alone over its mixes with ever more L1 to L1.

    Of a loss without mixes only the loss alone: nothing tells what lies between it and L1.
    """
    points = [row for row in rows.values() if row.loss == loss]
    if all(row.ratio is None for row in points):
        return points
    ends = [rows["l1"]] if "l1" in rows and loss != "l1" else []
    return [*sorted(points, key=lambda row: -(row.ratio or float("inf"))), *ends]


def settings(rows: Rows, family: str) -> list[Row]:
    """A loss at each setting of its dial, from 0 up."""
    found = [row for row in rows.values() if row.family == family and row.ratio is None and row.dial is not None]
    return sorted(found, key=lambda row: row.dial or 0.0)


def mixed_losses(rows: Rows) -> list[str]:
    """Losses of which mixes with L1 were measured."""
    return list(dict.fromkeys(row.loss for row in rows.values() if row.ratio is not None))


def candidates(chosen: Sequence[str]) -> dict[str, str]:
    """Task -> label of the row that stands for this project there.

    Args:
        chosen: one ``LABEL`` for all tasks, or ``TASK=LABEL`` for each.

    Raises:
        ValueError: it is neither.
    """
    named = dict(entry.split("=", 1) for entry in chosen if entry.partition("=")[0] in TASKS)
    if len(chosen) == 1 and not named:
        return dict.fromkeys(TASKS, chosen[0])
    if len(named) != len(chosen):
        raise ValueError(
            f"--ours takes one label for all tasks, or TASK=LABEL with each of the tasks {', '.join(TASKS)} at most "
            f"once, got {' '.join(chosen)!r}"
        )
    return named
