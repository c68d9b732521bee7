"""What others wrote, made safe to read, to print and to put into a page: JSON, terminals, Markdown.

Weight files and manifests come from anybody. Nothing in them may take long to read, fill a screen, move a cursor, look
like a line of ours, or become markup.
"""

from __future__ import annotations

import io
import json
import math
import re
import reprlib
import sys
from itertools import pairwise
from typing import Any

LONGEST = 2000  # characters of a message or of a shown text
DEEPEST = 32  # objects and lists inside each other in JSON
LARGEST = 2**53  # an integer; beyond it, readers of JSON disagree on the number
# Outside code, no character but these is certain to mean itself in Markdown, HTML and their dialects.
_MARKUP = re.compile(r"[^\w \n,;/%()+=.-]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=www)\.|(?<=\n)[-+=]", re.IGNORECASE)
_HALF = re.compile("[\ud800-\udfff]")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 300


def shown(value: object) -> str:
    """A value for a message: its ``repr``, short however large and nested the value is, on one line."""
    try:
        return printable(_short.repr(value))
    except Exception:  # an integer of too many digits, or an object whose repr fails
        return f"<{type(value).__name__}>"


def printable(text: str, most: int = LONGEST) -> str:
    """A text on one line: escapes in the place of line ends, control and direction characters; cut where too long."""
    start = text[: most + 1]
    shown = start if start.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start)
    if len(shown) <= most:
        return shown
    note = f" [... {len(text)} characters]"
    return shown[: most - len(note)] + note


def markdown(text: str) -> str:
    """A text for a table or sentence of Markdown, where it is shown as it stands: no markup, links or HTML."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(text))


def take_any_name() -> None:
    """For commands: what the console's code page lacks of a name or a text is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def read_json(data: bytes | str) -> Any:
    """Strict JSON: what every reader understands alike, and whose numbers can be computed with.

    Raises:
        ValueError: not JSON; a key twice in an object; nested deeper than DEEPEST; an integer beyond LARGEST; NaN or an
            infinity; half a surrogate pair.
    """
    try:
        content = json.loads(data, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise ValueError(printable(str(error), 300)) from None
    _check(content, DEEPEST)
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = sorted(name for name, _ in pairs)
        raise ValueError(f"the key {shown(next(a for a, b in pairwise(names) if a == b))} occurs twice")
    return content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check(content: Any, levels: int) -> None:
    if isinstance(content, (dict, list)):
        if not levels:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
        for part in content if isinstance(content, list) else (*content, *content.values()):
            _check(part, levels - 1)
    elif isinstance(content, str):
        if _HALF.search(content):
            raise ValueError(f"{shown(content)} has half a character")
    elif isinstance(content, float):
        if not math.isfinite(content):
            raise ValueError("a number is too large")
    elif isinstance(content, int) and abs(content) > LARGEST:
        raise ValueError(f"the integer {shown(content)} is beyond {LARGEST}")
