"""Small facts that all launchers share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

KERNEL_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16}


def padded(channels: int) -> int:
    """Channels rounded up to what a matrix product takes: a power of 2, at least 16."""
    return max(16, int(triton.next_power_of_2(channels)))
