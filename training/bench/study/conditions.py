"""The conditions of a study, and the flags of the commands that make or read one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from training.bench.study.data import LEVELS
from training.bench.study.metrics import METRICS
from training.bench.study.restoration import QUICK, Recipe

MAIN_METRICS = ("psnr", "ssim", "stlpips", "cvvdp", "flip")
FIRST_LEVELS = {"sr": (4,), "denoise": (25,), "jpeg": (10,)}


@dataclass(frozen=True)
class Conditions:
    """Which results belong together: made by one recipe, measured in one way.

    Attributes:
        crop: side in pixels of the central crops that were tested; 0 for whole images.
        levels: task -> test levels; scores are their mean.
    """

    recipe: Recipe
    metrics: Sequence[str] = MAIN_METRICS
    crop: int = 256
    levels: Mapping[str, Sequence[int]] = field(default_factory=lambda: dict(FIRST_LEVELS))


def add_condition_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--metrics", nargs="+", choices=list(METRICS), default=list(MAIN_METRICS))
    add("--all-levels", action="store_true", help=f"test at {LEVELS} instead of {FIRST_LEVELS}")
    add("--crop", type=int, help="test on central crops of this side; 0 for whole images [256; --quick: 128]")
    add("--quick", action="store_true", help="minutes: a tiny network, few steps, few small test images")
    for entry in fields(Recipe):
        text = f"{entry.metadata['help']} [{entry.default}]"
        add("--" + entry.name.replace("_", "-"), type=type(entry.default), help=text.replace("%", "%%"))


def conditions_of(options: argparse.Namespace) -> Conditions:
    """The conditions that the flags of :func:`add_condition_flags` name."""
    recipe = QUICK if options.quick else Recipe()
    recipe = replace(recipe, **{f.name: v for f in fields(Recipe) if (v := getattr(options, f.name)) is not None})
    crop = options.crop if options.crop is not None else 128 if options.quick else 256
    return Conditions(recipe, options.metrics, crop, LEVELS if options.all_levels else FIRST_LEVELS)
