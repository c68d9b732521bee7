"""Noise. None of it is clipped: what a network is given may leave [0, 1], as the noise of a benchmark does."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_noise(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Adds white Gaussian noise, without clipping.

    Args:
        image: any shape, floating point.
        sigma: standard deviation, in the image's units (25 / 255 for "sigma 25" on images in [0, 1]).
        generator: on the CPU, whatever the image's device, so that a seed means the same noise everywhere.
    """
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    return image + sigma * noise.to(image.device, image.dtype)


def sensor_noise(image: Tensor, photons: float, read: float, generator: torch.Generator) -> Tensor:
    """Poisson-Gaussian noise: its variance is ``image / photons + (read / photons)^2``.

    Args:
        image: in [0, 1], proportional to the light; what is below 0 counts as dark.
        photons: that make white.
        read: standard deviation of the reading, in photons.
        generator: on the CPU.
    """
    counted = torch.poisson(photons * image.clamp(min=0).to("cpu", torch.float32), generator=generator)
    return gaussian_noise(counted, read, generator).to(image.device, image.dtype) / photons


def film_grain(image: Tensor, sigma: float, size: float, generator: torch.Generator) -> Tensor:
    """Adds the same Gaussian noise, correlated over neighbours, to all channels.

    Args:
        image: (N, 3, H, W) in [0, 1].
        sigma: standard deviation in mid-grey; it falls to nothing in black and white.
        size: standard deviation of the Gaussian that a grain is, in pixels.
        generator: on the CPU.
    """
    radius = math.ceil(3 * size)
    profile = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / size).square())
    profile = profile / profile.square().sum().sqrt()  # sums of that many draws have the deviation of one
    count, _, height, width = image.shape
    noise = torch.randn((count, 1, height + 2 * radius, width + 2 * radius), generator=generator, dtype=torch.float32)
    grain = F.conv2d(F.conv2d(noise, profile[None, None, None]), profile[None, None, :, None])
    grey = image.mean(dim=1, keepdim=True).clamp(0, 1)
    return image + sigma * 2 * (grey * (1 - grey)).sqrt() * grain.to(image.device, image.dtype)
