"""Blurs that keep every point where it is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES = 9  # per pixel and direction: a kernel is the mean of so many points


def motion_blur(image: Tensor, length: float, generator: torch.Generator) -> Tensor:
    """Blurs along a line of ``length`` pixels, in a direction that is drawn."""
    return blurred(image, line(length, math.pi * torch.rand((), generator=generator).item()))


def blurred(image: Tensor, kernel: Tensor) -> Tensor:
    """Each channel's correlation with a kernel of odd sides; what lies outside repeats the border.

    Args:
        image: (N, 3, H, W).
        kernel: (k, k).
    """
    side = kernel.shape[0]
    weight = kernel.to(image.device, image.dtype).expand(image.shape[1], 1, side, side)
    return F.conv2d(F.pad(image, (side // 2,) * 4, mode="replicate"), weight, groups=image.shape[1])


def line(length: float, angle: float) -> Tensor:
    """Kernel of a straight way, (k, k), sum 1: 0 is along x, pi / 2 along y."""
    places = torch.linspace(-0.5, 0.5, SAMPLES * math.ceil(length) + 1, dtype=torch.float64) * length
    return _kernel(places * math.cos(angle), places * math.sin(angle))


def disc(radius: float) -> Tensor:
    """Kernel of a disc, (k, k), sum 1."""
    places = torch.linspace(-radius, radius, 2 * SAMPLES * math.ceil(radius) + 1, dtype=torch.float64)
    x, y = torch.meshgrid(places, places, indexing="xy")
    inside = x.square() + y.square() <= radius**2 * (1 + 1e-9)
    return _kernel(x[inside], y[inside])


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Equal points, each shared among its four neighbouring pixels."""
    reach = math.ceil(max(x.abs().max().item(), y.abs().max().item()))
    pixels = torch.arange(-reach, reach + 1, dtype=torch.float64)
    across = (1 - (x[:, None] - pixels).abs()).clamp(min=0)
    down = (1 - (y[:, None] - pixels).abs()).clamp(min=0)
    return (down.T @ across / len(x)).float()
