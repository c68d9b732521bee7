"""Training images: where they come from, and the levels of their pyramids."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from task_losses.pictures import decode_picture, read_file
from task_losses.pyramid import level_size, resize
from training.config import Config

if TYPE_CHECKING:
    from PIL import Image

# Photographs that the scikit-image wheel holds, with the licence that scikit-image states.
SKIMAGE_LICENCES = {
    "chelsea": "CC0 1.0, photograph by Stefan van der Walt",
    "coffee": "CC0 1.0, photograph by Rachel Michetti",
    "rocket": "CC0 1.0, photograph by SpaceX",
    "astronaut": "public domain, photograph by NASA",
}


@dataclass(frozen=True)
class Source:
    """Provenance of an image: it travels inside the weights that are trained on it."""

    name: str
    licence: str
    sha256: str


def open_image(name: str, licence: str = "") -> tuple[Tensor, Source]:
    """Reads an image.

    Args:
        name: a file, read as :mod:`task_losses.pictures` says; or ``skimage:NAME`` for one of the photographs that
            scikit-image ships.
        licence: of a file; those of scikit-image are known.

    Returns:
        (1, 3, H, W) float32 in [0, 1], and its source.

    Raises:
        ValueError: there is no such image, it cannot be read, or its reader needs Pillow, which is not installed.
        ImportError: scikit-image is needed, and not installed.
    """
    path = Path(name)
    if name.startswith("skimage:"):
        short = name.removeprefix("skimage:")
        if short not in SKIMAGE_LICENCES:
            raise ValueError(f"no such photograph: {name}; there are {', '.join(SKIMAGE_LICENCES)}, or name a file")
        import skimage.data

        folder = Path(skimage.data.__file__).parent
        path = next(file for file in folder.glob(f"{short}.*") if file.suffix in (".png", ".jpg"))
        licence = SKIMAGE_LICENCES[short]
    data = read_file(path)
    shown = name if name.startswith("skimage:") else path.name
    return decode_picture(data, str(path)), Source(shown, licence or "not stated", hashlib.sha256(data).hexdigest())


def picture(image: Tensor) -> Image.Image:
    """(1, 3, H, W) in [0, 1] as an 8-bit picture."""
    from PIL import Image

    pixels = (image[0].detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def pyramid(image: Tensor, scales: int, ratio: float, longest_side: int) -> list[Tensor]:
    """The levels of an image, coarsest first, and before them one coarser still: what scale 0 starts from.

    Returns:
        ``scales + 1`` tensors (1, 3, h, w) in [0, 1].
    """
    shrink = min(1.0, longest_side / max(image.shape[-2:]))
    finest = level_size((image.shape[-2], image.shape[-1]), shrink, 1)
    sizes = [level_size(finest, ratio, down) for down in range(scales, -1, -1)]
    return [resize_clipped(image, (max(1, height), max(1, width))) for height, width in sizes]


def resize_clipped(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resampling; overshoot is cut off, as storing a picture does."""
    return resize(image, size).clamp(0, 1)


def starts_and_levels(image: Tensor, config: Config) -> list[tuple[Tensor, Tensor]]:
    """For each scale, coarsest first: what the distortion is applied to, and the true level.

    Without a generator, whose output would be upscaled in the place of the true coarser level.

    Args:
        image: (1, 3, H, W) in [0, 1].
    """
    coarser, *levels = pyramid(image, config.scales, config.ratio, config.longest_side)
    if not config.upscale:
        return [(level, level) for level in levels]
    below = [coarser, *levels[:-1]]
    return [(resize_clipped(x, (y.shape[2], y.shape[3])), y) for x, y in zip(below, levels, strict=True)]
