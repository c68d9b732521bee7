"""The files of results: JSON that is whole at any moment, whoever is killed."""

from __future__ import annotations

import json
import math
import os
import re
import site
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST_TEXT = 3000  # characters of an output: its end says what went wrong
_ROOT = Path(__file__).resolve().parents[3]
_PLACES = (str(_ROOT), *site.getsitepackages(), sys.prefix, tempfile.gettempdir(), str(Path.home()))
_FOLDERS = re.compile("|".join(re.escape(place) + "/" for place in sorted(_PLACES, key=len, reverse=True)))


def read_content(path: Path) -> dict[str, Any] | None:
    """A file of results, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("rows"), list) else None


def write_content(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file at once; numbers that JSON does not have become their names, long texts their end.

    Folders of this machine are left out of texts: results are published.

    Args:
        content: its ``rows`` take a line each.
    """
    head = {key: value for key, value in content.items() if key != "rows"}
    rows = ",\n".join(json.dumps(_plain(row), allow_nan=False) for row in content["rows"])
    text = json.dumps({**_plain(head), "rows": None}, indent=1, allow_nan=False)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text.removesuffix("null\n}") + f"[\n{rows}\n]\n}}\n", encoding="utf-8")
    os.replace(part, path)


def remove_unfinished(path: Path) -> None:
    """What a process that was killed while it wrote a file has left beside it."""
    for part in path.parent.glob(f".{path.name}.*"):
        part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, str):
        value = _FOLDERS.sub("", value)
        return value if len(value) <= LONGEST_TEXT else f"[...]{value[-LONGEST_TEXT:]}"
    return value if value is None or isinstance(value, (bool, int)) else str(value)
