"""What the launches of a pass have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from task_losses.architecture import SLOPE
from task_losses.fused.compared import Compared
from task_losses.fused.configs import Tiles
from task_losses.fused.launch import kernel_dtype, padded
from task_losses.fused.plan import Plan

_REGISTERS = 255  # of a thread, all that there are


@dataclass(frozen=True)
class Form:
    """What all launches of a pass have in common.

    Attributes:
        channels: of the hidden layers.
        precision: of products of float32: ``ieee``, ``tf32`` or ``tf32x3``.
    """

    plan: Plan
    tiles: Tiles
    channels: int
    compared: Compared
    precision: str


@dataclass(frozen=True)
class Shares:
    """Where a term's shares of the distances go: from column ``first`` of (N, S) sums."""

    sums: Tensor
    first: int


def place_of(shares: Shares | None) -> tuple[int, int]:
    """Columns of the sums, and the first one."""
    return (0, 0) if shares is None else (shares.sums.shape[1], shares.first)


def constants(form: Form, compared: bool) -> dict[str, Any]:
    """The compile-time arguments of all kernels of layers, and the compiler's options."""
    return {
        "CHANNELS": form.channels,
        "BLOCK": padded(form.channels),
        "BLOCK_HEIGHT": form.tiles.height,
        "BLOCK_WIDTH": form.tiles.width,
        "TAP": compared,
        "EXPONENT": form.compared.exponent,
        "SLOPE": SLOPE,
        "NUMBERS": kernel_dtype(form.plan.rows.dtype),
        "warps": form.tiles.warps,
        "registers": _REGISTERS,
    }
