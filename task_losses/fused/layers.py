"""A layer of all levels in one launch: forward for both images, and back for the prediction.

A program computes a tile of one image's map in one level. Forward, it does so for the prediction and for the target,
so that the difference of the two is at hand where the layer is a tap. Maps are stored after their LeakyReLU, channels
last; gradients are those by the layer's sum, before it.

    kernel           reads                                       writes
    first_kernel     level images                                map 1
    middle_kernel    map l - 1                                   map l
    score_kernel     map depth - 1                               derivative of the last tap by the scores
    back_kernel      gradient l, or that of the scores           gradient l - 1
    image_kernel     gradient 1                                  gradient of the level images

Each adds a tap's share of the distances, one number for each program; the map of the last tap is not written, but at
once the gradient that it begins, unless its texture is compared: see :mod:`task_losses.fused.texture`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from task_losses.fused.differences import derivative_of, size_of
from task_losses.fused.launch import launch_kernel
from task_losses.fused.optional import jit, tl
from task_losses.fused.places import IMAGE, find_pixels, of_level
from task_losses.fused.plan import number
from task_losses.fused.shared import Form, Shares, constants, place_of
from task_losses.fused.texture import by_texture


def first(images: Tensor, weight: Tensor, form: Form, tap: Shares | None, last: bool) -> Tensor:
    """Map 1, (2 N, pixels, C), from level images (2 N, 3, pixels); if it is the last tap, as :func:`middle`.

    Args:
        weight: (levels, 27 C + C).
    """
    return _forward(first_kernel, images, weight, 1, form, tap, last)


def middle(maps: Tensor, weight: Tensor, layer: int, form: Form, tap: Shares | None, last: bool) -> Tensor:
    """A map from that before, both (2 N, pixels, C); of the last tap the gradient, (N, pixels, C), in its place.

    Args:
        weight: (levels, 9 C C + C).
    """
    return _forward(middle_kernel, maps, weight, layer, form, tap, last)


def _forward(
    kernel: Any, values: Tensor, weight: Tensor, layer: int, form: Form, tap: Shares | None, last: bool
) -> Tensor:
    plan, count = form.plan, len(values) // 2
    out = values.new_empty(count if last else 2 * count, plan.pixels, form.channels)
    launch_kernel(
        kernel, (plan.tiles, count),
        values, weight, out, out if tap is None else tap.sums, plan.levels,
        plan.pixels, weight.stride(0), 2 * layer, *place_of(tap),
        LAST=last, **constants(form, tap is not None), **_products(form),
    )  # fmt: skip
    return out


def score(maps: Tensor, weight: Tensor, layer: int, form: Form, tap: Shares) -> Tensor:
    """The derivative of the last tap's distance by the scores, (N, pixels), from maps (2 N, pixels, C).

    Args:
        weight: (levels, 9 C). The bias, the same for both images, makes no difference.
        layer: the number of layers.
    """
    plan, count = form.plan, len(maps) // 2
    out = maps.new_empty(count, plan.pixels)
    launch_kernel(
        score_kernel, (plan.tiles, count),
        maps, weight, out, tap.sums, plan.levels,
        plan.pixels, weight.stride(0), 2 * layer, *place_of(tap),
        **constants(form, True),
    )  # fmt: skip
    return out


def back(
    gradient: Tensor, weight: Tensor, maps: Tensor, slopes: Tensor | None, layer: int, form: Form, compared: bool
) -> Tensor:
    """The gradient by the layer's input before its LeakyReLU, (N, pixels, C).

    Args:
        gradient: by the layer's output, (N, pixels, C); by scores (N, pixels).
        weight: of the layer, as for the way forward.
        maps: the layer's inputs, (2 N, pixels, C).
        slopes: of their texture, if that is compared.
        layer: from 2.
        compared: whether the input's differences are compared.
    """
    plan, count, scores = form.plan, len(gradient), gradient.dim() == 2
    out = gradient.new_empty(count, plan.pixels, form.channels)
    launch_kernel(
        back_kernel, (plan.tiles, count),
        gradient, weight, maps, out if slopes is None else slopes, out, plan.levels,
        plan.pixels, weight.stride(0), plan.windows, 2 * layer,
        SCORES=scores, TEXTURE=slopes is not None,
        **constants(form, compared), **_products(form) | ({"PRECISION": "ieee"} if scores else {}),
    )  # fmt: skip
    return out


def image(gradient: Tensor, weight: Tensor, images: Tensor, form: Form, tap: Shares | None) -> Tensor:
    """The gradient by the level images, (N, 3, pixels), from that by layer 1, (N, pixels, C).

    Args:
        weight: (levels, 27 C + C).
        images: (2 N, 3, pixels), compared in the levels that the plan says.
    """
    plan, count = form.plan, len(gradient)
    out = gradient.new_empty(count, 3, plan.pixels)
    launch_kernel(
        image_kernel, (plan.tiles, count),
        gradient, weight, images, number(form.compared.image_weight, gradient),
        out, out if tap is None else tap.sums, plan.levels,
        plan.pixels, weight.stride(0), *place_of(tap),
        **constants(form, tap is not None) | {"EXPONENT": form.compared.image_exponent},
    )  # fmt: skip
    return out


def _products(form: Form) -> dict[str, Any]:
    return {"INNER": form.tiles.inner, "STAGES": form.tiles.stages, "PRECISION": form.precision}


@jit
def finish(
    pred, target, out_ptr, sums_ptr, place, other, mask, height, width, shrink, slots, first_slot,
    CHANNELS: tl.constexpr, TAP: tl.constexpr, LAST: tl.constexpr, EXPONENT: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Activates two maps and stores them, or the gradient that the last tap begins; adds up their differences.

    Args:
        place: of the prediction's elements; ``other`` beyond are the target's.
        shrink: pixels by which the map is smaller than its level.
    """
    pred = tl.where(pred > 0, pred, pred * SLOPE)
    target = tl.where(target > 0, target, target * SLOPE)
    if not LAST:
        tl.store(out_ptr + place, pred, mask=mask)
        tl.store(out_ptr + other + place, target, mask=mask)
    if TAP:
        difference = tl.where(mask, pred - target, 0.0)
        elements = ((height - shrink) * (width - shrink) * CHANNELS).to(pred.dtype)
        share = tl.sum(tl.sum(size_of(difference, EXPONENT), 1), 0) / elements
        tl.store(sums_ptr + tl.program_id(1).to(tl.int64) * slots + first_slot + tl.program_id(0), share)
        if LAST:
            gradient = derivative_of(difference, EXPONENT) / elements
            tl.store(out_ptr + place, tl.where(pred > 0, gradient, gradient * SLOPE), mask=mask)


_FORWARD = ["pixels", "weight_stride", "shrink", "slots", "first_slot"]


@jit(do_not_specialize=_FORWARD)
def first_kernel(
    values_ptr, weight_ptr, out_ptr, sums_ptr, levels_ptr, pixels, weight_stride, shrink, slots, first_slot,
    LAST: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr, TAP: tl.constexpr, EXPONENT: tl.constexpr,
    SLOPE: tl.constexpr, NUMBERS: tl.constexpr, INNER: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all levels, N). A pixel has 27 inputs."""
    level, height, width, first_pixel, y, x = find_pixels(levels_ptr, BLOCK_HEIGHT, BLOCK_WIDTH)
    inside = (y < height - shrink) & (x < width - shrink)
    co = tl.arange(0, BLOCK)
    valid = co < CHANNELS
    weight_ptr += level * weight_stride

    start = tl.program_id(1).to(tl.int64) * 3 * pixels + first_pixel
    other = tl.num_programs(1).to(tl.int64) * 3 * pixels
    pred = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    target = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    for part in tl.range(0, 27, INNER, num_stages=STAGES):
        ci = part + tl.arange(0, INNER)
        channel, tap = ci // 9, ci % 9
        weight = tl.load(
            weight_ptr + ci[:, None] * CHANNELS + co[None, :], mask=(ci < 27)[:, None] & valid[None, :], other=0.0
        )  # fmt: skip
        place = (y * width + x)[:, None] + (channel * pixels + tap // 3 * width + tap % 3)[None, :]
        seen = inside[:, None] & (ci < 27)[None, :]
        values = tl.load(values_ptr + start + place, mask=seen, other=0.0)
        pred = tl.dot(values, weight, pred, input_precision=PRECISION, out_dtype=NUMBERS)
        values = tl.load(values_ptr + start + other + place, mask=seen, other=0.0)
        target = tl.dot(values, weight, target, input_precision=PRECISION, out_dtype=NUMBERS)
    bias = tl.load(weight_ptr + 27 * CHANNELS + co, mask=valid, other=0.0)[None, :]

    start = (tl.program_id(1).to(tl.int64) * pixels + first_pixel) * CHANNELS
    other = tl.num_programs(1).to(tl.int64) * pixels * CHANNELS
    place = (y * width + x)[:, None] * CHANNELS + co[None, :]
    finish(
        pred + bias, target + bias, out_ptr + start, sums_ptr, place, other, inside[:, None] & valid[None, :],
        height, width, shrink, slots, first_slot, CHANNELS, TAP, LAST, EXPONENT, SLOPE,
    )  # fmt: skip


@jit(do_not_specialize=_FORWARD)
def middle_kernel(
    values_ptr, weight_ptr, out_ptr, sums_ptr, levels_ptr, pixels, weight_stride, shrink, slots, first_slot,
    LAST: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr, TAP: tl.constexpr, EXPONENT: tl.constexpr,
    SLOPE: tl.constexpr, NUMBERS: tl.constexpr, INNER: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all levels, N)."""
    level, height, width, first_pixel, y, x = find_pixels(levels_ptr, BLOCK_HEIGHT, BLOCK_WIDTH)
    inside = (y < height - shrink) & (x < width - shrink)
    ci = tl.arange(0, INNER)
    co = tl.arange(0, BLOCK)
    valid = co < CHANNELS
    weight_ptr += level * weight_stride

    start = (tl.program_id(1).to(tl.int64) * pixels + first_pixel) * CHANNELS
    other = tl.num_programs(1).to(tl.int64) * pixels * CHANNELS
    place = (y * width + x)[:, None] * CHANNELS + co[None, :]
    pred = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    target = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    for step in tl.range(0, 9 * (CHANNELS // INNER), num_stages=STAGES):
        tap, part = step // (CHANNELS // INNER), step % (CHANNELS // INNER)
        weight = tl.load(
            weight_ptr + step * (INNER * CHANNELS) + ci[:, None] * CHANNELS + co[None, :],
            mask=valid[None, :], other=0.0,
        )  # fmt: skip
        moved = (y * width + x + tap // 3 * width + tap % 3)[:, None] * CHANNELS + part * INNER + ci[None, :]
        values = tl.load(values_ptr + start + moved, mask=inside[:, None], other=0.0)
        pred = tl.dot(values, weight, pred, input_precision=PRECISION, out_dtype=NUMBERS)
        values = tl.load(values_ptr + start + other + moved, mask=inside[:, None], other=0.0)
        target = tl.dot(values, weight, target, input_precision=PRECISION, out_dtype=NUMBERS)
    bias = tl.load(weight_ptr + 9 * CHANNELS * CHANNELS + co, mask=valid, other=0.0)[None, :]
    finish(
        pred + bias, target + bias, out_ptr + start, sums_ptr, place, other, inside[:, None] & valid[None, :],
        height, width, shrink, slots, first_slot, CHANNELS, TAP, LAST, EXPONENT, SLOPE,
    )  # fmt: skip


@jit(do_not_specialize=_FORWARD)
def score_kernel(
    values_ptr, weight_ptr, out_ptr, sums_ptr, levels_ptr, pixels, weight_stride, shrink, slots, first_slot,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    TAP: tl.constexpr, EXPONENT: tl.constexpr, SLOPE: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all levels, N). One output: a sum over the channels, which no product of matrices makes faster."""
    level, height, width, first_pixel, y, x = find_pixels(levels_ptr, BLOCK_HEIGHT, BLOCK_WIDTH)
    inside = (y < height - shrink) & (x < width - shrink)
    c = tl.arange(0, BLOCK)
    mask = inside[:, None] & (c < CHANNELS)[None, :]
    weight_ptr += level * weight_stride
    image = tl.program_id(1).to(tl.int64)
    values_ptr += (image * pixels + first_pixel) * CHANNELS
    other = tl.num_programs(1).to(tl.int64) * pixels * CHANNELS
    place = (y * width + x)[:, None] * CHANNELS + c[None, :]
    total = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    for tap in tl.range(0, 9):
        moved = values_ptr + place + (tap // 3 * width + tap % 3) * CHANNELS
        weight = tl.load(weight_ptr + tap * CHANNELS + c, mask=c < CHANNELS, other=0.0)
        difference = tl.load(moved, mask=mask, other=0.0) - tl.load(moved + other, mask=mask, other=0.0)
        total += difference * weight[None, :]
    difference = tl.sum(total, 1)
    elements = ((height - shrink) * (width - shrink)).to(NUMBERS)
    share = tl.sum(size_of(difference, EXPONENT), 0) / elements  # what is outside is 0
    tl.store(sums_ptr + image * slots + first_slot + tl.program_id(0), share)
    gradient = derivative_of(difference, EXPONENT) / elements
    tl.store(out_ptr + image * pixels + first_pixel + y * width + x, gradient, mask=inside)


@jit(do_not_specialize=["pixels", "weight_stride", "windows", "shrink"])
def back_kernel(
    gradient_ptr, weight_ptr, maps_ptr, slopes_ptr, out_ptr, levels_ptr, pixels, weight_stride, windows, shrink,
    SCORES: tl.constexpr, TEXTURE: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr, TAP: tl.constexpr, EXPONENT: tl.constexpr,
    SLOPE: tl.constexpr, NUMBERS: tl.constexpr, INNER: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all levels, N). ``shrink`` is that of the gradient; what it makes is two pixels larger."""
    level, height, width, first_pixel, y, x = find_pixels(levels_ptr, BLOCK_HEIGHT, BLOCK_WIDTH)
    out_height, out_width = height - shrink + 2, width - shrink + 2
    ci = tl.arange(0, BLOCK)
    co = tl.arange(0, INNER)
    valid = ci < CHANNELS
    weight_ptr += level * weight_stride
    PARTS: tl.constexpr = 1 if SCORES else CHANNELS // INNER
    start = tl.program_id(1).to(tl.int64) * pixels + first_pixel
    pixel = y * width + x
    out = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    for step in tl.range(0, 9 * PARTS, num_stages=STAGES):
        tap, part = step // PARTS, step % PARTS
        down, across = tap // 3, tap % 3
        seen = (y >= down) & (y < out_height - 2 + down) & (x >= across) & (x < out_width - 2 + across)
        moved = start + pixel - (down * width + across)
        if SCORES:
            values = tl.load(gradient_ptr + moved, mask=seen, other=0.0)
            weight = tl.load(weight_ptr + tap * CHANNELS + ci, mask=valid, other=0.0)
            out += values[:, None] * weight[None, :]
        else:
            moved = moved[:, None] * CHANNELS + part * INNER + co[None, :]
            values = tl.load(gradient_ptr + moved, mask=seen[:, None], other=0.0)
            weight = tl.load(
                weight_ptr + tap * (CHANNELS * CHANNELS) + ci[None, :] * CHANNELS + part * INNER + co[:, None],
                mask=valid[None, :], other=0.0,
            )  # fmt: skip
            out = tl.dot(values, weight, out, input_precision=PRECISION, out_dtype=NUMBERS)

    mask = ((y < out_height) & (x < out_width))[:, None] & valid[None, :]
    place = (start + pixel)[:, None] * CHANNELS + ci[None, :]
    pred = tl.load(maps_ptr + place, mask=mask, other=0.0)
    if TAP:
        other = tl.num_programs(1).to(tl.int64) * pixels * CHANNELS
        difference = pred - tl.load(maps_ptr + other + place, mask=mask, other=0.0)
        out += derivative_of(difference, EXPONENT) / (out_height * out_width * CHANNELS).to(NUMBERS)
    if TEXTURE:
        out += by_texture(pred, slopes_ptr, levels_ptr, level, windows, y, x, ci, shrink - 2, CHANNELS)
    tl.store(out_ptr + place, tl.where(pred > 0, out, out * SLOPE), mask=mask)


@jit(do_not_specialize=["pixels", "weight_stride", "slots", "first_slot"])
def image_kernel(
    gradient_ptr, weight_ptr, images_ptr, factor_ptr, out_ptr, sums_ptr, levels_ptr,
    pixels, weight_stride, slots, first_slot,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    TAP: tl.constexpr, EXPONENT: tl.constexpr, SLOPE: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all levels, N). Three outputs: three sums over the channels, for the reason of score_kernel."""
    level, height, width, first_pixel, y, x = find_pixels(levels_ptr, BLOCK_HEIGHT, BLOCK_WIDTH)
    c = tl.arange(0, BLOCK)
    valid = c < CHANNELS
    weight_ptr += level * weight_stride
    image = tl.program_id(1).to(tl.int64)
    pixel = y * width + x
    red = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    green = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    blue = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, BLOCK), NUMBERS)
    for tap in tl.range(0, 9):
        down, across = tap // 3, tap % 3
        seen = (y >= down) & (y < height - 2 + down) & (x >= across) & (x < width - 2 + across)
        moved = image * pixels + first_pixel + pixel - (down * width + across)
        values = tl.load(
            gradient_ptr + moved[:, None] * CHANNELS + c[None, :], mask=seen[:, None] & valid[None, :], other=0.0
        )  # fmt: skip
        row_ptr = weight_ptr + tap * CHANNELS + c
        red += values * tl.load(row_ptr, mask=valid, other=0.0)[None, :]
        green += values * tl.load(row_ptr + 9 * CHANNELS, mask=valid, other=0.0)[None, :]
        blue += values * tl.load(row_ptr + 18 * CHANNELS, mask=valid, other=0.0)[None, :]

    inside = (y < height) & (x < width)
    place = image * 3 * pixels + first_pixel + pixel
    if TAP:
        compared = of_level(levels_ptr, level, IMAGE)
        other = tl.num_programs(1).to(tl.int64) * 3 * pixels
        factor = tl.load(factor_ptr) / (height * width * 3).to(NUMBERS)
        share = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH,), NUMBERS)
    for channel in tl.static_range(3):
        if channel == 0:
            out = tl.sum(red, 1)
        elif channel == 1:
            out = tl.sum(green, 1)
        else:
            out = tl.sum(blue, 1)
        at = place + channel * pixels
        if TAP:
            used = inside & ((pixel * 0 + compared) > 0)
            difference = tl.load(images_ptr + at, mask=used, other=0.0)
            difference -= tl.load(images_ptr + other + at, mask=used, other=0.0)
            share += size_of(difference, EXPONENT)
            out += derivative_of(difference, EXPONENT) * factor
        tl.store(out_ptr + at, out, mask=inside)
    if TAP:
        tl.store(sums_ptr + image * slots + first_slot + tl.program_id(0), tl.sum(share, 0) * factor)
