"""Pictures of a study, made from its result files.

    python -m training.bench.report.figures RESULTS --images docs/images [--ours LABEL]
        [--losses LABEL ...] [--times FILE]

    cost.svg     ST-LPIPS and ColorVideoVDP against the time of the loss's two passes, VGG's being 1
    fronts.svg   ColorVideoVDP and PSNR against ST-LPIPS, from each loss alone over its mixes with L1 to L1, as far as
                 these lie near ours
    curves.svg   PSNR and ST-LPIPS of a few small test crops during the fine-tuning: do the results settle?

Means over seeds and images. Backgrounds are transparent, for pages light and dark.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])
    import_module("training")  # before matplotlib: it says what need not draw

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.bench.report.dial import CONTROL, OURS
from training.bench.report.rows import Row, Rows, candidates, front, mixed_losses, read_rows, settings
from training.bench.study.conditions import add_condition_flags, conditions_of
from training.bench.study.metrics import METRICS
from training.bench.study.peers import WITHOUT_TRAINING

# Okabe and Ito's colours without the palest and black, and four more: to be seen on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#9467bd", "#8c6d31", "#7a7a00", "#008080")
OURS_COLOUR, PLAIN_COLOUR, TEXT_COLOUR = "#e0245e", "#8a8a8a", "#808890"
MARKERS = "osD^vPX<>"
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "svg.fonttype": "none",  # text as text: a third of the size
    "svg.hashsalt": "task-losses",  # equal results make equal files
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.markersize": 5,
    "lines.linewidth": 1.2,
    **{
        name: TEXT_COLOUR
        for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    },
}


@dataclass(frozen=True)
class Look:
    """How the figures draw each loss: the same in every panel."""

    of: Mapping[str, tuple[str, str]]  # loss -> colour, marker

    def __call__(self, loss: str, *, ours: bool = False) -> dict[str, Any]:
        if ours:
            return {"color": OURS_COLOUR, "marker": "*", "markersize": 10, "zorder": 3, "label": "ours"}
        colour, marker = self.of[loss]
        return {"color": colour, "marker": marker, "zorder": 4 if loss == "l1" else 2, "label": loss}


def look_of(rows_of_tasks: Mapping[str, Rows]) -> Look:
    losses = sorted({row.loss for rows in rows_of_tasks.values() for row in rows.values()} - {"l1", *WITHOUT_TRAINING})
    drawn = {
        loss: (COLOURS[index % len(COLOURS)], MARKERS[(index + 3 * (index // len(COLOURS))) % len(MARKERS)])
        for index, loss in enumerate(losses)
    }
    return Look({"l1": (PLAIN_COLOUR, "o"), **drawn})


Draw = Callable[[Axes, str, str], None]  # axes, task, metric


def panels(tasks: Sequence[str], metrics: Sequence[str], draw: Draw) -> Figure:
    """A grid of tasks by metrics with one legend for all."""
    figure = Figure(figsize=(3.1 * len(tasks), 2.4 * len(metrics) + 0.5), layout="constrained")
    grid = figure.subplots(len(metrics), len(tasks), squeeze=False)
    for line, metric in zip(grid, metrics, strict=True):
        for axes, task in zip(line, tasks, strict=True):
            draw(axes, task, metric)
            axes.patch.set_alpha(0)
        line[0].set_ylabel(_better(metric))
    for axes, task in zip(grid[0], tasks, strict=True):
        axes.set_title(task)
    entries: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def cost(
    rows_of_tasks: Mapping[str, Rows], ours: Mapping[str, str], times: Mapping[str, Mapping[str, float]] | None
) -> Figure:
    """Quality of each loss alone, or of ours in its regime, against the time it takes.

    Args:
        times: task -> label -> time, of ``training.bench.study.times``; None for the medians that the cells noted,
            which include whatever else the machine did.

    Raises:
        ValueError: nothing says how long ``vgg`` takes.
    """
    look = look_of(rows_of_tasks)
    points = {
        task: _cost_points(rows, ours.get(task), None if times is None else times.get(task, {}))
        for task, rows in rows_of_tasks.items()
    }
    points = {task: of_task for task, of_task in points.items() if of_task}
    if not points:
        raise ValueError(
            "the time of each loss is drawn relative to vgg's, and there is none: run its cells "
            "(--losses vgg), or measure with python -m training.bench.study.times"
        )

    def draw(axes: Axes, task: str, metric: str) -> None:
        for row, time in points[task]:
            value = row.mean(metric)
            if value is not None:
                axes.plot(time, value, linestyle="none", **look(row.loss, ours=row.label == ours.get(task)))
        axes.set_xlabel("time of the loss, VGG = 1")

    return panels(list(points), ("stlpips", "cvvdp"), draw)


def _cost_points(rows: Rows, ours: str | None, times: Mapping[str, float] | None) -> list[tuple[Row, float]]:
    chosen = [row for row in rows.values() if row.loss not in WITHOUT_TRAINING]
    chosen = [row for row in chosen if row.ratio is None or row.label == ours]
    seconds = {row.loss: row.median("loss_seconds") if times is None else times.get(row.loss) for row in chosen}
    of_vgg = times.get("vgg") if times is not None else seconds.get("vgg")
    return [(row, time / of_vgg) for row in chosen if of_vgg and (time := seconds[row.loss])]


def fronts(rows_of_tasks: Mapping[str, Rows], ours: Mapping[str, str]) -> Figure:
    """What a loss and its mixes with L1 reach; losses without mixes are single points.

    The frame is that of the mixes, L1 and ours: a loss that gives up much of one metric for another lies outside, and
    its line leaves the frame.
    """
    look = look_of(rows_of_tasks)

    def draw(axes: Axes, task: str, metric: str) -> None:
        rows = rows_of_tasks[task]
        our_loss = rows[ours[task]].loss if ours.get(task) in rows else None
        for loss in dict.fromkeys(row.loss for row in rows.values() if row.loss not in WITHOUT_TRAINING):
            means = [(row.mean("stlpips"), row.mean(metric)) for row in front(rows, loss)]
            known = [(x, y) for x, y in means if x is not None and y is not None]
            if known:
                line = "-" if loss in mixed_losses(rows) else "none"
                axes.plot(*zip(*known, strict=True), linestyle=line, **look(loss, ours=loss == our_loss))
        framed = [row for row in rows.values() if row.ratio is not None or row.loss in ("l1", our_loss)]
        if any(row.ratio is not None for row in framed):
            _frame(axes, [(row.mean("stlpips"), row.mean(metric)) for row in framed])
        axes.set_xlabel(_better("stlpips"))

    return panels(list(rows_of_tasks), ("cvvdp", "psnr"), draw)


def _frame(axes: Axes, points: Sequence[tuple[float | None, float | None]]) -> None:
    """Sets the limits to the box of the points, a third wider on each side."""
    for side, values in zip("xy", zip(*points, strict=True), strict=True):
        known = [value for value in values if value is not None]
        if known and (margin := (max(known) - min(known)) / 3):
            axes.set(**{f"{side}lim": (min(known) - margin, max(known) + margin)})


def curves(rows_of_tasks: Mapping[str, Rows], ours: Mapping[str, str]) -> Figure:
    """Measurements on the way, means over the seeds; rows as in :func:`cost`."""
    look = look_of(rows_of_tasks)

    def draw(axes: Axes, task: str, metric: str) -> None:
        for row in rows_of_tasks[task].values():
            if row.ratio is None or row.label == ours.get(task):
                points = defaultdict(list)
                for result in row.results:
                    for point in result.get("curve", []):
                        if metric in point:
                            points[point["step"]].append(point[metric])
                if points:
                    values = [mean(points[step]) for step in sorted(points)]
                    style = look(row.loss, ours=row.label == ours.get(task))
                    axes.plot(sorted(points), values, **{**style, "markersize": 3, "label": row.label})
        axes.set_xlabel("steps")

    return panels(list(rows_of_tasks), ("psnr", "stlpips"), draw)


def dial(rows_of_tasks: Mapping[str, Rows], metrics: Sequence[str]) -> Figure:
    """Every metric along the dial of ours and of the random control; L1 is a level line."""
    turned = {task: rows for task, rows in rows_of_tasks.items() if settings(rows, OURS)}

    def draw(axes: Axes, task: str, metric: str) -> None:
        rows = turned[task]
        for family, colour, marker in ((OURS, OURS_COLOUR, "*"), (CONTROL, COLOURS[0], "o")):
            known = [(row.dial, value) for row in settings(rows, family) if (value := row.mean(metric)) is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, marker=marker, label=family)
        level = rows["l1"].mean(metric) if "l1" in rows else None
        if level is not None:
            axes.axhline(level, color=PLAIN_COLOUR, linestyle="--", label="l1")
        axes.set_xlabel("texture")

    return panels(list(turned), metrics, draw)


def _better(metric: str) -> str:
    return f"{METRICS[metric].title} ({'higher' if METRICS[metric].higher_is_better else 'lower'} is better)"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.report.figures",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="folder of a study, of training.bench.study.quality --out")
    parser.add_argument("--images", type=Path, required=True, help="where to write the pictures")
    parser.add_argument("--ours", nargs="+", default=["ours"], help="row to highlight, or TASK=LABEL for each [ours]")
    parser.add_argument("--losses", nargs="+", help="losses to draw, by label without a mix [all]")
    parser.add_argument("--times", type=Path, help="figures of training.bench.study.times --json")
    add_condition_flags(parser)
    options = parser.parse_args(arguments)
    ours = candidates(options.ours)
    rows_of_tasks = read_rows(options.results, conditions_of(options))
    if options.losses:
        rows_of_tasks = {
            task: {label: row for label, row in rows.items() if row.loss in options.losses or label == ours.get(task)}
            for task, rows in rows_of_tasks.items()
        }
    times = json.loads(options.times.read_text())["seconds"] if options.times else None
    options.images.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        made = {"fronts": fronts(rows_of_tasks, ours), "curves": curves(rows_of_tasks, ours)}
        if any(settings(rows, OURS) for rows in rows_of_tasks.values()):
            made["dial"] = dial(rows_of_tasks, options.metrics)
        try:
            made["cost"] = cost(rows_of_tasks, ours, times)
        except ValueError as error:
            print(f"cost.svg is not made: {error}", file=sys.stderr)
        for name, figure in made.items():
            path = options.images / f"{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    return 0 if "cost" in made else 1


if __name__ == "__main__":
    sys.exit(main())
