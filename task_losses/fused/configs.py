"""Fixed choices of the fused path: how layers cut their work, and how products are rounded.

There is no autotuning: equal inputs give equal launches, and so equal bits, on every machine of one architecture.
"""

from __future__ import annotations

import torch

from task_losses.fused.plan import Tiles

MOST_CHANNELS = 32  # of those the ahead-of-time table tells that no register spills
OLDEST = (8, 0)  # compute capability


def tiles(channels: int) -> Tiles:
    """Small enough that no register spills on any architecture of the ahead-of-time table.

    Args:
        channels: a multiple of 8, at most :data:`MOST_CHANNELS`.
    """
    return Tiles(8, 8, 16 if channels % 16 == 0 else 8, 4, 2)


def precision() -> str:
    """Of the layers' products: TF32 exactly where torch lets cuDNN's convolutions, those of the plain path, use it.

    That is torch's default; ``torch.backends.cudnn.allow_tf32 = False`` makes both compute in float32. The resampling
    is in float32 always, as torch's products of matrices are by default.
    """
    convolutions = getattr(torch.backends.cudnn, "conv", None)  # torch 2.9: the older flag may then not be asked
    allowed = torch.backends.cudnn.allow_tf32 if convolutions is None else convolutions.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"
