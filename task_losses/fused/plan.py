"""Where everything is in the memory of the fused path: tables made once for the sizes of a pyramid.

All levels of an image lie one after the other, as if each were a row of its pixels, and a layer's map keeps the place
of its pixels although it is smaller than its level: its pixel (y, x) is that which its convolution begins at. So one
table serves all layers, and it depends on no number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from task_losses.constants import BySize
from task_losses.fused.configs import MOST_LEVELS, Tiles
from task_losses.fused.launch import cdiv
from task_losses.pyramid import _cubic
from task_losses.terms import BLOCK

Size = tuple[int, int]  # height and width

SIDE = 16  # of a tile of the resampling, square
# Rows of the table of levels, each of MOST_LEVELS numbers. The first ones of a kind are those of tiles and pixels.
HEIGHT, WIDTH, PIXEL, TILE, ACROSS, RESIZED, RESIZED_ACROSS, ROW, COLUMN, IMAGE = range(10)
WINDOW, WINDOW_TILE, WINDOW_ACROSS, TEXTURED = range(10, 14)
_BEYOND = 2**31 - 1  # the first tile of a level that is not there


@dataclass(frozen=True)
class Plan:
    """The tables of some levels, on their device.

    Attributes:
        levels: (14, MOST_LEVELS) int32, see above: height, width, first pixel in an image's maps, first tile and tiles
            across for layers, the same for resampling, first row of ``rows`` and of ``columns``, whether the level
            compares the image itself; the first window in an image's maps, first tile and tiles across of windows,
            and whether the level compares texture.
        rows, columns: (4, their number): for each pixel of each level along an axis the pixel of the image where its
            centre is, how far beyond (0 to 1), one over the filter's stretch, and one over the sum of its weights.
        pixels, windows: of all levels of one image. A level that compares texture has a place for a window at each
            block.
        tiles, resized_tiles, window_tiles: of all levels.
        size: of the image.
    """

    levels: Tensor
    rows: Tensor
    columns: Tensor
    count: int
    pixels: int
    windows: int
    tiles: int
    resized_tiles: int
    window_tiles: int
    size: Size

    @property
    def nbytes(self) -> int:
        return self.levels.nbytes + self.rows.nbytes + self.columns.nbytes


_plans = BySize()  # tables of 8 KB for 96 x 96, 0.2 MB for 2048 x 2048, and factors


def plan(
    sizes: Sequence[Size],
    with_image: Sequence[bool],
    with_texture: Sequence[bool],
    size: Size,
    tiles: Tiles,
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    """The plan for levels of some sizes, made once.

    Args:
        with_image, with_texture: whether each level compares the image itself, and texture.
        size: of the image.
        dtype: of the maps, and so of the resampling's weights.
    """
    key = (*sizes, *with_image, *with_texture, size, tiles, dtype, device)
    return _plans.get(key, lambda: _make(sizes, with_image, with_texture, size, tiles, dtype, device))


def _make(
    sizes: Sequence[Size],
    with_image: Sequence[bool],
    with_texture: Sequence[bool],
    size: Size,
    tiles: Tiles,
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    heights, widths = zip(*sizes, strict=True)
    across = [cdiv(width, tiles.width) for width in widths]
    counts = [cdiv(height, tiles.height) * n for height, n in zip(heights, across, strict=True)]
    resized_across = [cdiv(width, SIDE) for width in widths]
    resized = [cdiv(height, SIDE) * n for height, n in zip(heights, resized_across, strict=True)]
    pixels = [height * width for height, width in sizes]
    blocks = [
        (h // BLOCK, w // BLOCK) if textured else (0, 0) for (h, w), textured in zip(sizes, with_texture, strict=True)
    ]
    windows = [down * right for down, right in blocks]
    high, wide = window_tile(tiles)
    windows_across = [cdiv(right, wide) for _, right in blocks]
    window_tiles = [cdiv(down, high) * n for (down, _), n in zip(blocks, windows_across, strict=True)]
    table = torch.full((14, MOST_LEVELS), _BEYOND, dtype=torch.int32, device="cpu")
    numbers = (
        heights, widths, _starts(pixels), _starts(counts), across, _starts(resized), resized_across,
        _starts(heights), _starts(widths), with_image,
        _starts(windows), _starts(window_tiles), windows_across, with_texture,
    )  # fmt: skip
    table[:, : len(sizes)] = torch.tensor([[int(value) for value in row] for row in numbers], device="cpu")
    rows, columns = (
        torch.cat([_filters(length, new) for new in lengths], dim=1).to(device, dtype)
        for length, lengths in zip(size, (heights, widths), strict=True)
    )
    return Plan(
        table.to(device), rows, columns, len(sizes), sum(pixels), sum(windows), sum(counts), sum(resized),
        sum(window_tiles), size,
    )  # fmt: skip


def window_tile(tiles: Tiles) -> Size:
    """Windows of a program, down and across: a quarter of a layer's pixels, as each is a sum over many."""
    return max(1, tiles.height // 2), max(1, tiles.width // 2)


def number(value: float, like: Tensor) -> Tensor:
    """A factor where kernels read it: one that changes, as a dial does, compiles nothing anew."""
    key = (value, like.dtype, like.device)
    return _plans.get(key, lambda: torch.tensor([value], dtype=torch.float64).to(like.device, like.dtype))


def _starts(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)][:-1]


def _filters(length: int, new_length: int) -> Tensor:
    """(4, new_length) float64: see ``Plan.rows``. The weights are those of :func:`task_losses.pyramid.resize`."""
    scale = length / new_length
    stretch = max(scale, 1.0)
    centre = (torch.arange(new_length, dtype=torch.float64, device="cpu") + 0.5) * scale - 0.5
    pixel = centre.floor()
    reach = int(2 * stretch) + 2
    neighbours = pixel[:, None] + torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
    weights = _cubic((neighbours - centre[:, None]) / stretch)
    total = torch.where((neighbours >= 0) & (neighbours < length), weights, 0.0).sum(dim=1)
    return torch.stack([pixel, centre - pixel, torch.full_like(centre, 1 / stretch), 1 / total])
