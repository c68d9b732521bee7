"""Markdown tables of a study, made from result files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from training.bench.markdown import table
from training.bench.report.bootstrap import Front, FrontDifference, Interval, front_difference, paired_difference
from training.bench.report.rows import Row, Rows, front, mixed_losses
from training.bench.study.cells import CURVE_METRICS
from training.bench.study.conditions import Conditions
from training.bench.study.metrics import METRICS
from training.bench.study.peers import WITHOUT_TRAINING

NO_TRADE_OFF = (*WITHOUT_TRAINING, "l1")  # mixes of L1 with L1 are L1
AXES = ("psnr", "stlpips")  # where trade-offs are compared: fidelity and perception
INTERVAL_NOTE = "mean [95 % interval], **bold** where zero is outside"


def render(
    rows_of_tasks: Mapping[str, Rows], conditions: Conditions, baselines: Sequence[str], costs: bool = True
) -> str:
    """For each task a table of means and costs, and the differences to each baseline.

    Args:
        baselines: labels of rows to compare with; those that a task lacks are left out.
        costs: as the cells noted them, with whatever else the machine did.
    """
    parts = []
    for task, rows in rows_of_tasks.items():
        parts += [f"## {heading(task, conditions)}", means(rows, conditions.metrics, costs)]
        if any(_change(row, name) is not None for row in rows.values() for name in CURVE_METRICS):
            parts += ["Change over the last third of the steps, on the curve's crops (do the results settle?):"]
            parts += [_settling(rows)]
        for label in baselines:
            if label not in rows:
                continue
            parts += [f"Difference to `{label}`, {INTERVAL_NOTE}:", _differences(rows, label, conditions.metrics)]
            for axis in () if label in NO_TRADE_OFF else AXES:
                parts += _at_equal(axis, rows, rows[label].loss, conditions.metrics)
    return "\n\n".join(parts) + "\n"


def heading(task: str, conditions: Conditions) -> str:
    levels = conditions.levels[task]
    return f"{task} ({'mean of levels' if len(levels) > 1 else 'level'} {', '.join(map(str, levels))})"


def means(rows: Rows, metrics: Sequence[str], costs: bool = False) -> str:
    """A table of every row's mean scores and, if wanted, its costs."""
    noted = {"loss_seconds": ("loss s/step", 3), "loss_memory_mb": ("loss MB", 0), "seconds": ("s/step", 3),
             "memory_mb": ("MB", 0)} if costs else {}  # fmt: skip
    head = ["loss", "seeds", *map(column_title, metrics), *(title for title, _ in noted.values())]
    lines = []
    for row in rows.values():
        # A mean of some seeds would not be that of the seeds that the row says.
        scores = (
            (row.mean(name) if row.seeds_of(name) == set(row.seeds) else None, METRICS[name].digits) for name in metrics
        )
        figures = [*scores, *((row.median(name), digits) for name, (_, digits) in noted.items())]
        shown = ["" if value is None else f"{value:.{digits}f}" for value, digits in figures]
        lines.append([f"`{row.label}`", str(len(row.seeds)), *shown])
    return table(head, lines)


def _settling(rows: Rows) -> str:
    lines = []
    for row in rows.values():
        changes = [(name, _change(row, name)) for name in CURVE_METRICS]
        if any(change is not None for _, change in changes):
            cells = ["" if change is None else f"{change:+.{METRICS[name].digits}f}" for name, change in changes]
            lines.append([f"`{row.label}`", *cells])
    return table(["loss", *map(column_title, CURVE_METRICS)], lines)


def _change(row: Row, metric: str) -> float | None:
    """How far the curves' last points lie from those nearest two thirds of the way, a mean over the seeds."""
    changes = []
    for result in row.results:
        points = [(point["step"], point[metric]) for point in result.get("curve", []) if metric in point]
        if len(points) > 1:
            steps, last = points[-1]
            changes.append(last - min(points[:-1], key=lambda point: abs(point[0] - 2 / 3 * steps))[1])
    return mean(changes) if changes else None


def _differences(rows: Rows, baseline: str, metrics: Sequence[str]) -> str:
    lines = []
    for row in rows.values():
        if row.label != baseline:
            cells = [shown(name, difference(row, rows[baseline], name)) for name in metrics]
            lines.append([f"`{row.label}`", shared_seeds([row, rows[baseline]]), *cells])
    return table(["loss", "seeds", *map(column_title, metrics)], lines)


def _at_equal(axis: str, rows: Rows, baseline: str, metrics: Sequence[str]) -> list[str]:
    """Text and table: what mixes with L1 reach where they are level with another loss's on ``axis``."""
    losses = [loss for loss in mixed_losses(rows) if loss != baseline]
    others = [name for name in metrics if name != axis]
    if not losses or len(others) in (0, len(metrics)):
        return []
    lines = []
    for loss in losses:
        compared = {name: difference_on_fronts(rows, loss, baseline, name, axis) for name in others}
        seeds = shared_seeds([*front(rows, loss), *front(rows, baseline)])
        reach = next((shared_part(found, axis) for found in compared.values() if found), "")
        cells = [shown(name, found.interval if found else None) for name, found in compared.items()]
        lines.append([f"`{loss}`", seeds, reach, *cells])
    title = METRICS[axis].title
    text = (
        f"At equal {title}: mixes of a loss with L1, joined by lines, less those of `{baseline}`, averaged over the "
        f"{title} that both reach, {INTERVAL_NOTE}:"
    )
    return [text, table(["loss", "seeds", title, *map(column_title, others)], lines)]


def difference(row: Row, baseline: Row, metric: str) -> Interval | None:
    return paired_difference(row.scores.get(metric, {}), baseline.scores.get(metric, {}))


def difference_on_fronts(rows: Rows, loss: str, baseline: str, metric: str, axis: str) -> FrontDifference | None:
    """How the mixes of one loss compare with those of another at equal ``axis``; None without common measurements."""

    def points(name: str) -> Front:
        return [(row.scores.get(axis, {}), row.scores.get(metric, {})) for row in front(rows, name)]

    better = {"axis_higher": METRICS[axis].higher_is_better, "metric_higher": METRICS[metric].higher_is_better}
    return front_difference(points(loss), points(baseline), **better)


def shared_seeds(rows: Sequence[Row], *metrics: str) -> str:
    """How many seeds all rows have, measured by these metrics."""
    seeds = [set(row.seeds) for row in rows]
    seeds += [row.seeds_of(metric) for row in rows for metric in metrics]
    return str(len(set.intersection(*seeds)))


def shared_part(found: FrontDifference, axis: str) -> str:
    """The part of the axis on which two fronts were compared, or why they were not."""
    digits = METRICS[axis].digits
    low, high = (f"{value:.{digits}f}" for value in (found.low, found.high))
    if found.low > found.high:
        return f"no common {METRICS[axis].title}: one ends at {high}, the other begins at {low}"
    if found.interval is None:
        return f"no common {METRICS[axis].title} but L1's"
    return f"{low} to {high}" if found.low < found.high else low


def shown(name: str, interval: Interval | None) -> str:
    if interval is None:
        return ""
    digits = METRICS[name].digits
    text = f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return f"**{text}**" if interval.excludes_zero else text


def column_title(name: str) -> str:
    return METRICS[name].title + (" ↑" if METRICS[name].higher_is_better else " ↓")
