"""Levels of small images, and both ways to their distances and gradients."""

from __future__ import annotations

from functools import partial

import torch

from task_losses.architecture import Architecture
from task_losses.discriminator import FrozenDiscriminator
from task_losses.distance import Level, distance_and_gradient
from task_losses.fused.configs import Tiles
from task_losses.pyramid import level_size

# Time in the interpreter goes by the number of tiles more than by their size.
INTERPRETED = Tiles(16, 32, 8, 1, 1)
plain = partial(distance_and_gradient, join=False)


def levels_of(channels, taps, distance, image_exponent, size, depth=5, scales=2, dtype=torch.float64, **terms):
    """Levels with random weights, coarsest first, whose features keep one magnitude.

    Args:
        terms: further ones of the architecture.
    """
    draws = torch.Generator().manual_seed(0)
    form = Architecture((channels,) * scales, 0.75, depth, taps, distance, image_exponent, **terms)
    levels = []
    for scale in range(scales):
        layers = [
            (
                torch.randn(outputs, inputs, 3, 3, generator=draws, dtype=torch.float64) / (9 * inputs) ** 0.5,
                torch.randn(outputs, generator=draws, dtype=torch.float64) * 0.1,
            )
            for inputs, outputs in form.layer_shapes(scale)
        ]
        frozen = FrozenDiscriminator(layers, form.terms(scale)).to(dtype)
        levels.append(Level(scale, level_size(size, form.ratio, scales - 1 - scale), frozen))
    return levels


def pair(shape, dtype=torch.float64):
    draws = torch.Generator().manual_seed(1)
    return [torch.rand(shape, generator=draws, dtype=torch.float64).to(dtype) for _ in range(2)]


def relative(a, b):
    return (torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b)).item()
