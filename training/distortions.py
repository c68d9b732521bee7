"""The distortions that a loss can be specialised on.

A distortion turns an image into what a restoration network of its task would be given. In training it runs at every
scale of the pyramid, with a strength drawn anew each time, so that one loss serves the whole range.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.config import Config
from training.wiener import wiener_restored

# (1, 3, H, W) in [0, 1], and the source of randomness -> the distorted image, same shape. A user's own may write into
# its argument, keep it and return it; see _checked.
Distortion = Callable[[Tensor, torch.Generator], Tensor]
# What it is applied to, the image to restore from that, the source of randomness -> what the critic meets.
Adversary = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def make_distortion(config: Config) -> Distortion:
    """The distortion that a configuration names: its task's, or the user's own.

    Raises:
        ValueError: the user's ``module:function`` cannot be imported, or is no function of an image and a generator.
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


@dataclass(frozen=True)
class OwnSource:
    """Where a distortion of the user's own comes from.

    Attributes:
        name: ``module:function``.
        sha256: of the file of the module, and of the one that the function is defined in; not of what these import.
            None where there is no such file, as for a compiled module.
    """

    name: str
    sha256: str | None


def own_source(name: str) -> OwnSource:
    """The source of the distortion ``module:function``, as it is on the disk now.

    Raises:
        ValueError: it cannot be imported.
    """
    module, function = _found(name)
    files = dict.fromkeys(file for thing in (module, function) if (file := _file_of(thing)) is not None)
    if not files:
        return OwnSource(name, None)
    return OwnSource(name, hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest())


def _file_of(thing: Any) -> Path | None:
    try:
        file = inspect.getsourcefile(inspect.unwrap(thing))
    except TypeError:  # neither module nor function, or written in C
        return None
    return Path(file) if file is not None and Path(file).is_file() else None


def _found(name: str) -> tuple[ModuleType, Any]:
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
        return module, getattr(module, function_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything, or end as a script does
        raise ValueError(
            f"cannot import the distortion {name!r}: {_in_a_line(error)}; expected module:function, with the module "
            "in the current folder or installed"
        ) from error


def _imported(name: str) -> Distortion:
    _, function = _found(name)
    expected = f"{name} must be a function of an image and a torch.Generator, def f(image, generator)"
    if not callable(function):
        raise ValueError(f"{expected}; it is of type {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # written in C, it may not tell
        return _checked(function, name)
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ValueError(f"{expected}; it takes {signature}") from error
    return _checked(function, name)


def _checked(function: Distortion, name: str) -> Distortion:
    """The function, on a copy that it may write to and keep; of what it returns and may change later, a copy too."""

    def distort(image: Tensor, generator: torch.Generator) -> Tensor:
        try:
            result = function(image.clone(), generator)
        except Exception as error:
            raise ValueError(f"{name} failed: {_in_a_line(error)}") from error
        if not isinstance(result, Tensor) or result.shape != image.shape or not result.is_floating_point():
            got = f"{tuple(result.shape)} {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"{name} must return a floating point tensor of shape {tuple(image.shape)}, got {got}")
        result = result.detach().to(image.device, image.dtype, copy=True).contiguous()
        if not result.isfinite().all():
            raise ValueError(f"{name} returned values that are not finite")
        return result

    return distort


def _in_a_line(error: BaseException) -> str:
    """What went wrong in a user's code, and where."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    not_theirs = (Path(__file__), Path(torch.__file__).parent, Path(importlib.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        x for x in frames if Path(x.filename).is_file() and not any(map(Path(x.filename).is_relative_to, not_theirs))
    ]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text
