"""What people want to know of where weights come from, out of all that a file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Numbers of the export that only programs read, and a text of many lines.
_FOR_PROGRAMS = ("feature_scale", "random_scale", "license_text")


def facts(said: Mapping[str, Any]) -> dict[str, Any]:
    """Of the metadata of a weight file, or a manifest's entry, what a table for people shows.

    All settings of the training are left out where a command says them in short.
    """
    hidden = (*_FOR_PROGRAMS, "config") if said.get("command") else _FOR_PROGRAMS
    return {name: value for name, value in said.items() if name not in hidden}
