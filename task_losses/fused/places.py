"""What a program asks first: which level its tile is in, and which pixels are its own."""

from __future__ import annotations

from task_losses.fused import configs, plan
from task_losses.fused.optional import constexpr, jit, tl

LEVELS = constexpr(configs.MOST_LEVELS)
HEIGHT, WIDTH, PIXEL = constexpr(plan.HEIGHT), constexpr(plan.WIDTH), constexpr(plan.PIXEL)
TILE, RESIZED = constexpr(plan.TILE), constexpr(plan.RESIZED)
ROW, COLUMN, IMAGE = constexpr(plan.ROW), constexpr(plan.COLUMN), constexpr(plan.IMAGE)
WINDOW, WINDOW_TILE, TEXTURED = constexpr(plan.WINDOW), constexpr(plan.WINDOW_TILE), constexpr(plan.TEXTURED)


@jit
def of_level(levels_ptr, level, WHAT: tl.constexpr):
    """A number of the table of levels."""
    return tl.load(levels_ptr + WHAT * LEVELS + level)


@jit
def find_tile(levels_ptr, FIRST: tl.constexpr):
    """The level of this program's tile, and the tiles above it and left of it.

    Args:
        FIRST: the row of the levels' first tiles; the next row says how many are across.
    """
    tile = tl.program_id(0)
    starts = tl.load(levels_ptr + FIRST * LEVELS + tl.arange(0, LEVELS))
    level = tl.sum((starts <= tile).to(tl.int32), 0) - 1
    tile -= of_level(levels_ptr, level, FIRST)
    across = of_level(levels_ptr, level, FIRST + 1)
    return level, tile // across, tile % across


@jit
def find_pixels(levels_ptr, BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Of a layer's program: its level, that level's height, width and first pixel, and rows and columns of its own."""
    level, down, right = find_tile(levels_ptr, TILE)
    pixel = tl.arange(0, BLOCK_HEIGHT * BLOCK_WIDTH)
    y = down * BLOCK_HEIGHT + pixel // BLOCK_WIDTH
    x = right * BLOCK_WIDTH + pixel % BLOCK_WIDTH
    height, width = of_level(levels_ptr, level, HEIGHT), of_level(levels_ptr, level, WIDTH)
    return level, height, width, of_level(levels_ptr, level, PIXEL), y, x
