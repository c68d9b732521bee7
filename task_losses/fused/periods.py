"""Errors of the image that repeat with a period: a launch finds them in windows, another adds their gradient."""

from __future__ import annotations

from torch import Tensor

import task_losses.terms
from task_losses.fused.compared import Period
from task_losses.fused.launch import cdiv, kernel_dtype, launch_kernel
from task_losses.fused.optional import constexpr, jit, tl
from task_losses.fused.plan import Size, number
from task_losses.fused.shared import Shares, place_of

BLOCK_SIDE, WINDOW_SIDE = constexpr(task_losses.terms.BLOCK), constexpr(task_losses.terms.WINDOW)
_ELEMENTS = 256  # of a program that finds: the pixels of its windows' tiles, where one alone has no more
_PIXELS = 1024  # of a program that adds
_WARPS = 4


def windows_of(period: Period, size: Size) -> Size:
    """Windows of an image, down and across; 0 where it holds none."""
    high, wide = (max(0, side // period.pixels // task_losses.terms.BLOCK - 1) for side in size)
    return (high, wide) if high and wide else (0, 0)


def slots_of(period: Period, size: Size) -> int:
    """Shares of an image's distance."""
    high, wide = windows_of(period, size)
    return 3 * high * cdiv(wide, _windows_at_once(period))


def patterns(pred: Tensor, target: Tensor, period: Period, shares: Shares) -> Tensor:
    """What the distance gains by the mean tile of each window, (3 N, windows, p p), by a pixel of one of its tiles.

    Args:
        pred, target: (N, 3, H, W), with one window at least.
    """
    high, wide = windows_of(period, (pred.shape[2], pred.shape[3]))
    area, at_once = period.pixels**2, _windows_at_once(period)
    out = pred.new_empty(3 * len(pred), high * wide, area)
    launch_kernel(
        pattern_kernel, (high * cdiv(wide, at_once), 3 * len(pred)),
        pred, target, number(period.weight, pred), out, shares.sums, *pred.stride(), *target.stride(),
        period.pixels, high, wide, *place_of(shares),
        WINDOWS=at_once, BLOCK=_power_of_2(area), NUMBERS=kernel_dtype(pred.dtype), warps=_WARPS,
    )  # fmt: skip
    return out


def add(gradient: Tensor, pattern: Tensor, period: Period) -> None:
    """Adds to a gradient, (N, 3, H, W), what each of its pixels gains by :func:`patterns`."""
    count, _, height, width = gradient.shape
    launch_kernel(
        repeat_kernel, (cdiv(height * width, _PIXELS), 3 * count),
        gradient, pattern, height, width, period.pixels, *windows_of(period, (height, width)),
        PIXELS=_PIXELS, warps=_WARPS,
    )  # fmt: skip


def _windows_at_once(period: Period) -> int:
    return max(1, _ELEMENTS // _power_of_2(period.pixels**2))


def _power_of_2(count: int) -> int:
    """The next one."""
    return 1 << (count - 1).bit_length()


_STRIDES = ["pred_n", "pred_c", "pred_y", "pred_x", "target_n", "target_c", "target_y", "target_x"]


@jit(do_not_specialize=[*_STRIDES, "period", "high", "wide", "slots", "first_slot"])
def pattern_kernel(
    pred_ptr, target_ptr, factor_ptr, out_ptr, sums_ptr,
    pred_n, pred_c, pred_y, pred_x, target_n, target_c, target_y, target_x,
    period, high, wide, slots, first_slot,
    WINDOWS: tl.constexpr, BLOCK: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """Grid (some windows of a row, 3 N)."""
    plane = tl.program_id(1).to(tl.int64)
    image, channel = plane // 3, plane % 3
    across = tl.cdiv(wide, WINDOWS)
    row = tl.program_id(0) // across
    window = tl.program_id(0) % across * WINDOWS + tl.arange(0, WINDOWS)
    element = tl.arange(0, BLOCK)
    area = period * period
    mask = (window < wide)[:, None] & (element < area)[None, :]
    y = (row * BLOCK_SIDE * period + element // period).to(tl.int64)
    x = ((window * BLOCK_SIDE * period)[:, None] + (element % period)[None, :]).to(tl.int64)
    pred_ptr += image * pred_n + channel * pred_c
    target_ptr += image * target_n + channel * target_c
    pred_place = y[None, :] * pred_y + x * pred_x
    target_place = y[None, :] * target_y + x * target_x
    step = plane * 0 + period  # a 64-bit number, as places in an image may be
    total = tl.zeros((WINDOWS, BLOCK), NUMBERS)
    for down in tl.range(0, WINDOW_SIDE):
        for right in tl.range(0, WINDOW_SIDE):
            moved = pred_place + down * step * pred_y + right * step * pred_x
            difference = tl.load(pred_ptr + moved, mask=mask, other=0.0)
            moved = target_place + down * step * target_y + right * step * target_x
            total += difference - tl.load(target_ptr + moved, mask=mask, other=0.0)
    mean = total / (WINDOW_SIDE * WINDOW_SIDE)
    pattern = tl.where(mask, mean - (tl.sum(mean, 1) / area)[:, None], 0.0)

    factor = tl.load(factor_ptr) / (3 * high * wide * area)
    share = tl.sum(tl.sum(pattern * pattern, 1), 0) * factor * (WINDOW_SIDE * WINDOW_SIDE)
    slot = channel * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums_ptr + image * slots + first_slot + slot, share)
    # A pixel is one of 64 in the mean, and the mean's square is taken 64 times.
    place = ((plane * high + row) * wide + window[:, None]) * area + element[None, :]
    tl.store(out_ptr + place, pattern * (2.0 * factor), mask=mask)


@jit(do_not_specialize=["height", "width", "period", "high", "wide"])
def repeat_kernel(gradient_ptr, pattern_ptr, height, width, period, high, wide, PIXELS: tl.constexpr):
    """Grid (pixels of the image, 3 N)."""
    plane = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < height * width
    y, x = pixel // width, pixel % width
    place = gradient_ptr + plane * height * width + pixel
    gradient = tl.load(place, mask=inside, other=0.0)
    element = y % period * period + x % period
    side = period * BLOCK_SIDE
    for corner in tl.static_range(4):
        row, column = y // side - corner // 2, x // side - corner % 2
        there = inside & (row >= 0) & (row < high) & (column >= 0) & (column < wide)
        window = (plane * high + row) * wide + column
        gradient += tl.load(pattern_ptr + window * period * period + element, mask=there, other=0.0)
    tl.store(place, gradient, mask=inside)
