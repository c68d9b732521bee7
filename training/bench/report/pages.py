"""The figures in the documentation and the page of all results, made from the committed result files.

    python -m training.bench.report.pages           # writes results/quality.md, and the tables inside other pages
    python -m training.bench.report.pages --check   # tells which pages no longer say what the result files do

A page holds a table between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; prose around it is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses.losses import LOSSES
from training.bench.markdown import table
from training.bench.report import ablations, device
from training.bench.report.dial import OURS, render_dial
from training.bench.report.rows import Row, Rows, candidates, read_rows
from training.bench.report.tables import column_title, difference, means, render, shared_seeds, shown
from training.bench.report.verdicts import render_cost, render_verdicts
from training.bench.study.conditions import Conditions
from training.bench.study.metrics import METRICS
from training.bench.study.restoration import Recipe

ROOT = Path(__file__).parents[3]
RESULTS = Path(__file__).parents[1] / "results"
STUDY = Conditions(Recipe(start_steps=10000, steps=240), crop=192)
# What the losses of today do, and their dial: in plain networks, in those of STUDY, and from scratch.
DIAL = Conditions(
    Recipe(depth=6, start_steps=3000, steps=300, network="plain"), metrics=(*STUDY.metrics, "pattern", "dots"), crop=256
)
CHOICE_METRICS = (*STUDY.metrics, "dots")  # the last of some tasks
DIAL_METRICS = ("brisque", "gmsd", "haarpsi", "vsi")  # by which rows are measured once more
RESIDUAL = replace(DIAL, recipe=Recipe(start_steps=3000, steps=300))
UNET = replace(DIAL, recipe=Recipe(width=24, depth=4, start_steps=3000, steps=300, network="unet"))
SCRATCH = replace(DIAL, recipe=Recipe(width=24, depth=4, start_steps=0, steps=5000, lr=1e-3))
# What some rows of STUDY were measured by: the test levels besides the first, and further metrics.
OTHER_LEVELS = ({"denoise": (15,), "jpeg": (20,)}, {"denoise": (50,), "jpeg": (40,)})
OTHER_METRICS = ("gmsd", "haarpsi", "vsi")
BASELINES = ("l1", "random", "authors@full", "vgg")
CANDIDATES = candidates(["ours"])
TITLES = {"sr": "SR x4", "denoise": "Denoising, sigma 25", "jpeg": "JPEG, quality 10"}

SUMMARY_METRICS = ("psnr", "stlpips", "cvvdp")
SUMMARY_ROWS = {
    "l1": "L1",
    "mse": "MSE",
    "msssim-l1": "MS-SSIM + L1",
    "vgg": "VGG stand-in",
    "random~1": "random weights, the same terms",
    "ours~0": "the task's loss, `texture=0`",
    "ours~1": "**the task's loss**",
    "ours~2": "the task's loss, `texture=2`",
}
ALL_RESULTS = """\
# Every result of former weights

Made by `python -m training.bench.report.pages` from the files in `quality/`; what the rows and columns are, and what
follows, is in [docs/former_results.md](../../../docs/former_results.md).

"""


def pages(rows_of_tasks: Mapping[str, Rows]) -> dict[Path, str]:
    """What each page that holds results should be: path -> text.

    Raises:
        ValueError: a page lacks the place for a table.
    """
    former, sections = dict[str, str](), dict[str, str]()
    for task, rows in rows_of_tasks.items():
        former[f"means {task}"] = means(rows, STUDY.metrics)
        former[f"claims {task}"] = render_verdicts({task: rows}, STUDY, CANDIDATES).partition("\n\n")[2].strip()
    visible = json.loads((RESULTS / "dial" / "visible.json").read_text(encoding="utf-8"))
    dials = read_rows(RESULTS / "dial", DIAL)
    for task, rows in dials.items():
        sections[f"dial {task}"] = means(rows, DIAL.metrics)
        sections[f"dial claims {task}"] = render_dial(task, rows, visible.get(task))
    for task, rows in read_rows(RESULTS / "dial", replace(DIAL, metrics=DIAL_METRICS)).items():
        sections[f"dial further {task}"] = means(_measured(rows, DIAL_METRICS), DIAL_METRICS)
    for name, conditions in (("residual", RESIDUAL), ("unet", UNET)):
        for task, rows in read_rows(RESULTS / "dial", conditions).items():
            sections[f"{name} {task}"] = means(rows, DIAL.metrics)
            sections[f"{name} claims {task}"] = render_dial(task, rows)
    choices = dict[str, str]()
    networks = {"plain": DIAL, "residual": RESIDUAL}
    for folder, (name, conditions) in product(("choice", "adversary"), networks.items()):
        for task, rows in read_rows(RESULTS / folder, replace(conditions, metrics=CHOICE_METRICS)).items():
            measured = [metric for metric in CHOICE_METRICS if _measured(rows, [metric])]
            choices[f"{folder} {task} {name}"] = means(rows, measured)
    scratch = read_rows(RESULTS / "dial", SCRATCH)
    for task, rows in scratch.items():
        sections[f"scratch {task}"] = means(rows, DIAL.metrics)
    sections["scratch against L1"] = against_l1(scratch)
    speed = RESULTS / "speed-cpu.json"
    sections["claims cost"] = render_cost(speed)
    benchmarks, readme, guide = ROOT / "docs" / "benchmarks.md", ROOT / "README.md", ROOT / "docs" / "which_loss.md"
    ablations_page, former_page = ROOT / "docs" / "ablations.md", ROOT / "docs" / "former_results.md"
    on_device = device.sections(RESULTS / "device")
    return {
        **{
            page: splice(page.read_text(encoding="utf-8"), {name: on_device[name] for name in names})
            for page, names in ((ROOT / "docs" / name, names) for name, names in device.PAGES.items())
        },
        RESULTS / "quality.md": ALL_RESULTS
        + render(rows_of_tasks, STUDY, BASELINES, costs=False)
        + "".join("\n" + part for part in further_results()),
        benchmarks: splice(benchmarks.read_text(encoding="utf-8"), sections),
        former_page: splice(former_page.read_text(encoding="utf-8"), former),
        readme: splice(readme.read_text(encoding="utf-8"), {"summary": summary(dials)}),
        ablations_page: splice(
            ablations_page.read_text(encoding="utf-8"),
            choices
            | {
                f"ablations {folder.name}": ablations.render(folder, STUDY.metrics).strip().replace("## ", "### ")
                for folder in sorted((RESULTS / "ablations").iterdir())
            },
        ),
        guide: splice(guide.read_text(encoding="utf-8"), {"against L1": against_l1(dials)}),
    }


def further_results() -> Iterator[str]:
    """Tables at the other test levels, and by other metrics."""
    conditions = [replace(STUDY, levels={**STUDY.levels, **levels}) for levels in OTHER_LEVELS]
    for other in (*conditions, replace(STUDY, metrics=OTHER_METRICS)):
        changed = [task for task in STUDY.levels if other.levels[task] != STUDY.levels[task]] or list(STUDY.levels)
        rows_of_tasks = {task: rows for task, rows in read_rows(RESULTS / "quality", other).items() if task in changed}
        measured = {task: _measured(rows, other.metrics) for task, rows in rows_of_tasks.items()}
        yield render(measured, other, ("l1",), costs=False)


def _measured(rows: Rows, metrics: Sequence[str]) -> Rows:
    """Those that were measured by all of the metrics."""
    return {label: row for label, row in rows.items() if row.scores.keys() >= set(metrics)}


def splice(text: str, sections: Mapping[str, str]) -> str:
    """The text with new content between the marks of each section.

    Raises:
        ValueError: a section's marks are not there exactly once.
    """
    for name, content in sections.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if (count := len(pattern.findall(text))) != 1:
            raise ValueError(f"expected {begin} ... {end} once in the page, found it {count} times")
        text = pattern.sub(lambda _, new=f"{begin}\n\n{content}\n\n{end}": new, text)  # type: ignore[misc]
    return text


def summary(rows_of_tasks: Mapping[str, Rows]) -> str:
    """One line for each of the main losses, one column for each task."""
    head = ["trained with", *(TITLES[task] for task in rows_of_tasks)]
    lines = [
        [title, *(_figures(rows[label]) if label in rows else "" for rows in rows_of_tasks.values())]
        for label, title in SUMMARY_ROWS.items()
    ]
    return table(head, lines)


def against_l1(rows_of_tasks: Mapping[str, Rows]) -> str:
    """What the task's loss changes, at settings of its dial, alone and with L1."""
    head = ["", "seeds", *map(column_title, STUDY.metrics)]
    lines = []
    for task, rows in rows_of_tasks.items():
        for row in (row for row in rows.values() if row.family == OURS):
            found = [shown(name, difference(row, rows["l1"], name)) for name in STUDY.metrics]
            regime = "alone" if row.ratio is None else f"and L1, pull {row.ratio:g}"
            loss = f"`{LOSSES[task].__name__}(texture={row.dial:g})`"
            lines.append([f"{TITLES[task]}: {loss} {regime}", shared_seeds([row, rows["l1"]]), *found])
    return table(head, lines)


def _figures(row: Row) -> str:
    return " / ".join(f"{row.mean(name):.{min(3, METRICS[name].digits)}f}" for name in SUMMARY_METRICS)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.report.pages",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not up to date")
    options = parser.parse_args(arguments)
    wanted = pages(read_rows(RESULTS / "quality", STUDY))
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            print(f"{path.relative_to(ROOT)} is not what the results say: run python -m training.bench.report.pages")
        else:
            path.write_text(wanted[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
