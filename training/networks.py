"""The networks of phase 1: one discriminator and, in the paper's form, one generator per scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses.architecture import SLOPE, Architecture


class Block(nn.Module):
    """3x3 convolution without padding, BatchNorm, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # No bias: BatchNorm would remove it, and its gradient would be pure rounding noise.
        self.conv = nn.Conv2d(inputs, outputs, 3, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        nn.init.normal_(self.conv.weight, 0.0, 0.02)
        nn.init.normal_(self.norm.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), SLOPE)


class Network(nn.Module):
    """Blocks and a last plain convolution."""

    def __init__(self, channels: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(3 if i == 0 else channels, channels) for i in range(depth - 1)))
        self.last = nn.Conv2d(channels, outputs, 3)
        nn.init.normal_(self.last.weight, 0.0, 0.02)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The outputs of all layers, for comparing with the frozen form."""
        results = []
        for block in self.blocks:
            x = block(x)
            results.append(x)
        return [*results, self.last(x)]

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x)[-1]


class Discriminator(Network):
    """Scores patches: (N, 3, H, W) -> (N, 1, H - 2 depth, W - 2 depth), higher for real."""

    def __init__(self, channels: int, depth: int = Architecture.depth) -> None:
        super().__init__(channels, 1, depth)


class Generator(Network):
    """Restores: input + tanh(stack(input)), same shape; the borders are mirrored."""

    def __init__(self, channels: int, depth: int = Architecture.depth) -> None:
        super().__init__(channels, 3, depth)
        self.margin = depth

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.margin,) * 4, mode="reflect")
        return x + torch.tanh(super().forward(padded))
