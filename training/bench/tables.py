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
from training.bench.statistics import Interval, Scores, difference_at_equal, paired_difference


@dataclass
class Row:
    """All seeds of one loss in one regime.

    Attributes:
        label: name of the loss, with its regime unless it stood alone.
        scores: metric -> (seed, image) -> score, averaged over the test levels.
    """

    label: str
    loss: str
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
                fronts = _fronts(rows, baseline)
                if "psnr" in metrics and fronts:
                    parts.append(
                        f"Mixes with L1 at the PSNR of `{baseline}`, interpolated between the mixes measured, "
                        f"less `{baseline}`:"
                    )
                    parts.append(_at_equal_psnr(fronts, rows[baseline], metrics))
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
        rows.setdefault(label, Row(label, config["loss"])).results.append(dict(result))
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
        if row is not baseline:
            differences = {
                name: paired_difference(row.scores.get(name, {}), baseline.scores.get(name, {})) for name in metrics
            }
            seeds = len(set(row.seeds) & set(baseline.seeds))
            lines.append([f"`{row.label}`", str(seeds), *(_shown(name, differences[name]) for name in metrics)])
    return table(["loss", "seeds", *map(_title, metrics)], lines)


def _fronts(rows: Mapping[str, Row], baseline: str) -> dict[str, list[Row]]:
    """For each loss of which mixes were measured: these, the loss alone and L1 alone."""
    fronts = defaultdict(list)
    for row in rows.values():
        if row.loss not in (*WITHOUT_TRAINING, "l1", baseline):
            fronts[row.loss].append(row)
    ends = [rows["l1"]] if "l1" in rows and baseline != "l1" else []
    return {loss: points + ends for loss, points in fronts.items() if len(points) > 1}


def _at_equal_psnr(fronts: Mapping[str, list[Row]], baseline: Row, metrics: Sequence[str]) -> str:
    others = [name for name in metrics if name != "psnr"]
    lines = []
    for loss, points in fronts.items():
        differences = {
            name: difference_at_equal(
                [(row.scores.get("psnr", {}), row.scores.get(name, {})) for row in points],
                (baseline.scores.get("psnr", {}), baseline.scores.get(name, {})),
            )
            for name in others
        }
        seeds = len(set.intersection(set(baseline.seeds), *(set(row.seeds) for row in points)))
        lines.append([f"`{loss}`", str(seeds), *(_shown(name, differences[name]) for name in others)])
    return table(["loss", "seeds", *map(_title, others)], lines)


def _shown(name: str, interval: Interval | None) -> str:
    if interval is None:
        return ""
    digits = METRICS[name].digits
    text = f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return f"**{text}**" if interval.excludes_zero else text


def _title(name: str) -> str:
    return METRICS[name].title + (" ↑" if METRICS[name].higher_is_better else " ↓")


def _median(results: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    values = [result[name] for result in results if result.get(name) is not None]
    return f"{median(values):.{digits}f}" if values else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
