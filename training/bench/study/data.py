"""Images of the benchmark: patches for training, in an order that only the seed decides, and test pairs."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from task_losses.pictures import pictures_in, read_picture
from task_losses.pyramid import resize
from training.bench.study.restorers import SR_FACTOR
from training.builtin.codecs import jpeg
from training.builtin.noise import gaussian_noise
from training.distortions import uniform

TRAIN_SIGMA = (5.0, 50.0)  # grey levels of 255
TRAIN_QUALITY = (5, 40)
# Test conditions: nothing to choose for super-resolution, sigma in grey levels, the codec's quality.
LEVELS: dict[str, tuple[int, ...]] = {"sr": (SR_FACTOR,), "denoise": (15, 25, 50), "jpeg": (10, 20, 40)}
TASKS = tuple(LEVELS)


@dataclass(frozen=True)
class Picture:
    """A named image, (1, 3, H, W) in [0, 1]."""

    name: str
    image: Tensor

    @cached_property
    def key(self) -> str:
        """Name and a hash of the pixels: under it results are kept, so that a changed image is measured anew."""
        pixels = (self.image * 255).round().to(torch.uint8).contiguous().numpy()
        return f"{self.name} {hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:12]}"


def read_folders(folders: Sequence[Path], limit: int | None = None) -> list[Picture]:
    """All images of some folders, sorted by name within each; ``limit`` keeps the first so many of each folder.

    Raises:
        ValueError: a folder is missing or holds no image.
    """
    pictures = []
    for folder in folders:
        files = pictures_in(folder)[:limit]
        pictures += [Picture(f"{folder.name}/{file.stem}", read_picture(file)) for file in files]
    return pictures


def training_batches(
    task: str, pictures: Sequence[Picture], *, patch: int, batch: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (degraded, reference) of patches: equal arguments give equal patches in equal order.

    Yields:
        (batch, 3, h, w) and (batch, 3, patch, patch); h is patch / 4 for super-resolution, patch otherwise.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        references = random_patches(pictures, patch, batch, generator)
        yield _degrade_for_training(task, references, generator), references


def test_pair(task: str, picture: Picture, *, crop: int, level: int) -> tuple[Tensor, Tensor]:
    """A test image under one condition, with noise of its own that never changes.

    Args:
        crop: side of the central crop; 0 for the whole image. Sides are cut to multiples of 4.
        level: one of ``LEVELS[task]``.

    Returns:
        degraded (1, 3, h, w) and reference (1, 3, H, W).
    """
    full_height, full_width = picture.image.shape[-2:]
    height, width = (side // SR_FACTOR * SR_FACTOR for side in (full_height, full_width))
    if crop:
        height, width = min(height, crop), min(width, crop)
    top, left = (full_height - height) // 2, (full_width - width) // 2
    reference = picture.image[..., top : top + height, left : left + width]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{picture.name} {level}".encode()))
    return degrade(task, reference, level, generator), reference


def degrade(task: str, image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """What a restoration network of the task is given: (N, 3, H, W) in [0, 1], smaller by 4 for ``"sr"``."""
    if task == "sr":
        small = resize(image, (image.shape[-2] // SR_FACTOR, image.shape[-1] // SR_FACTOR))
        return (small.clamp(0, 1) * 255).round() / 255  # a stored picture has 8 bits
    if task == "denoise":
        return gaussian_noise(image, level / 255, generator)
    if task == "jpeg":
        return jpeg(image, round(level))
    raise ValueError(f"no such task: {task!r}; expected one of {', '.join(TASKS)}")


def _degrade_for_training(task: str, images: Tensor, generator: torch.Generator) -> Tensor:
    low, high = {"sr": (SR_FACTOR, SR_FACTOR), "denoise": TRAIN_SIGMA, "jpeg": TRAIN_QUALITY}[task]
    return torch.cat([degrade(task, image[None], uniform(low, high, generator), generator) for image in images])


def random_patches(pictures: Sequence[Picture], size: int, count: int, generator: torch.Generator) -> Tensor:
    """Random crops, randomly flipped and transposed: (count, channels, size, size)."""
    return torch.cat([_random_patch(pictures, size, generator) for _ in range(count)])


def _random_patch(pictures: Sequence[Picture], size: int, generator: torch.Generator) -> Tensor:
    image = pictures[_integer(len(pictures), generator)].image
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"training images must have sides of at least the patch size {size}, got {height} x {width}")
    top, left = _integer(height - size + 1, generator), _integer(width - size + 1, generator)
    patch = image[..., top : top + size, left : left + size]
    flip, mirror, transpose = (_integer(2, generator) for _ in range(3))
    patch = patch.flip(-2) if flip else patch
    patch = patch.flip(-1) if mirror else patch
    return patch.transpose(-2, -1) if transpose else patch


def _integer(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=generator))
