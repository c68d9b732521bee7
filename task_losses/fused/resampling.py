"""All levels of all images in one launch, and the sum of their adjoints in another.

The numbers of :func:`task_losses.pyramid.resize`: a tile of a level is rows @ (image @ columns^T), where rows and
columns are the parts of the resampling matrices that the tile touches, made in registers from the plan's tables.
"""

from __future__ import annotations

from torch import Tensor

from task_losses.fused.launch import cdiv, kernel_dtype, launch_kernel
from task_losses.fused.optional import jit, tl
from task_losses.fused.places import COLUMN, HEIGHT, PIXEL, RESIZED, ROW, WIDTH, find_tile, of_level
from task_losses.fused.plan import SIDE, Plan

_WARPS = 4
_SOURCE = 32  # pixels of the image that a step of a tile's sum takes, along each axis
_SLOTS = 1024  # partial sums that are added at once


def resample(pred: Tensor, target: Tensor, plan: Plan) -> Tensor:
    """(2 N, 3, pixels): all levels of the predictions, then those of the targets, both (N, 3, H, W)."""
    count = len(pred)
    out = pred.new_empty(2 * count, 3, plan.pixels)
    launch_kernel(
        resample_kernel, (plan.resized_tiles, 6 * count),
        pred, target, out, plan.levels, plan.rows, plan.columns, *pred.stride(), *target.stride(),
        count, *plan.size, plan.pixels, plan.rows.shape[1], plan.columns.shape[1],
        SIDE=SIDE, SOURCE=_SOURCE, NUMBERS=kernel_dtype(pred.dtype), warps=_WARPS,
    )  # fmt: skip
    return out


def adjoint(gradients: Tensor, sums: Tensor, plan: Plan, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Adds up what all levels left.

    Args:
        gradients: (N, 3, pixels), by the levels.
        sums: (N, S) shares of the distances.
        before: what other levels gave, or None.

    Returns:
        (N,) distances and (N, 3, H, W) gradients by the image.
    """
    count, (height, width) = len(gradients), plan.size
    total = gradients.new_empty(count)
    gradient = gradients.new_empty(count, 3, height, width)
    launch_kernel(
        adjoint_kernel, (cdiv(height, SIDE) * cdiv(width, SIDE), 3 * count),
        gradients, sums, *(before or (sums, sums)), total, gradient, plan.levels, plan.rows, plan.columns,
        height, width, plan.pixels, plan.rows.shape[1], plan.columns.shape[1], plan.count, sums.shape[1],
        ADD=before is not None, SIDE=SIDE, SLOTS=_SLOTS, NUMBERS=kernel_dtype(gradients.dtype), warps=_WARPS,
    )  # fmt: skip
    return total, gradient


@jit
def keys_cubic(x):
    """Keys' cubic convolution kernel, a = -0.5, as in task_losses.pyramid."""
    x = tl.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))


@jit
def load_filters(table_ptr, place, total, mask):
    """Rows of the plan's table: the pixel of the centre, what is beyond, one over the stretch and over the sum."""
    pixel = tl.load(table_ptr + place, mask=mask, other=0.0)
    beyond = tl.load(table_ptr + total + place, mask=mask, other=0.0)
    inverse = tl.load(table_ptr + 2 * total + place, mask=mask, other=0.0)
    scale = tl.load(table_ptr + 3 * total + place, mask=mask, other=0.0)  # so what is masked weighs nothing
    return pixel, beyond, inverse, scale


_RESAMPLE = [
    "pred_n", "pred_c", "pred_y", "pred_x", "target_n", "target_c", "target_y", "target_x", "images", "height", "width",
    "pixels", "rows", "columns",
]  # fmt: skip


@jit(do_not_specialize=_RESAMPLE)
def resample_kernel(
    pred_ptr, target_ptr, out_ptr, levels_ptr, rows_ptr, columns_ptr,
    pred_n, pred_c, pred_y, pred_x, target_n, target_c, target_y, target_x,
    images, height, width, pixels, rows, columns,
    SIDE: tl.constexpr, SOURCE: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all levels, 6 images): a program makes a tile of one channel of one image."""
    plane = tl.program_id(1)
    image, channel = plane // 3, plane % 3
    level, down, right = find_tile(levels_ptr, RESIZED)
    level_height, level_width = of_level(levels_ptr, level, HEIGHT), of_level(levels_ptr, level, WIDTH)
    step = tl.arange(0, SIDE)
    source = tl.arange(0, SOURCE)

    y = down * SIDE + step
    x = right * SIDE + step
    here_y, here_x = y < level_height, x < level_width
    row, row_beyond, row_inverse, row_scale = load_filters(
        rows_ptr, of_level(levels_ptr, level, ROW) + y, rows, here_y
    )  # fmt: skip
    column, column_beyond, column_inverse, column_scale = load_filters(
        columns_ptr, of_level(levels_ptr, level, COLUMN) + x, columns, here_x
    )  # fmt: skip

    # The source that the tile's filters reach, generously: what they do not reach weighs exactly nothing.
    down_scale, right_scale = height / level_height, width / level_width
    top = tl.maximum((down * SIDE * down_scale - 2 * down_scale).to(tl.int32) - 1, 0)
    left = tl.maximum((right * SIDE * right_scale - 2 * right_scale).to(tl.int32) - 1, 0)
    bottom = tl.minimum(((down + 1) * SIDE * down_scale + 2 * down_scale).to(tl.int32) + 1, height)
    end = tl.minimum(((right + 1) * SIDE * right_scale + 2 * right_scale).to(tl.int32) + 1, width)

    if image < images:
        image_ptr = pred_ptr + image.to(tl.int64) * pred_n + channel * pred_c
        stride_y, stride_x = pred_y, pred_x
    else:
        image_ptr = target_ptr + (image - images).to(tl.int64) * target_n + channel * target_c
        stride_y, stride_x = target_y, target_x

    out = tl.zeros((SIDE, SIDE), NUMBERS)
    for first_y in tl.range(top, bottom, SOURCE, num_stages=1):
        source_y = first_y + source
        narrow = tl.zeros((SOURCE, SIDE), NUMBERS)
        for first_x in tl.range(left, end, SOURCE, num_stages=1):
            source_x = first_x + source
            seen = (source_y < height)[:, None] & (source_x < width)[None, :]
            place = source_y.to(tl.int64)[:, None] * stride_y + source_x.to(tl.int64)[None, :] * stride_x
            values = tl.load(image_ptr + place, mask=seen, other=0.0)
            distance = (source_x.to(NUMBERS)[:, None] - column[None, :]) - column_beyond[None, :]
            weights = keys_cubic(distance * column_inverse[None, :]) * column_scale[None, :]
            narrow = tl.dot(values, weights, narrow, input_precision="ieee", out_dtype=NUMBERS)
        distance = (source_y.to(NUMBERS)[None, :] - row[:, None]) - row_beyond[:, None]
        weights = keys_cubic(distance * row_inverse[:, None]) * row_scale[:, None]
        out = tl.dot(weights, narrow, out, input_precision="ieee", out_dtype=NUMBERS)

    start = plane.to(tl.int64) * pixels + of_level(levels_ptr, level, PIXEL)
    tl.store(out_ptr + start + y[:, None] * level_width + x[None, :], out, mask=here_y[:, None] & here_x[None, :])


@jit(do_not_specialize=["height", "width", "pixels", "rows", "columns", "levels", "slots"])
def adjoint_kernel(
    gradients_ptr, sums_ptr, total_before_ptr, gradient_before_ptr, total_ptr, gradient_ptr,
    levels_ptr, rows_ptr, columns_ptr, height, width, pixels, rows, columns, levels, slots,
    ADD: tl.constexpr, SIDE: tl.constexpr, SLOTS: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of the image, 3 N). The first program of an image adds its distance's shares too, in their order."""
    tile, plane = tl.program_id(0), tl.program_id(1)
    across = tl.cdiv(width, SIDE)
    step = tl.arange(0, SIDE)
    top, left = tile // across * SIDE, tile % across * SIDE
    y, x = top + step, left + step
    inside = (y < height)[:, None] & (x < width)[None, :]
    place = plane.to(tl.int64) * height * width + y[:, None] * width + x[None, :]

    out = tl.zeros((SIDE, SIDE), NUMBERS)
    if ADD:
        out = tl.load(gradient_before_ptr + place, mask=inside, other=0.0)
    for level in tl.range(0, levels, num_stages=1):
        level_height, level_width = of_level(levels_ptr, level, HEIGHT), of_level(levels_ptr, level, WIDTH)
        start = plane.to(tl.int64) * pixels + of_level(levels_ptr, level, PIXEL)
        if (level_height == height) & (level_width == width):
            out += tl.load(gradients_ptr + start + y[:, None] * width + x[None, :], mask=inside, other=0.0)
        else:
            row, column = of_level(levels_ptr, level, ROW), of_level(levels_ptr, level, COLUMN)
            down_scale, right_scale = height / level_height, width / level_width
            # The level's pixels whose filters reach the tile, generously.
            first_row = tl.maximum((top / down_scale - 3).to(tl.int32), 0)
            first_column = tl.maximum((left / right_scale - 3).to(tl.int32), 0)
            last_row = tl.minimum(((top + SIDE) / down_scale + 3).to(tl.int32), level_height)
            last_column = tl.minimum(((left + SIDE) / right_scale + 3).to(tl.int32), level_width)
            for j in tl.range(first_row, last_row, SIDE, num_stages=1):
                here_y = j + step < level_height
                centre, beyond, inverse, scale = load_filters(rows_ptr, row + j + step, rows, here_y)
                wide = tl.zeros((SIDE, SIDE), NUMBERS)
                for i in tl.range(first_column, last_column, SIDE, num_stages=1):
                    here_x = i + step < level_width
                    values = tl.load(
                        gradients_ptr + start + (j + step)[:, None] * level_width + (i + step)[None, :],
                        mask=here_y[:, None] & here_x[None, :], other=0.0,
                    )  # fmt: skip
                    middle, past, narrow, share = load_filters(columns_ptr, column + i + step, columns, here_x)
                    distance = (x.to(NUMBERS)[None, :] - middle[:, None]) - past[:, None]
                    weights = keys_cubic(distance * narrow[:, None]) * share[:, None]
                    wide = tl.dot(values, weights, wide, input_precision="ieee", out_dtype=NUMBERS)
                distance = (y.to(NUMBERS)[:, None] - centre[None, :]) - beyond[None, :]
                weights = keys_cubic(distance * inverse[None, :]) * scale[None, :]
                out = tl.dot(weights, wide, out, input_precision="ieee", out_dtype=NUMBERS)
    tl.store(gradient_ptr + place, out, mask=inside)

    if (tile == 0) & (plane % 3 == 0):
        image = plane // 3
        slot = tl.arange(0, SLOTS)
        shares = tl.zeros((SLOTS,), NUMBERS)
        for first in tl.range(0, slots, SLOTS, num_stages=1):
            some = first + slot < slots
            shares += tl.load(sums_ptr + image.to(tl.int64) * slots + first + slot, mask=some, other=0.0)
        total = tl.sum(shares, 0)
        if ADD:
            total += tl.load(total_before_ptr + image)
        tl.store(total_ptr + image, total)
