"""Tables and verdicts of a study: all cells of its folder that were made and measured under the same conditions.

    python -m training.bench.report RESULTS [--ours LABEL] [--baselines LABEL ...] [--speed FILE] [--visible FILE]

Writes ``tables.md`` and, beside it, ``verdicts.md``. Give the flags for conditions that the study was made with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.report.dial import OURS, render_dial
from training.bench.report.rows import candidates, read_rows, settings
from training.bench.report.tables import heading, render
from training.bench.report.verdicts import render_verdicts
from training.bench.study.conditions import add_condition_flags, conditions_of


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("results", type=Path, help="folder of a study, of training.bench.study.quality --out")
    add("--tables", type=Path, help="where to write the tables, verdicts.md beside them [RESULTS/tables.md]")
    add("--baselines", nargs="+", default=["l1", "random"], help="rows, by label, that the others are compared with")
    add(
        "--ours",
        nargs="+",
        default=["ours"],
        help="the row, by label, that verdicts.md puts to the test, or TASK=LABEL for each task [ours]",
    )
    add("--speed", type=Path, help="figures of training.bench.cost.speed --json, for the verdicts on cost")
    add("--visible", type=Path, help="figures of training.bench.report.visible --json, for those on the dial")
    add_condition_flags(parser)
    options = parser.parse_args(arguments)
    conditions = conditions_of(options)
    rows = read_rows(options.results, conditions)
    path = options.tables or options.results / "tables.md"
    path.write_text(render(rows, conditions, options.baselines), encoding="utf-8")
    verdicts = render_verdicts(rows, conditions, candidates(options.ours), options.speed)
    visible = json.loads(options.visible.read_text()) if options.visible else {}
    dials = [
        f"\n## {heading(task, conditions)}: the dial\n\n{render_dial(task, of_task, visible.get(task))}\n"
        for task, of_task in rows.items()
        if settings(of_task, OURS)
    ]
    path.with_name("verdicts.md").write_text(verdicts + "".join(dials), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
