"""The recipes of the losses: what each changes of the defaults in :mod:`training.config`.

The defaults serve a distortion of one's own. ``train``, ``release`` and the export read
recipes from here; a released weight's file holds all settings that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of each built-in task: what made its released weights.
RECIPES: dict[str, dict[str, Any]] = {
    "sr": {
        "taps": (1, 4),
        "distance": "absolute",
        "image_share": 0.5,  # without effect, as 0 is not among the taps; it stands in the file
        "texture_skips": 1,  # at the finest scale networks gain strength by dots
        "texture_pull": 0.4,
        "periods": (3, 8),  # of networks that upscale by 2, 3, 4 and 8
        "periodic_weight": 1.0,  # beside absolute differences, whose gradient is that much larger
        "upscale": True,
        "wiener": 0,
        "steps": 100,
        "objective": "wgan-gp",
        "spectral_norm": False,
    },
    "denoise": {
        "image_exponent": 1.5,  # squares of the image lose in ColorVideoVDP, absolute differences in ST-LPIPS
        "image_share": 0.9,
        "texture_skips": 1,
        "texture_pull": 2.4,
        "periodic_weight": 0.1,
    },
    "jpeg": {
        "image_share": 0.9,
        "texture_taps": (4,),  # layer 1 beside it loses in ColorVideoVDP
        "texture_skips": 1,
        "texture_pull": 1.2,
        "periodic_weight": 0.1,
    },
}

# The form of the paper, with SinGAN's settings where it states none; for every task.
PAPER: dict[str, Any] = {
    "longest_side": 250,
    "channels": (32, 32, 32, 32, 64, 64, 64, 64),
    "taps": (1, 4, 5),
    "texture_taps": (),
    "periods": (),
    "generator": True,
    "upscale": True,
    "wiener": 0,
    "steps": 2000,
    "critic_updates": 3,
    "generator_updates": 3,
    "objective": "wgan-gp",
    "spectral_norm": False,
    "shared_norm": False,
    "input_range": (-1.0, 1.0),
}

FORMS = ("recommended", "paper")


def settings(task: str, given: Mapping[str, Any], form: str = "recommended") -> dict[str, Any]:
    """Those that are given, and the recipe's for all others that it names.

    Args:
        given: settings of :class:`training.config.Config` by name.
        form: one of ``FORMS``; ``recommended`` is the released recipe of a built-in task.
    """
    chosen = {**(PAPER if form == "paper" else RECIPES.get(task, {})), **given}
    if given.get("objective") == "wgan-gp":  # which has no spectral norm: nobody should have to say so twice
        chosen.setdefault("spectral_norm", False)
    return chosen
