"""Small launches between the convolutions: partial sums become coefficients, always added in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.kernels.operations import EPS, MOMENTUM
from training.kernels.triton.configs import MOST_REGISTERS
from training.kernels.triton.launch import cdiv, kernel_dtype, launch_kernel
from training.kernels.triton.optional import jit, tl
from training.kernels.triton.parameters import Layout, layer_place
from training.kernels.triton.prologue import LINE_ROWS, NORM_ROWS

_ROWS = 64  # rows of partial sums that a program loads at once
_CHANNELS = 16  # channels of a program
_NUMBERS = 256  # weights of a program


@dataclass(frozen=True)
class Running:
    """Running statistics of one block, for all runs: (runs, C), (runs, C) and (runs,) int64."""

    mean: Tensor
    variance: Tensor
    batches: Tensor


def fold_statistics_reference(sums: Tensor, flat: Tensor, offset: int, running: Running | None = None) -> Tensor:
    """The same in plain torch."""
    means, squares, counts = sums.unbind(2)
    count = counts.sum(1)
    mean = (means * counts).sum(1) / count
    square = (squares + counts * (means - mean[:, None]).square()).sum(1)
    variance = square / count
    channels = mean.shape[1]
    scale, shift = flat[:, offset : offset + channels], flat[:, offset + channels : offset + 2 * channels]
    kinds = len(mean) // len(flat)
    rstd = (variance + EPS).rsqrt()
    if running is not None:
        unbiased = square / (count - 1)
        for kind in range(kinds):
            groups = slice(kind * len(flat), (kind + 1) * len(flat))
            running.mean.lerp_(mean[groups], MOMENTUM)
            running.variance.lerp_(unbiased[groups], MOMENTUM)
            running.batches.add_(1)
    return torch.stack([mean, rstd, scale.repeat(kinds, 1) * rstd, shift.repeat(kinds, 1), variance], 1)


def fold_statistics(sums: Tensor, flat: Tensor, offset: int, running: Running | None = None) -> Tensor:
    """BatchNorm's table from block means.

    Args:
        sums: (groups, programs, 3, C) of conv3x3 with the epilogue ``statistics``.
        flat: (runs, total) parameters; the block's scale begins at ``offset`` and its shift follows.
        running: updated as BatchNorm does in training mode, one group after the other.

    Returns:
        (groups, 5, C): mean, rstd, scale * rstd, shift, biased variance.
    """
    groups, programs, _, channels = sums.shape
    runs = len(flat)
    norm = sums.new_empty(groups, NORM_ROWS, channels)
    unused = sums
    launch_kernel(
        fold_statistics_kernel, (runs, cdiv(channels, _CHANNELS)),
        sums, flat[:, offset:], norm,
        *((unused,) * 3 if running is None else (running.mean, running.variance, running.batches)),
        programs, flat.stride(0),
        CHANNELS=channels, KINDS=groups // runs, EPSILON=EPS, MOMENTUM=MOMENTUM, RUNNING=running is not None,
        ROWS=_ROWS, BLOCK=_CHANNELS, SUMS=kernel_dtype(sums.dtype),
    )  # fmt: skip
    return norm


@jit(do_not_specialize=["programs", "flat_stride"])
def fold_statistics_kernel(
    sums_ptr, scale_ptr, norm_ptr, running_mean_ptr, running_variance_ptr, batches_ptr, programs, flat_stride,
    CHANNELS: tl.constexpr, KINDS: tl.constexpr, EPSILON: tl.constexpr, MOMENTUM: tl.constexpr,
    RUNNING: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (runs, blocks of channels)."""
    run = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = channel < CHANNELS
    row = tl.arange(0, ROWS)
    scale = tl.load(scale_ptr + run * flat_stride + channel, mask=valid, other=0.0)
    shift = tl.load(scale_ptr + run * flat_stride + CHANNELS + channel, mask=valid, other=0.0)
    if RUNNING:
        running_mean = tl.load(running_mean_ptr + run * CHANNELS + channel, mask=valid, other=0.0)
        running_variance = tl.load(running_variance_ptr + run * CHANNELS + channel, mask=valid, other=0.0)
    for kind in tl.static_range(KINDS):
        group = kind * tl.num_programs(0) + run
        total = tl.zeros((BLOCK,), SUMS)
        count = tl.zeros((BLOCK,), SUMS)
        for start in tl.range(0, programs, ROWS, num_stages=1):
            mask = (start + row < programs)[:, None] & valid[None, :]
            place = sums_ptr + ((group * programs + start + row) * 3)[:, None] * CHANNELS + channel[None, :]
            n = tl.load(place + 2 * CHANNELS, mask=mask, other=0.0)
            total += tl.sum(tl.load(place, mask=mask, other=0.0) * n, 0)
            count += tl.sum(n, 0)
        count = tl.where(valid, count, 2.0)
        mean = total / count
        square = tl.zeros((BLOCK,), SUMS)
        for start in tl.range(0, programs, ROWS, num_stages=1):
            mask = (start + row < programs)[:, None] & valid[None, :]
            place = sums_ptr + ((group * programs + start + row) * 3)[:, None] * CHANNELS + channel[None, :]
            n = tl.load(place + 2 * CHANNELS, mask=mask, other=0.0)
            apart = tl.load(place, mask=mask, other=0.0) - mean[None, :]
            square += tl.sum(tl.load(place + CHANNELS, mask=mask, other=0.0) + n * apart * apart, 0)
        variance = square / count
        rstd = 1 / tl.sqrt(variance + EPSILON)
        table = norm_ptr + group * 5 * CHANNELS + channel
        tl.store(table, mean, mask=valid)
        tl.store(table + CHANNELS, rstd, mask=valid)
        tl.store(table + 2 * CHANNELS, scale * rstd, mask=valid)
        tl.store(table + 3 * CHANNELS, shift, mask=valid)
        tl.store(table + 4 * CHANNELS, variance, mask=valid)
        if RUNNING:
            running_mean += (mean - running_mean) * MOMENTUM
            running_variance += (square / (count - 1) - running_variance) * MOMENTUM
    if RUNNING:
        tl.store(running_mean_ptr + run * CHANNELS + channel, running_mean, mask=valid)
        tl.store(running_variance_ptr + run * CHANNELS + channel, running_variance, mask=valid)
        if tl.program_id(1) == 0:
            tl.store(batches_ptr + run, tl.load(batches_ptr + run) + KINDS)


class SecondOrder(NamedTuple):
    """Sums (runs, 3, C) of a block that the penalty's two passes leave for the last pass, by fold_sums."""

    gradient: Tensor
    tangent: Tensor


def fold_sums_reference(
    sums: Tensor, norm: Tensor, count: int, into: Tensor | None = None, second: SecondOrder | None = None
) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    total = sums.sum(1)
    s0, s1, _ = total.unbind(1)
    _, rstd, scale, _, _ = norm.unbind(1)
    b, c = -scale * rstd * s1 / count, -scale * s0 / count
    d, f = torch.zeros_like(b), torch.zeros_like(b)
    runs, channels = len(b) if into is None else len(into), b.shape[1]
    by_scale, by_shift = (s.view(-1, runs, channels).sum(0) for s in (s1, s0))
    if second is not None:
        g0, g1, _ = second.gradient.unbind(1)
        t0, t1, paired = second.tangent.unbind(1)
        moved = paired - (g0 * t0 + g1 * t1) / count
        by_scale += rstd[-runs:] * moved
        factor = rstd[-runs:] * scale[-runs:] / count
        b[-runs:] += rstd[-runs:] * factor * (2 * g1 * t1 / count - moved)
        c[-runs:] += factor * (t1 * g0 + g1 * t0) / count
        d[-runs:] = -factor * g1
        f[-runs:] = -factor * t1
    if into is not None:
        into[:, : 2 * channels] = torch.cat([by_scale, by_shift], 1)
    return torch.stack([b, c, d, f], 1), total


def fold_sums(
    sums: Tensor, norm: Tensor, count: int, into: Tensor | None = None, second: SecondOrder | None = None
) -> tuple[Tensor, Tensor]:
    """Coefficients of BatchNorm's derivatives; the formulas are in docs/critic_step.md.

    Args:
        sums: (groups, programs, 3, C) of conv3x3 with the epilogue ``masked`` or ``sums``.
        norm: (groups, 5, C).
        count: numbers per channel that are normalised together.
        into: (runs, 2 C or more), rows at any stride: gets the gradients by the block's scale and by its shift.
        second: adds the penalty's second-order terms, to the last ``runs`` groups; goes with ``into``.

    Returns:
        Coefficients (groups, 4, C): b, c, d, f of the next prologue; and the sums, (groups, 3, C).
    """
    groups, programs, _, channels = sums.shape
    line = sums.new_empty(groups, LINE_ROWS, channels)
    total = sums.new_empty(groups, 3, channels)
    runs = groups if into is None else len(into)
    launch_kernel(
        fold_sums_kernel, (runs, cdiv(channels, _CHANNELS)),
        sums, norm, line, total,
        sums if second is None else second.gradient,
        sums if second is None else second.tangent,
        sums if into is None else into,
        programs, count, 0 if into is None else into.stride(0),
        CHANNELS=channels, KINDS=groups // runs, GRADIENTS=into is not None, SECOND=second is not None,
        ROWS=_ROWS, BLOCK=_CHANNELS, SUMS=kernel_dtype(sums.dtype), registers=MOST_REGISTERS,
    )  # fmt: skip
    return line, total


@jit(do_not_specialize=["programs", "count", "stride"])
def fold_sums_kernel(
    sums_ptr, norm_ptr, line_ptr, total_ptr, gradient_ptr, tangent_ptr, into_ptr, programs, count, stride,
    CHANNELS: tl.constexpr, KINDS: tl.constexpr, GRADIENTS: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (runs, blocks of channels)."""
    run = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = channel < CHANNELS
    row = tl.arange(0, ROWS)
    n = count.to(SUMS)
    by_scale = tl.zeros((BLOCK,), SUMS)
    by_shift = tl.zeros((BLOCK,), SUMS)
    for kind in tl.static_range(KINDS):
        group = kind * tl.num_programs(0) + run
        s0 = tl.zeros((BLOCK,), SUMS)
        s1 = tl.zeros((BLOCK,), SUMS)
        s2 = tl.zeros((BLOCK,), SUMS)
        for start in tl.range(0, programs, ROWS, num_stages=1):
            mask = (start + row < programs)[:, None] & valid[None, :]
            place = sums_ptr + ((group * programs + start + row) * 3)[:, None] * CHANNELS + channel[None, :]
            s0 += tl.sum(tl.load(place, mask=mask, other=0.0), 0)
            s1 += tl.sum(tl.load(place + CHANNELS, mask=mask, other=0.0), 0)
            s2 += tl.sum(tl.load(place + 2 * CHANNELS, mask=mask, other=0.0), 0)
        rstd = tl.load(norm_ptr + (group * 5 + 1) * CHANNELS + channel, mask=valid, other=0.0)
        scale = tl.load(norm_ptr + (group * 5 + 2) * CHANNELS + channel, mask=valid, other=0.0)
        b = -scale * rstd * s1 / n
        c = -scale * s0 / n
        d = tl.zeros((BLOCK,), SUMS)
        f = tl.zeros((BLOCK,), SUMS)
        by_scale += s1
        by_shift += s0
        if SECOND and kind == KINDS - 1:
            row_g = gradient_ptr + run * 3 * CHANNELS + channel
            row_t = tangent_ptr + run * 3 * CHANNELS + channel
            g0 = tl.load(row_g, mask=valid, other=0.0)
            g1 = tl.load(row_g + CHANNELS, mask=valid, other=0.0)
            t0 = tl.load(row_t, mask=valid, other=0.0)
            t1 = tl.load(row_t + CHANNELS, mask=valid, other=0.0)
            moved = tl.load(row_t + 2 * CHANNELS, mask=valid, other=0.0) - (g0 * t0 + g1 * t1) / n
            factor = rstd * scale / n
            b += rstd * factor * (2 * g1 * t1 / n - moved)
            c += factor * (t1 * g0 + g1 * t0) / n
            d = -factor * g1
            f = -factor * t1
            by_scale += rstd * moved
        table = line_ptr + group * 4 * CHANNELS + channel
        tl.store(table, b, mask=valid)
        tl.store(table + CHANNELS, c, mask=valid)
        tl.store(table + 2 * CHANNELS, d, mask=valid)
        tl.store(table + 3 * CHANNELS, f, mask=valid)
        kept = total_ptr + group * 3 * CHANNELS + channel
        tl.store(kept, s0, mask=valid)
        tl.store(kept + CHANNELS, s1, mask=valid)
        tl.store(kept + 2 * CHANNELS, s2, mask=valid)
    if GRADIENTS:
        tl.store(into_ptr + run * stride + channel, by_scale, mask=valid)
        tl.store(into_ptr + run * stride + CHANNELS + channel, by_shift, mask=valid)


def fold_weights_reference(partial: Tensor, flat: Tensor, layout: Layout) -> None:
    """The same in plain torch."""
    for layer in range(layout.depth):
        place = slice(layout.offset(layer), layout.offset(layer) + layout.size(layer))
        flat[:, place] = partial[..., place].sum(1)


def fold_weights(partial: Tensor, flat: Tensor, layout: Layout) -> None:
    """Adds the rows that wgrad left, for all convolutions at once.

    Args:
        partial: (runs, programs, total).
        flat: (runs, total), gets the gradients of all convolutions' weights.
    """
    launch_kernel(
        fold_weights_kernel, (cdiv(layout.largest, _NUMBERS), layout.depth, len(flat)),
        partial, flat, partial.shape[1],
        CHANNELS=layout.channels, DEPTH=layout.depth, TOTAL=layout.total,
        BLOCK=_NUMBERS, SUMS=kernel_dtype(partial.dtype),
    )  # fmt: skip


@jit(do_not_specialize=["programs"])
def fold_weights_kernel(
    partial_ptr, flat_ptr, programs,
    CHANNELS: tl.constexpr, DEPTH: tl.constexpr, TOTAL: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of numbers, layers, runs)."""
    layer = tl.program_id(1)
    run = tl.program_id(2).to(tl.int64)
    inputs, outputs, offset = layer_place(layer, CHANNELS, DEPTH)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = number < 9 * inputs * outputs
    row_ptr = partial_ptr + run * programs * TOTAL + offset + number
    total = tl.zeros((BLOCK,), SUMS)
    for _ in tl.range(0, programs, num_stages=4):
        total += tl.load(row_ptr, mask=mask, other=0.0)
        row_ptr += TOTAL
    tl.store(flat_ptr + run * TOTAL + offset + number, total, mask=mask)


def fold_losses_reference(scores: Tensor, flat: Tensor, penalties: Tensor | None, pixels: int) -> Tensor:
    """The same in plain torch."""
    means, active, counts = scores[..., 0].view(-1, len(flat), *scores.shape[1:3]).unbind(3)
    real, fake, *_ = (means * counts).sum(2) / counts.sum(2)
    if penalties is not None:
        flat[:, -1] = 0
        return torch.stack([real - fake, penalties.sum(1) / pixels], 1)
    shares = active.sum(2) / counts.sum(2)
    flat[:, -1] = shares[1] - shares[0]
    return torch.stack([real - fake, torch.zeros_like(real)], 1)


def fold_losses(scores: Tensor, flat: Tensor, penalties: Tensor | None, pixels: int) -> Tensor:
    """The losses of each run, and the gradient by the last bias.

    That of WGAN-GP is exactly 0: the bias moves the scores of real and fake alike, and no gradient by a pixel. That of
    the hinge loss counts the scores that it does not ignore.

    Args:
        scores: (kinds runs, programs, 3, 1) of the last conv3x3, with the epilogue ``scores``.
        flat: (runs, total), gets the gradient by the bias in its last column.
        penalties: (runs, rows) of the penalty, or None.
        pixels: number of pixels that the penalty is the mean of.

    Returns:
        (runs, 2): distance and penalty.
    """
    losses = flat.new_empty(len(flat), 2)
    launch_kernel(
        fold_losses_kernel, (len(flat),), scores, scores if penalties is None else penalties, losses, flat[:, -1:],
        scores.shape[1], 0 if penalties is None else penalties.shape[1], pixels, flat.stride(0),
        PENALTY=penalties is not None, BLOCK=256, SUMS=kernel_dtype(flat.dtype),
    )  # fmt: skip
    return losses


@jit(do_not_specialize=["programs", "rows", "pixels", "stride"])
def fold_losses_kernel(
    scores_ptr, penalties_ptr, losses_ptr, bias_ptr, programs, rows, pixels, stride,
    PENALTY: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (runs,)."""
    run = tl.program_id(0)
    row = tl.arange(0, BLOCK)
    distance = tl.zeros((), SUMS)
    by_bias = tl.zeros((), SUMS)
    for kind in tl.static_range(2):
        total = tl.zeros((BLOCK,), SUMS)
        active = tl.zeros((BLOCK,), SUMS)
        count = tl.zeros((BLOCK,), SUMS)
        for start in tl.range(0, programs, BLOCK, num_stages=1):
            mask = start + row < programs
            place = scores_ptr + ((kind * tl.num_programs(0) + run) * programs + start + row) * 3
            n = tl.load(place + 2, mask=mask, other=0.0)
            total += tl.load(place, mask=mask, other=0.0) * n
            count += n
            if not PENALTY:
                active += tl.load(place + 1, mask=mask, other=0.0)
        distance += tl.sum(total, 0) / tl.sum(count, 0) * (1 - 2 * kind)
        by_bias -= tl.sum(active, 0) / tl.sum(count, 0) * (1 - 2 * kind)
    penalty = tl.zeros((BLOCK,), SUMS)
    if PENALTY:
        for start in tl.range(0, rows, BLOCK, num_stages=1):
            mask = start + row < rows
            penalty += tl.load(penalties_ptr + run * rows + start + row, mask=mask, other=0.0)
    tl.store(losses_ptr + run * 2, distance)
    tl.store(losses_ptr + run * 2 + 1, tl.sum(penalty, 0) / pixels.to(SUMS))
    tl.store(bias_ptr + run * stride, by_bias)
