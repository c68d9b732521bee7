"""Triton where it is installed. Kernels take ``jit`` and ``tl`` from here, so that their files import anywhere.

A file of kernels needs ``from __future__ import annotations``, for its ``tl.constexpr`` parameters.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

TRITON_INSTALLED = importlib.util.find_spec("triton") is not None

jit: Any
tl: Any
constexpr: Any  # makes a number that kernels may read although it is global
if TRITON_INSTALLED:
    jit = importlib.import_module("triton").jit
    tl = importlib.import_module("triton.language")
    constexpr = tl.constexpr
else:

    def jit(function: Any = None, **_: Any) -> Any:
        """Leaves the function as it is, also as ``@jit(...)``: without Triton nothing launches it."""
        return function or (lambda inner: inner)

    tl = None

    def constexpr(value: int) -> int:
        return value


def interpreted() -> bool:
    """Whether this process runs kernels in Triton's interpreter, which takes tensors on the CPU.

    Never with Triton before 3.4, which has no knobs; kernels are not tested with it (tests/kernels/known_triton.py).
    """
    knobs = getattr(importlib.import_module("triton"), "knobs", None) if TRITON_INSTALLED else None
    return knobs is not None and bool(knobs.runtime.interpret)
