"""The distortions that a loss can be specialised on.

A distortion turns an image into what a restoration network of its task would be given. In training it runs at every
scale of the pyramid, with a strength drawn anew each time, so that one loss serves the whole range.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from training.builtin import BUILTIN
from training.command import run_command
from training.config import Config, is_command
from training.wiener import wiener_restored

# (1, 3, H, W) in [0, 1], and the source of randomness -> the distorted image, same shape.
Distortion = Callable[[Tensor, torch.Generator], Tensor]
# What it is applied to, the image to restore from that, the source of randomness -> what the critic meets.
Adversary = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def make_distortion(config: Config) -> Distortion:
    """The distortion that a configuration names: its task's, or the user's own; of several one is drawn each time.

    Raises:
        ValueError: the user's ``module:function`` cannot be imported, or a built-in one lacks something here.
    """
    parts = [_part(name, config) for name in config.distortions]
    if len(parts) == 1:
        return parts[0]
    weights = torch.tensor(config.distortion_weights or [1.0] * len(parts), dtype=torch.float64)

    def distort(image: Tensor, generator: torch.Generator) -> Tensor:
        return parts[int(torch.multinomial(weights, 1, generator=generator))](image, generator)

    return distort


def _part(name: str, config: Config) -> Distortion:
    if is_command(name):
        return lambda image, generator: run_command(name, image, generator, config.command_seconds)
    if name not in BUILTIN:
        return _imported(name)
    builtin = BUILTIN[name]
    if lacking := builtin.lacking():
        raise ValueError(f"the distortion {name} needs {lacking}")
    ranges = [(strength, getattr(config, strength.setting)) for strength in builtin.strengths]

    def distort(image: Tensor, generator: torch.Generator) -> Tensor:
        drawn = [strength.draw(low, high, generator) for strength, (low, high) in ranges]
        return builtin.apply(image, *drawn, generator=generator)

    return distort


def make_adversary(config: Config) -> Adversary:
    """The distortion of a configuration, followed by the Wiener filter where it asks for one.

    Raises:
        ValueError: see :func:`make_distortion`.
    """
    distort = make_distortion(config)
    return lambda start, image, generator: wiener_restored(distort(start, generator), image, config.wiener)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


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
