"""What people want to know of where weights come from, out of all that a file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Numbers of the export that only programs read, a text of many lines, and all settings of the training, which the
# command says in short.
_FOR_PROGRAMS = ("feature_scale", "random_scale", "license_text", "config")


def facts(said: Mapping[str, Any]) -> dict[str, Any]:
    """Of the metadata of a weight file, or a manifest's entry, what a table for people shows."""
    return {name: value for name, value in said.items() if name not in _FOR_PROGRAMS}
