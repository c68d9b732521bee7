"""The distortions that a loss can be specialised on.

A distortion turns an image into what a restoration network of its task would be given. In training it runs at every
scale of the pyramid, with a strength drawn anew each time, so that one loss serves the whole range.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from training.builtin import BUILTIN
from training.command import run_command
from training.config import Config, is_command
from training.wiener import wiener_restored

# (1, 3, H, W) in [0, 1], and the source of randomness -> the distorted image, same shape. A user's own may write into
# its argument, keep it and return it; see _checked.
Distortion = Callable[[Tensor, torch.Generator], Tensor]
# What it is applied to, the image to restore from that, the source of randomness -> what the critic meets.
Adversary = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def make_distortion(config: Config) -> Distortion:
    """The distortion that a configuration names: its task's, or the user's own; of several one is drawn each time.

    Raises:
        ValueError: the user's ``module:function`` cannot be imported or is no function of an image and a generator, or
            a built-in one lacks something here.
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


@dataclass(frozen=True)
class OwnSource:
    """Where distortions of the user's own come from.

    Attributes:
        name: ``module:function``, of several with commas between.
        sha256: of the files of the modules, and of those that the functions are defined in; not of what these import.
            None where there is no such file, as for a compiled module.
    """

    name: str
    sha256: str | None


def own_source(config: Config) -> OwnSource | None:
    """The sources of a configuration's own functions, as they are on the disk now; None without any.

    Built-in ones are named by the code's commit, and commands stand in the settings.

    Raises:
        ValueError: one cannot be imported.
    """
    names = [name for name in config.distortions if name not in BUILTIN and not is_command(name)]
    if not names:
        return None
    things = [thing for name in names for thing in _found(name)]
    files = dict.fromkeys(file for thing in things if (file := _file_of(thing)) is not None)
    content = b"".join(file.read_bytes() for file in files)
    return OwnSource(", ".join(names), hashlib.sha256(content).hexdigest() if files else None)


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
