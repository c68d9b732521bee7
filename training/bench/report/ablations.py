"""Tables of the ablations, made from their result files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from training.bench.markdown import table
from training.bench.report.bootstrap import Interval
from training.bench.report.tables import column_title, shown


def render(folder: Path, metrics: Sequence[str]) -> str:
    """All altered recipes measured so far: differences to the released recipe, by task and question."""
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


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
