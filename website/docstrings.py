"""For the API page: the docstrings' references, written for Sphinx, as code in Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe


class References(griffe.Extension):
    """``:meth:`x``` becomes ```x```, and double backticks single ones."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = re.sub(r":(?:class|meth|func|mod):(`[^`]+`)", r"\1", obj.docstring.value)
            obj.docstring.value = re.sub(r"``([^`]+)``", r"`\1`", text)
