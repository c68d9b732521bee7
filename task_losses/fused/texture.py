"""The strength of texture in windows: compared in one launch, and what that adds to the gradient of a layer's map.

    kernel            reads                        writes
    strength_kernel   a map of both images         slopes of windows, shares of the distances
    begin_kernel      a map of both images         the gradient of the last tap, where that compares texture

A window's slope is what the distance gains by its strength, over that strength and its 64 pixels. A pixel gains, of
each of the four windows that hold it, the slope times what it is above the window's mean.
"""

from __future__ import annotations

from torch import Tensor

import task_losses.terms
from task_losses.fused.differences import derivative_of, size_of
from task_losses.fused.launch import launch_kernel
from task_losses.fused.optional import constexpr, jit, tl
from task_losses.fused.places import (
    HEIGHT,
    PIXEL,
    TEXTURED,
    WIDTH,
    WINDOW,
    WINDOW_TILE,
    find_pixels,
    find_tile,
    of_level,
)
from task_losses.fused.plan import number, window_tile
from task_losses.fused.shared import Form, Shares, constants, place_of

BLOCK_SIDE, WINDOW_SIDE = constexpr(task_losses.terms.BLOCK), constexpr(task_losses.terms.WINDOW)
LEAST_STRENGTH = constexpr(task_losses.terms.LEAST_STRENGTH)


def strengths(maps: Tensor, layer: int, form: Form, shares: Shares) -> Tensor:
    """Slopes of windows and their means, (N, 2, windows, C), from maps (2 N, pixels, C) of a layer."""
    plan, count = form.plan, len(maps) // 2
    out = maps.new_empty(count, 2, plan.windows, form.channels)
    high, wide = window_tile(form.tiles)
    known = constants(form, True) | {"BLOCK_HEIGHT": high, "BLOCK_WIDTH": wide}
    del known["TAP"], known["SLOPE"]
    launch_kernel(
        strength_kernel, (plan.window_tiles, count),
        maps, number(form.compared.texture_weight, maps), out, shares.sums, plan.levels,
        plan.pixels, plan.windows, 2 * layer, *place_of(shares),
        **known,
    )  # fmt: skip
    return out


def begin(maps: Tensor, slopes: Tensor, layer: int, form: Form, compared: bool) -> Tensor:
    """The gradient by the last tap's sum, before its LeakyReLU, (N, pixels, C).

    Args:
        maps: (2 N, pixels, C), of the layer.
        slopes: as :func:`strengths` makes them.
        compared: whether differences are compared too.
    """
    plan, count = form.plan, len(maps) // 2
    out = maps.new_empty(count, plan.pixels, form.channels)
    launch_kernel(
        begin_kernel, (plan.tiles, count),
        maps, slopes, out, plan.levels, plan.pixels, plan.windows, 2 * layer,
        **constants(form, compared),
    )  # fmt: skip
    return out


@jit
def windows_of(levels_ptr, level, shrink):
    """Windows down and across that a level compares, of a map that is smaller than the level by ``shrink`` pixels."""
    high = tl.maximum((of_level(levels_ptr, level, HEIGHT) - shrink) // BLOCK_SIDE - 1, 0)
    wide = tl.maximum((of_level(levels_ptr, level, WIDTH) - shrink) // BLOCK_SIDE - 1, 0)
    return high * of_level(levels_ptr, level, TEXTURED), wide


@jit
def strength_of(total, squares, pivot):
    """Mean and standard deviation of a window, from sums of what its pixels are above a pivot, and of the squares."""
    pixels: tl.constexpr = WINDOW_SIDE * WINDOW_SIDE
    mean = total / pixels
    variance = tl.maximum(squares / pixels - mean * mean, 0.0)
    return mean + pivot, tl.sqrt(variance + LEAST_STRENGTH * LEAST_STRENGTH)


@jit(do_not_specialize=["pixels", "windows", "shrink", "slots", "first_slot"])
def strength_kernel(
    maps_ptr, factor_ptr, slopes_ptr, sums_ptr, levels_ptr, pixels, windows, shrink, slots, first_slot,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    EXPONENT: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of windows of all levels, N). Of both images, in every window and channel."""
    level, down, right = find_tile(levels_ptr, WINDOW_TILE)
    width = of_level(levels_ptr, level, WIDTH)
    high, wide = windows_of(levels_ptr, level, shrink)
    window = tl.arange(0, BLOCK_HEIGHT * BLOCK_WIDTH)
    y = down * BLOCK_HEIGHT + window // BLOCK_WIDTH
    x = right * BLOCK_WIDTH + window % BLOCK_WIDTH
    c = tl.arange(0, BLOCK)
    mask = ((y < high) & (x < wide))[:, None] & (c < CHANNELS)[None, :]

    image = tl.program_id(1).to(tl.int64)
    maps_ptr += (image * pixels + of_level(levels_ptr, level, PIXEL)) * CHANNELS
    other_ptr = maps_ptr + tl.num_programs(1).to(tl.int64) * pixels * CHANNELS
    place = ((y * width + x) * BLOCK_SIDE)[:, None] * CHANNELS + c[None, :]
    # Above its first pixel: what a window's pixels have in common takes no digits from their differences.
    pivot = tl.load(maps_ptr + place, mask=mask, other=0.0)
    other_pivot = tl.load(other_ptr + place, mask=mask, other=0.0)
    total = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    squares = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    other_total = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    other_squares = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    for row in tl.range(0, WINDOW_SIDE):
        for column in tl.range(0, WINDOW_SIDE):
            moved = place + (row * width + column) * CHANNELS
            value = tl.load(maps_ptr + moved, mask=mask, other=0.0) - pivot
            total += value
            squares += value * value
            value = tl.load(other_ptr + moved, mask=mask, other=0.0) - other_pivot
            other_total += value
            other_squares += value * value
    mean, strength = strength_of(total, squares, pivot)
    _, other_strength = strength_of(other_total, other_squares, other_pivot)

    difference = tl.where(mask, strength - other_strength, 0.0)
    factor = tl.load(factor_ptr) / tl.maximum(high * wide * CHANNELS, 1).to(NUMBERS)
    share = tl.sum(tl.sum(size_of(difference, EXPONENT), 1), 0) * factor
    tl.store(sums_ptr + image * slots + first_slot + tl.program_id(0), share)
    slope = derivative_of(difference, EXPONENT) * factor / (strength * (WINDOW_SIDE * WINDOW_SIDE))
    slopes_ptr += (image * 2 * windows + of_level(levels_ptr, level, WINDOW)) * CHANNELS
    place = (y * (width // BLOCK_SIDE) + x)[:, None] * CHANNELS + c[None, :]
    tl.store(slopes_ptr + place, slope, mask=mask)
    tl.store(slopes_ptr + windows * CHANNELS + place, mean, mask=mask)


@jit
def by_texture(
    values, slopes_ptr, levels_ptr, level, windows, y, x, c, shrink, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The derivative by a map's pixels, from those of its windows.

    Args:
        values: (pixels, channels) of the map at rows y, columns x and channels c.
        shrink: pixels by which the map is smaller than its level.
    """
    width = of_level(levels_ptr, level, WIDTH)
    high, wide = windows_of(levels_ptr, level, shrink)
    slopes_ptr += (tl.program_id(1).to(tl.int64) * 2 * windows + of_level(levels_ptr, level, WINDOW)) * CHANNELS
    means_ptr = slopes_ptr + windows * CHANNELS
    gradient = values * 0.0
    for corner in tl.range(0, 4, num_stages=1):  # not unrolled, which would take more registers than there are
        row, column = y // BLOCK_SIDE - corner // 2, x // BLOCK_SIDE - corner % 2
        there = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
        mask = there[:, None] & (c < CHANNELS)[None, :]
        place = (row * (width // BLOCK_SIDE) + column)[:, None] * CHANNELS + c[None, :]
        slope = tl.load(slopes_ptr + place, mask=mask, other=0.0)
        gradient += slope * (values - tl.load(means_ptr + place, mask=mask, other=0.0))
    return gradient


@jit(do_not_specialize=["pixels", "windows", "shrink"])
def begin_kernel(
    maps_ptr, slopes_ptr, out_ptr, levels_ptr, pixels, windows, shrink,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    TAP: tl.constexpr, EXPONENT: tl.constexpr, SLOPE: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all levels, N)."""
    level, height, width, first_pixel, y, x = find_pixels(levels_ptr, BLOCK_HEIGHT, BLOCK_WIDTH)
    height, map_width = height - shrink, width - shrink
    c = tl.arange(0, BLOCK)
    mask = ((y < height) & (x < map_width))[:, None] & (c < CHANNELS)[None, :]
    start = (tl.program_id(1).to(tl.int64) * pixels + first_pixel) * CHANNELS
    place = (y * width + x)[:, None] * CHANNELS + c[None, :]
    pred = tl.load(maps_ptr + start + place, mask=mask, other=0.0)
    gradient = by_texture(pred, slopes_ptr, levels_ptr, level, windows, y, x, c, shrink, CHANNELS)
    if TAP:
        other = tl.num_programs(1).to(tl.int64) * pixels * CHANNELS
        difference = pred - tl.load(maps_ptr + other + start + place, mask=mask, other=0.0)
        gradient += derivative_of(difference, EXPONENT) / (height * map_width * CHANNELS).to(NUMBERS)
    tl.store(out_ptr + start + place, tl.where(pred > 0, gradient, gradient * SLOPE), mask=mask)
