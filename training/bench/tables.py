"""Markdown tables of a study, made from result files alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from training.bench.cells import evaluation_name
from training.bench.metrics import METRICS
from training.bench.peers import WITHOUT_TRAINING
from training.bench.statistics import Scores, paired_difference


@dataclass
class Row:
    """All seeds of one loss in one regime.

    Attributes:
        label: name of the loss, with its regime unless it stood alone.
        scores: metric -> (seed, image) -> score, averaged over the test levels.
    """

    label: str
    results: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return sorted({result["config"]["seed"] for result in self.results})


def render(
    results: Sequence[Mapping[str, Any]],
    *,
    metrics: Sequence[str],
    crop: int,
    levels: Mapping[str, Sequence[int]],
    baselines: Sequence[str],
) -> str:
    """For each task a table of means and costs, and one of paired differences for each baseline.

    Args:
        baselines: labels of rows to compare with; those that a task lacks are left out.
    """
    parts = []
    for task, of_levels in levels.items():
        rows = collect((result for result in results if result["config"]["task"] == task), crop, of_levels, metrics)
        if not rows:
            continue
        parts.append(
            f"## {task} ({'mean of levels ' if len(of_levels) > 1 else 'level '}{', '.join(map(str, of_levels))})"
        )
        parts.append(_means(rows, metrics))
        for baseline in baselines:
            if baseline in rows:
                parts.append(f"Difference to `{baseline}`, mean [95 % interval], **bold** where zero is outside:")
                parts.append(_differences(rows, rows[baseline], metrics))
    return "\n\n".join(parts) + "\n"


def collect(
    results: Iterable[Mapping[str, Any]], crop: int, levels: Sequence[int], metrics: Sequence[str]
) -> dict[str, Row]:
    """Rows by label. Results that were not measured under these conditions are left out."""
    rows: dict[str, Row] = {}
    scores: dict[str, dict[str, dict[tuple[int, str], float]]] = defaultdict(lambda: defaultdict(dict))
    for result in sorted(results, key=_order):
        by_level = result["evaluations"].get(evaluation_name(crop), {})
        if any(str(level) not in by_level for level in levels):
            continue
        config = result["config"]
        label = config["loss"] if config["ratio"] is None else f"{config['loss']} + L1, {config['ratio']:g}"
        rows.setdefault(label, Row(label)).results.append(dict(result))
        for metric in metrics:
            for image in by_level[str(levels[0])]:
                values = [by_level[str(level)].get(image, {}).get(metric) for level in levels]
                if None not in values:
                    scores[label][metric][config["seed"], image] = mean(values)
    for label, row in rows.items():
        row.scores = dict(scores[label])
    return rows


def _order(result: Mapping[str, Any]) -> tuple[Any, ...]:
    config = result["config"]
    name = config["loss"]
    first = [*WITHOUT_TRAINING, "l1", "random"]
    return (first.index(name) if name in first else len(first), name, config["ratio"] or 0.0, config["seed"])


def _means(rows: Mapping[str, Row], metrics: Sequence[str]) -> str:
    head = ["loss", "seeds", *(METRICS[name].title for name in metrics), "loss s/step", "loss MB"]
    lines = []
    for row in rows.values():
        cells = [f"`{row.label}`", str(len(row.seeds))]
        for name in metrics:
            values = list(row.scores.get(name, {}).values())
            cells.append(f"{mean(values):.{METRICS[name].digits}f}" if values else "")
        cells.append(_median(row.results, "loss_seconds", 3))
        cells.append(_median(row.results, "loss_memory_mb", 0))
        lines.append(cells)
    return table(head, lines)


def _differences(rows: Mapping[str, Row], baseline: Row, metrics: Sequence[str]) -> str:
    lines = []
    for row in rows.values():
        if row is baseline:
            continue
        cells = [f"`{row.label}`", str(len(set(row.seeds) & set(baseline.seeds)))]
        for name in metrics:
            interval = paired_difference(row.scores.get(name, {}), baseline.scores.get(name, {}))
            digits = METRICS[name].digits
            if interval is None:
                cells.append("")
                continue
            shown = f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
            cells.append(f"**{shown}**" if interval.excludes_zero else shown)
        lines.append(cells)
    titles = [METRICS[name].title + (" ↑" if METRICS[name].higher_is_better else " ↓") for name in metrics]
    return table(["loss", "seeds", *titles], lines)


def _median(results: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    values = [result[name] for result in results if result.get(name) is not None]
    return f"{median(values):.{digits}f}" if values else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
