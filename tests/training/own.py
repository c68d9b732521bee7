"""A small run with a distortion of one's own, as several files of tests need it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from training import train

SMALL = ["--scales", "2", "--longest-side", "32", "--channels", "4", "--steps", "4", "--checkpoint-every", "2"]
HEAD = "import torch\n"
NOISE = "def f(image, generator): return image + 0.1 * torch.randn(image.shape, generator=generator)\n"
_names = itertools.count()  # a module that was imported once is not read again


def write_module(folder: Path, source: str) -> str:
    """A new module in the current folder; its name."""
    name = f"own_distortion_{next(_names)}"
    (folder / f"{name}.py").write_text(HEAD + source)
    return name


def write_image(path: Path, height: int = 32, width: int = 40, seed: int = 0) -> Path:
    """Smooth shapes, so that levels are alike, and some detail."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(30, 220, (-(-height // 8), -(-width // 8), 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    np.save(path, (coarse + draws.integers(-20, 20, coarse.shape)).astype(np.uint8))
    return path


def own_run(folder: Path, source: str = NOISE, *flags: str) -> int:
    """Trains in ``folder / "run"`` on ``folder / "photo.npy"``; the folder must be the current one."""
    if not (folder / "photo.npy").exists():
        write_image(folder / "photo.npy")
    name = f"{write_module(folder, source)}:f"
    given = ["--task", "own", "--distortion", name, "--image", "photo.npy", "--out", str(folder / "run")]
    return train.main([*given, *SMALL, *flags])
