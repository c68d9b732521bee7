"""Photographs that a loss's critics never saw: to try its critics on, and to train and test small networks with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor

from task_losses.pictures import pictures_in
from training.bench.study.data import Picture
from training.bench.study.restorers import SR_FACTOR
from training.config import Config
from training.distortions import make_distortion
from training.images import open_image, resize_clipped
from training.material import check_size

LONGEST = 640  # pixels; larger photographs are reduced
# Of scikit-image, those with colours and those with texture in either half.
DEFAULT = ("chelsea", "coffee", "brick", "grass", "rocket", "astronaut", "gravel", "camera")
TILE, TILES = 256, 8  # squares of which the critics are asked about, so many of all photographs together
CROP, CROPS = 128, 16  # on which networks are tested
MOST = 12  # photographs that are used
# Of every training photograph, each with a strength and an order of colours of its own: few photographs alone would
# teach a network their colours.
VARIANTS = tuple(permutations(range(3)))
LEVELS = 3  # strengths of every test photograph


@dataclass(frozen=True)
class Photographs:
    """Attributes: those that networks are trained on, and those that neither networks nor critics saw."""

    training: list[Picture]
    unseen: list[Picture]

    @cached_property
    def key(self) -> list[str]:
        return [picture.key for picture in (*self.training, *self.unseen)]

    @property
    def tiles(self) -> list[Picture]:
        """Squares of the unseen ones."""
        most = max(1, TILES // len(self.unseen))
        return [tile for picture in self.unseen for tile in _spread([*_tiles(picture, TILE)], most)]


def open_photographs(folder: Path | None, trained_on: str | None, config: Config) -> Photographs:
    """Opens and shares out photographs: what the critics saw goes to training.

    Args:
        folder: of pictures; None for those of scikit-image.
        trained_on: sha256 of the picture that the critics saw.

    Raises:
        ValueError: there are too few or too small ones.
        ImportError: see :func:`training.images.open_image`.
    """
    names = [f"skimage:{name}" for name in DEFAULT] if folder is None else map(str, pictures_in(folder))
    seen: list[Picture] = []
    others: list[Picture] = []
    for name in list(names)[:MOST]:
        image, source = open_image(name)
        picture = Picture(source.name.removeprefix("skimage:"), _reduced(image, max(LONGEST, config.longest_side)))
        (seen if source.sha256 == trained_on else others).append(picture)
    count = max(1, (len(seen) + len(others)) // 2)
    count = max(count, len(seen))
    training, unseen = (seen + others)[:count], (seen + others)[count:]
    if not training or not unseen:
        raise ValueError(
            f"{len(others)} photographs that the critics did not see, and {len(seen)} that they saw: the judge needs "
            "one of its own at least, and another; name a folder of several with --images"
        )
    result = Photographs(training, unseen)
    for tile in result.tiles:
        try:
            check_size(tile.image, tile.name, config)
        except ValueError as error:
            raise ValueError(f"these critics cannot be asked about a photograph this small: {error}") from error
    return result


def _reduced(image: Tensor, longest: int) -> Tensor:
    height, width = image.shape[-2:]
    if max(height, width) <= longest:
        return image
    return resize_clipped(
        image, (round(height * longest / max(height, width)), round(width * longest / max(height, width)))
    )


def _tiles(picture: Picture, side: int) -> Iterator[Picture]:
    """As many squares as a picture holds, centred; a smaller picture is one tile, cut to a square."""
    height, width = picture.image.shape[-2:]
    side = min(side, height, width)
    top, left = height % side // 2, width % side // 2
    for y in range(top, height - side + 1, side):
        for x in range(left, width - side + 1, side):
            yield Picture(f"{picture.name} {y} {x}", picture.image[..., y : y + side, x : x + side])


def _spread(tiles: Sequence[Picture], most: int) -> list[Picture]:
    """So many at most, from all over the picture."""
    count = min(most, len(tiles))
    return [tiles[round(i * (len(tiles) - 1) / max(1, count - 1))] for i in range(count)]


def training_pairs(photographs: Sequence[Picture], config: Config) -> list[Picture]:
    """Variants of the photographs: degraded and reference in six channels, which patches are cut from."""
    draws = torch.Generator().manual_seed(config.seed)
    pairs = []
    for picture in photographs:
        for order in VARIANTS:
            reference = picture.image[:, list(order)]
            pairs.append(Picture(picture.name, torch.cat([degraded(reference, config, draws), reference], dim=1)))
    return pairs


def crops_to_restore(photographs: Sequence[Picture], config: Config) -> dict[str, tuple[Tensor, Tensor]]:
    """Crops by name: degraded, with the strengths of :data:`LEVELS` draws in turn, and reference."""
    draws = torch.Generator().manual_seed(config.seed + 1)
    most = max(1, CROPS // len(photographs))
    pairs = {}
    for picture in photographs:
        variants = [torch.cat([degraded(picture.image, config, draws), picture.image], dim=1) for _ in range(LEVELS)]
        cut = [_spread([*_tiles(Picture(picture.name, variant), CROP)], most) for variant in variants]
        for number in range(len(cut[0])):
            tile = cut[number % LEVELS][number]
            first, second = tile.image.chunk(2, dim=1)
            pairs[tile.name] = (first, second)
    return pairs


def degraded(image: Tensor, config: Config, draws: torch.Generator) -> Tensor:
    """What a network has to restore: (1, 3, H, W), distorted, and reduced by 4 before where the loss is for that."""
    if config.upscale:
        height, width = image.shape[-2:]
        small = resize_clipped(image, (height // SR_FACTOR, width // SR_FACTOR))
        image = resize_clipped((small * 255).round() / 255, (height, width))
    return make_distortion(config)(image, draws)
