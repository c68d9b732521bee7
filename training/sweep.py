"""Sweeps: several runs in one file, for ``python training/train.py --batch-runs``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from training.config import Config

# What the runs of a batch have in common.
TOGETHER = (
    "scales", "ratio", "longest_side", "channels", "steps", "critic_updates", "objective", "penalty_weight",
    "spectral_norm", "shared_norm", "device", "threads", "kernels",
)  # fmt: skip


def read_sweep(path: Path) -> dict[str, dict[str, Any]]:
    """The runs of a sweep file: a name for each, and the settings that are its own.

    Raises:
        ValueError: the file is not of that form.
    """
    form = 'expected JSON like {"seed-1": {"seed": 1}, "seed-2": {"seed": 2}}: names of folders, and settings'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8
        raise ValueError(f"{path}: {error}; {form}") from error
    if not isinstance(content, dict) or not content or not all(isinstance(own, dict) for own in content.values()):
        raise ValueError(f"{path}: {form}")
    known = {entry.name for entry in fields(Config)}
    sweep: dict[str, dict[str, Any]] = {}
    for name, own in content.items():
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name or not name.isprintable():
            raise ValueError(f"{path}: {name!r} cannot be the name of a folder")
        settings = {key.replace("-", "_"): tuple(v) if isinstance(v, list) else v for key, v in own.items()}
        if unknown := settings.keys() - known:
            raise ValueError(f"{path}: {name} has settings that do not exist: {', '.join(sorted(unknown))}")
        sweep[name] = settings
    return sweep


def check_alike(configs: Mapping[str, Config]) -> None:
    """That the steps of named runs can share launches.

    Raises:
        ValueError: they differ in shape.
    """
    (first, reference), *others = configs.items()
    for name, config in others:
        for setting in TOGETHER:
            if getattr(config, setting) != getattr(reference, setting):
                raise ValueError(
                    f"runs in one batch must share {', '.join(TOGETHER)}; {setting} is {getattr(reference, setting)} "
                    f"in {first} and {getattr(config, setting)} in {name}: train them apart"
                )


def check_sizes(levels: Mapping[str, Sequence[Tensor]]) -> None:
    """As :func:`check_alike`, of the levels that the named runs learn from."""
    sizes = {name: [tuple(level.shape[2:]) for level in of_run] for name, of_run in levels.items()}
    first = next(iter(sizes))
    for name in sizes:
        if sizes[name] != sizes[first]:
            raise ValueError(
                f"runs in one batch must share sizes; the finest level is {sizes[first][-1]} in {first} and "
                f"{sizes[name][-1]} in {name}: crop the images to one shape, or train them apart"
            )
