"""Training images: where they come from, and the levels of their pyramids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from task_losses.pictures import decode_picture, picture_bytes
from task_losses.pyramid import level_size, resize
from training.config import Config

if TYPE_CHECKING:
    from PIL import Image

# Photographs that the scikit-image wheel holds, with the licence that scikit-image states. The last four are grey.
SKIMAGE_LICENCES = {
    "chelsea": "CC0 1.0, photograph by Stefan van der Walt",
    "coffee": "CC0 1.0, photograph by Rachel Michetti",
    "rocket": "CC0 1.0, photograph by SpaceX",
    "astronaut": "public domain, photograph by NASA",
    "brick": "CC0 1.0, photograph by CC0Textures",
    "grass": "CC0 1.0, photograph by CC0Textures",
    "gravel": "CC0 1.0, photograph by CC0Textures",
    "camera": "CC0 1.0, photograph by Lav Varshney",
}

_LABELLED = 160  # pixels that a labelled picture is wide at least, so that its label fits


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
    data = picture_bytes(path)
    shown = name if name.startswith("skimage:") else path.name
    return decode_picture(data, str(path)), Source(shown, licence or "not stated", hashlib.sha256(data).hexdigest())


def picture(image: Tensor) -> Image.Image:
    """(1, 3, H, W) in [0, 1] as an 8-bit picture."""
    from PIL import Image

    pixels = (image[0].detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def labelled(pictures: Mapping[str, Tensor]) -> Image.Image:
    """Pictures side by side, each under its label; small ones enlarged, with pixels to be seen.

    Args:
        pictures: label -> (1, 3, H, W) in [0, 1], all of one size.
    """
    from PIL import Image, ImageDraw

    height, width = next(iter(pictures.values())).shape[-2:]
    size, strip, gap = -(-_LABELLED // width), 14, 4
    whole = Image.new("RGB", (len(pictures) * (size * width + gap) - gap, strip + size * height), "white")
    for index, (label, image) in enumerate(pictures.items()):
        left = index * (size * width + gap)
        ImageDraw.Draw(whole).text((left, 1), label, fill="black")
        enlarged = picture(image).resize((size * width, size * height), Image.Resampling.NEAREST)
        whole.paste(enlarged, (left, strip))
    return whole


def pyramid(image: Tensor, scales: int, ratio: float, longest_side: int) -> list[Tensor]:
    """The levels of an image, coarsest first, and before them one coarser still: what scale 0 starts from.

    Returns:
        ``scales + 1`` tensors (1, 3, h, w) in [0, 1].
    """
    sizes = level_sizes((image.shape[-2], image.shape[-1]), scales, ratio, longest_side)
    return [resize_clipped(image, (max(1, height), max(1, width))) for height, width in sizes]


def level_sizes(size: tuple[int, int], scales: int, ratio: float, longest_side: int) -> list[tuple[int, int]]:
    """Height and width of what :func:`pyramid` makes of an image of a size; 0 where nothing would be left."""
    finest = level_size(size, min(1.0, longest_side / max(size)), 1)
    return [level_size(finest, ratio, down) for down in range(scales, -1, -1)]


def resize_clipped(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resampling; overshoot is cut off, as storing a picture does."""
    return resize(image, size).clamp(0, 1)


def starts_and_levels(image: Tensor, config: Config) -> list[tuple[Tensor, Tensor]]:
    """For each scale, coarsest first: what the distortion is applied to, and the true level.

    Args:
        image: (1, 3, H, W) in [0, 1].
    """
    below, *levels = pyramid(image, config.scales, config.ratio, config.longest_side)
    return [(start_of(scale, below, levels, config), level) for scale, level in enumerate(levels)]


def start_of(scale: int, below: Tensor, levels: Sequence[Tensor], config: Config) -> Tensor:
    """What the distortion of a scale is applied to, the size of its level: the level, or the upscaled one below it.

    Without a generator, whose output would be upscaled in the place of the true coarser level.

    Args:
        below: one level coarser than the coarsest of ``levels``.
    """
    level = levels[scale]
    if not config.upscale:
        return level
    return resize_clipped(levels[scale - 1] if scale > 0 else below, (level.shape[2], level.shape[3]))
