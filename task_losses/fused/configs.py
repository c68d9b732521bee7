"""Fixed choices of the fused path: how layers cut their work, and how products are rounded.

There is no autotuning: equal inputs give equal launches, and so equal bits, on every machine of one architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from task_losses.discriminator import FrozenDiscriminator

MOST_LEVELS = 16
MOST_CHANNELS = 32  # of those the ahead-of-time table tells that no register spills
OLDEST = (8, 0)  # compute capability
OLDEST_TRITON = (3, 5)  # no older one has been tried
# Bytes of maps up to which all levels are computed together. Where they would take more, launches cost little.
TOGETHER = 2**29


class Level(Protocol):
    """What a level must tell: the size of its image, and its discriminator."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def discriminator(self) -> FrozenDiscriminator: ...


Way = Callable[[Tensor, Tensor, Sequence[Any]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tiles:
    """How layers cut their work.

    Attributes:
        height, width: pixels of a program, both powers of 2.
        inner: inputs of a step of its sum; a power of 2 that divides the channels.
        warps, stages: threads of a program in warps, and depth of the sum's pipeline.
    """

    height: int
    width: int
    inner: int
    warps: int
    stages: int


def tiles(channels: int, precision: str) -> Tiles:
    """Small enough that no register spills on any architecture of the ahead-of-time table.

    Of eight ways to cut the work of 16 channels the one taken in TF32 was the fastest on an H200 (docs/kernels.md). In
    float32 it is faster too, by 15 %, but spills. Other widths were not timed.

    Args:
        channels: a multiple of 8, at most :data:`MOST_CHANNELS`.
        precision: of products; see :func:`precision`.
    """
    if channels == 16:
        return Tiles(8, 16, 16, 4, 2) if precision == "tf32" else Tiles(8, 8, 16, 4, 2)
    return Tiles(8, 8, 8, 4, 3 if channels > 24 else 2)


def triton_version() -> tuple[int, int]:
    import triton

    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def least_inner() -> int:
    """Inputs that a product of float32 matrices must have in the installed Triton: before 3.8 it refuses fewer."""
    return 8 if triton_version() >= (3, 8) else 16


def precision() -> str:
    """Of the layers' products: TF32 exactly where torch lets cuDNN's convolutions, those of the plain path, use it.

    That is torch's default; ``torch.backends.cudnn.allow_tf32 = False`` makes both compute in float32. The resampling
    is in float32 always, as torch's products of matrices are by default.
    """
    convolutions = getattr(torch.backends.cudnn, "conv", None)  # torch 2.9: the older flag may then not be asked
    allowed = torch.backends.cudnn.allow_tf32 if convolutions is None else convolutions.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"


def width_of(level: Level) -> int:
    """Channels of a level's hidden layers."""
    return level.discriminator.shapes[0][0]  # asked at every step: reading the weights takes 50 times as long
