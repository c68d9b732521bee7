"""The distortions that a loss can be specialised on.

A distortion turns an image into what a restoration network of its task would be given. In training it runs at every
scale of the pyramid, with a strength drawn anew each time, so that one loss serves the whole range.
"""

from __future__ import annotations

import importlib
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.config import Config
from training.wiener import wiener_restored

# (1, 3, H, W) in [0, 1], and the source of randomness -> the distorted image, same shape.
Distortion = Callable[[Tensor, torch.Generator], Tensor]
# What it is applied to, the image to restore from that, the source of randomness -> what the critic meets.
Adversary = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def make_distortion(config: Config) -> Distortion:
    """The distortion that a configuration names: its task's, or the user's own.

    Raises:
        ValueError: the user's ``module:function`` cannot be imported.
    """
    if config.distortion is not None:
        return _imported(config.distortion)
    if config.task == "sr":
        return lambda image, generator: image  # the pyramid's upscaling is the distortion
    if config.task == "denoise":
        low, high = (sigma / 255 for sigma in config.noise_sigma)
        return lambda image, generator: gaussian_noise(image, uniform(low, high, generator), generator)
    if config.task == "jpeg":
        first, last = config.jpeg_quality
        return lambda image, generator: jpeg(image, round(uniform(first, last, generator)))
    raise ValueError(
        f"no built-in distortion for the task {config.task!r}: use sr, denoise or jpeg, "
        "or name your own function with --distortion module:function"
    )


def make_adversary(config: Config) -> Adversary:
    """The distortion of a configuration, followed by the Wiener filter where it asks for one.

    Raises:
        ValueError: see :func:`make_distortion`.
    """
    distort = make_distortion(config)
    return lambda start, image, generator: wiener_restored(distort(start, generator), image, config.wiener)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def gaussian_noise(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Adds white Gaussian noise, without clipping.

    Args:
        image: any shape, floating point.
        sigma: standard deviation, in the image's units (25 / 255 for "sigma 25" on images in [0, 1]).
        generator: on the CPU, whatever the image's device, so that a seed means the same noise everywhere.
    """
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    return image + sigma * noise.to(image.device, image.dtype)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compresses with a real JPEG codec (Pillow's default 4:2:0 chroma) and decodes again.

    Args:
        image: (N, 3, H, W) in [0, 1]; clipped and rounded to 8 bits first.
        quality: libjpeg's scale, 1 to 95.
    """
    from PIL import Image  # the codec; a machine without it can train for other tasks

    pixels = (image.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        decoded.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(image.device, image.dtype) / 255


def _imported(name: str) -> Distortion:
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"cannot import the distortion {name!r}: {error}; expected module:function, with the module in the "
            "current folder or installed"
        ) from error
    return _checked(function, name)


def _checked(function: Distortion, name: str) -> Distortion:
    def distort(image: Tensor, generator: torch.Generator) -> Tensor:
        result = function(image, generator)
        if not isinstance(result, Tensor) or result.shape != image.shape or not result.is_floating_point():
            got = f"{tuple(result.shape)} {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"{name} must return a floating point tensor of shape {tuple(image.shape)}, got {got}")
        if not math.isfinite(result.detach().sum().item()):
            raise ValueError(f"{name} returned values that are not finite")
        return result.detach().to(image.device, image.dtype)

    return distort
