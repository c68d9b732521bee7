"""What the recipes need and a bare machine lacks: photographs as plain numbers, and what the codec makes of them.

``python -m training.bench.device --prepare FOLDER`` writes both where scikit-image and Pillow are; with ``--prepared
FOLDER`` the same trainings then need torch and numpy alone.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.config import Config
from training.distortions import uniform
from training.images import open_image, pyramid

TRAINING, OTHER, CODEC = "trained-on.npy", "other.npy", "codec.npz"
LICENCE = "licence.txt"
UNSEEN = "skimage:astronaut"  # a photograph that no critic has seen
_FOLDER = "TASK_LOSSES_PREPARED"


def prepare(folder: Path) -> None:
    """Writes the photographs, and every level of the jpeg recipe's pyramid at every quality: the codec has no others.

    Args:
        folder: is made; about 7 MB.
    """
    from training.builtin.codecs import jpeg

    folder.mkdir(parents=True, exist_ok=True)
    config = Config()
    image, source = open_image(config.image)
    np.save(folder / TRAINING, _pixels(image))
    np.save(folder / OTHER, _pixels(unseen(None)))
    (folder / LICENCE).write_text(f"{source.name}: {source.licence}\n", encoding="utf-8")
    first, last = config.jpeg_quality
    levels = pyramid(image, config.scales, config.ratio, config.longest_side)[1:]
    compressed: dict[str, Any] = {
        _key(level): np.stack([_pixels(jpeg(level, q)) for q in range(first, last + 1)]) for level in levels
    }
    np.savez_compressed(folder / CODEC, **compressed)


def unseen(folder: Path | None) -> Tensor:
    """A part of a photograph to judge losses on, (1, 3, 128, 128) in [0, 1]; from a prepared folder or scikit-image.

    Raises:
        ValueError, ImportError: it is in neither.
    """
    image, _ = open_image(UNSEEN if folder is None else str(folder / OTHER))
    return image[..., :128, :128]


def flags(folder: Path, task: str) -> list[str]:
    """Of ``training.train``, to train a task's recipe from a prepared folder."""
    os.environ[_FOLDER] = str(folder)
    licence = (folder / LICENCE).read_text(encoding="utf-8").strip()
    image = ["--image", str(folder / TRAINING), "--image-licence", licence]
    return [*image, *(["--distortion", f"{__name__}:codec"] if task == "jpeg" else [])]


def codec(image: Tensor, generator: torch.Generator) -> Tensor:
    """What :func:`training.builtin.codecs.jpeg` makes of a level, at a quality that is drawn as the task draws it.

    Raises:
        KeyError: the image is no level of the recipe's pyramid.
    """
    first, last = Config().jpeg_quality
    pixels = _compressed(os.environ[_FOLDER])[_key(image)][round(uniform(first, last, generator)) - first]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(image.device, image.dtype) / 255


@cache
def _compressed(folder: str) -> dict[str, np.ndarray]:
    with np.load(Path(folder) / CODEC) as content:
        return dict(content)


def _key(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[3]}"


def _pixels(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] as (H, W, 3) of 8 bits."""
    return (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
