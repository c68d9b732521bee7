"""What came of a sweep: a table and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Result(NamedTuple):
    """Of one training.

    Attributes:
        weights: name of the weight file in its folder.
        metric: what measured it, ``module:function``, and ``value``; None without one.
        attempts: how often it was begun or continued.
    """

    weights: str
    metric: str | None
    value: float | None
    attempts: int


def unseen(out: Path, results: Mapping[str, Result]) -> dict[str, str]:
    """Trainings whose folders are not here, and what to do."""
    why = "its node wrote it where this machine does not see it; --out must be a folder that all nodes share"
    return {name: why for name, result in results.items() if not (out / name / result.weights).exists()}


def write_results(
    out: Path,
    own: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Result],
    failed: Mapping[str, str],
    highest: bool,
) -> str:
    """Writes ``results.csv``, best first, and ``results.png``.

    Args:
        own: each training's settings, by name.
        highest: whether the best has the highest value.

    Returns:
        What to tell: where the results are, which is best, what failed.
    """
    measured = [name for name, result in results.items() if result.value is not None]
    best_first = sorted(measured, key=lambda name: results[name].value or 0.0, reverse=highest)
    names = [*best_first, *(name for name in own if name in results and name not in measured), *failed]
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("name", "value", "attempts", "weights", "settings", "error"))
        for name in names:
            found = results.get(name)
            row = (found.value, found.attempts, f"{name}/{found.weights}") if found else ("", "", "")
            table.writerow((name, *row, json.dumps(own[name]), failed.get(name, "")))
    draw(out, best_first, results)
    lines = [f"{len(results)} of {len(names)} trained: {out / 'results.csv'}"]
    if best_first:
        best = results[best_first[0]]
        lines.append(f"best by {best.metric}: {best_first[0]}, {best.value:.6g}: {out / best_first[0] / best.weights}")
    return "\n".join(lines + [f"failed: {name}: {why}" for name, why in failed.items()])


def draw(out: Path, best_first: list[str], results: Mapping[str, Result]) -> None:
    """The critics' distances by step, and the values where there are any."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 3 + 0.25 * len(best_first)), layout="constrained")
    curves, *rest = figure.subplots(1, 2 if best_first else 1, squeeze=False)[0]
    for name in results:
        with (out / name / "losses.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        distances = [float(row["critic_distance"]) for row in rows]
        curves.plot([int(row["step"]) for row in rows], distances, linewidth=0.7, label=name)
    curves.set_xlabel("step")
    curves.set_ylabel("critic distance")
    if len(results) <= 12:
        curves.legend(fontsize="small")
    for axis in rest:
        axis.plot([results[name].value for name in reversed(best_first)], best_first[::-1], "o")
        axis.set_xlabel(results[best_first[0]].metric)
    figure.savefig(out / "results.png", dpi=100)
