"""3x3 convolution of channels-last maps: one kernel for the forward, input-gradient, tangent and adjoint passes.

The prologue (see prologue.py) computes the input from raw maps; the epilogue makes the partial sums that the next
normalisation needs, so that no elementwise map is ever written:

    epilogue      stored                     partial sums of a program, one row each
    plain         out                        -
    statistics    out                        mean, M2 (sum of squares about it), count
    scores        out                        mean, number of scores that the hinge loss does not ignore, count
    masked        out * mask(z)              sum q, sum q * xh, 0               xh = (z - mean) * rstd
    sums          out                        sum t, sum t * xh, sum t * gradient
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses.architecture import SLOPE
from training.kernels.triton.configs import MOST_REGISTERS, Numerics, Tiles
from training.kernels.triton.launch import cdiv, kernel_dtype, launch_kernel, padded
from training.kernels.triton.optional import jit, tl
from training.kernels.triton.prologue import Batch, Prologue, load_coefficients, load_row, load_values, seed_value

_INTEGERS = [
    "height", "width", "total", "images", "per_kind", "first_tangent", "groups", "norms", "out_norms", "runs",
    "bias_stride",
]  # fmt: skip


@dataclass(frozen=True)
class Epilogue:
    """What a convolution does with its output before storing it.

    Attributes:
        kind: see the module's table.
        z, norm: raw output and table of the block that the output belongs to, (B, H', W', C') and (groups, 5, C').
        gradient: (B, H', W', C').
    """

    kind: str
    z: Tensor | None = None
    norm: Tensor | None = None
    gradient: Tensor | None = None


def conv3x3_reference(
    prologue: Prologue,
    weight: Tensor,
    epilogue: Epilogue,
    batch: Batch,
    padding: int,
    groups: int,
    numerics: Numerics,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in plain torch; the sums come as one row, (groups, 1, 3, C')."""
    dtype = numerics.sums
    x = prologue.values(batch, dtype).permute(0, 3, 1, 2)
    lot = torch.arange(len(x)) // batch.images
    kernels = weight.view(batch.runs, 3, 3, x.shape[1], -1).permute(0, 4, 3, 1, 2)
    out = torch.stack(
        [
            F.conv2d(image[None], kernels[run], None if bias is None else bias[run], padding=padding)[0]
            for image, run in zip(x, (lot % batch.runs).tolist(), strict=True)
        ]
    ).permute(0, 2, 3, 1)
    by_group = [lot % groups == group for group in range(groups)]
    if epilogue.kind == "statistics":
        rows = [(q.mean(0), (q - q.mean(0)).square().sum(0)) for q in (out[g].flatten(0, 2) for g in by_group)]
        counts = [torch.full_like(mean, out[g][..., 0].numel()) for g, (mean, _) in zip(by_group, rows, strict=True)]
        return out, torch.stack([torch.stack([*row, n]) for row, n in zip(rows, counts, strict=True)])[:, None]
    if epilogue.kind == "scores":
        signs = [1 - 2 * (group // batch.runs) for group in range(groups)]
        active = [(out[g] * sign < 1).sum((0, 1, 2)).to(out) for g, sign in zip(by_group, signs, strict=True)]
        means = torch.stack([out[g].mean((0, 1, 2)) for g in by_group])
        numbers = torch.full_like(means, out[by_group[0]].numel())
        return out, torch.stack([means, torch.stack(active), numbers], 1)[:, None]
    if epilogue.kind == "plain":
        return out, out.new_empty(groups, 1, 3, out.shape[3])
    assert epilogue.z is not None
    assert epilogue.norm is not None
    mean, rstd, scale, shift, _ = epilogue.norm[lot % len(epilogue.norm), :, None, None].unbind(1)
    x = epilogue.z.to(dtype) - mean
    third = torch.zeros_like(out)
    if epilogue.kind == "masked":
        out = torch.where(x * scale + shift > 0, out, out * SLOPE)
    elif epilogue.gradient is not None:
        third = out * epilogue.gradient.to(dtype)
    products = torch.stack([out, out * x * rstd, third])
    return out, torch.stack([products[:, g].sum((1, 2, 3)) for g in by_group])[:, None]


def conv3x3(
    prologue: Prologue,
    weight: Tensor,
    epilogue: Epilogue,
    batch: Batch,
    padding: int,
    groups: int,
    numerics: Numerics,
    tiles: Tiles,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolves a map that the prologue computes.

    Args:
        prologue: the input, (B, H, W, C).
        weight: (runs, 9 C C'), rows of (9, C, C') at a common stride; see parameters.py.
        epilogue: what becomes of the output, (B, H', W', C').
        padding: 0 for a forward or tangent pass, 2 for an input gradient (with flipped weights).
        groups: number of groups whose sums are kept apart; a multiple of ``batch.runs``.
        bias: (runs, 1), at any stride.

    Returns:
        The output (B, H', W', C'), in the storage dtype for an epilogue with sums and in that of the sums otherwise;
        and partial sums (groups, programs, 3, C').
    """
    total, height, width, inputs = prologue.shape
    out_height, out_width = height + 2 * padding - 2, width + 2 * padding - 2
    outputs = weight.shape[1] // (9 * inputs)
    # What leaves a block's first convolution is stored small; images, scores and their gradients are few.
    dtype = numerics.storage if epilogue.kind != "plain" and bias is None else numerics.sums
    out = weight.new_empty(total, out_height, out_width, outputs, dtype=dtype)
    programs = min(
        max(1, tiles.programs * batch.runs // groups),
        cdiv(out_height, tiles.height) * cdiv(out_width, tiles.width) * (total // groups),
    )
    sums = weight.new_empty(groups, programs, 3, outputs)
    unused = weight if epilogue.norm is None else epilogue.norm
    launch_kernel(
        conv3x3_kernel,
        (programs, groups),
        *prologue.pointers(weight),
        weight,
        weight if bias is None else bias,
        out,
        sums,
        unused if epilogue.z is None else epilogue.z,
        unused if epilogue.gradient is None else epilogue.gradient,
        unused,
        height,
        width,
        total,
        batch.images,
        batch.per_kind,
        prologue.first_tangent,
        groups,
        prologue.groups,
        1 if epilogue.norm is None else len(epilogue.norm),
        batch.runs,
        weight.stride(0),
        0 if bias is None else bias.stride(0),
        **constants(inputs, outputs, prologue.kind, epilogue.kind, padding, bias is not None, numerics, tiles),
    )
    return out, sums


def constants(
    inputs: int, outputs: int, read: str, write: str, padding: int, bias: bool, numerics: Numerics, tiles: Tiles
) -> dict[str, Any]:
    """The compile-time arguments of a launch, and its options."""
    return {
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "INPUT_BLOCK": padded(inputs),
        "OUTPUT_BLOCK": padded(outputs),
        "BLOCK_HEIGHT": tiles.height,
        "BLOCK_WIDTH": tiles.width,
        "STAGES": tiles.stages,
        "READ": read,
        "WRITE": write,
        "PADDING": padding,
        "BIAS": bias,
        "SLOPE": SLOPE,
        "OPERAND": kernel_dtype(torch.bfloat16 if numerics.dot == "bf16" else numerics.sums),
        "PRECISION": "tf32" if numerics.dot == "tf32" else "ieee",
        "SUMS": kernel_dtype(numerics.sums),
        "warps": tiles.warps,
        "registers": MOST_REGISTERS,
    }


@jit(do_not_specialize=_INTEGERS)
def conv3x3_kernel(
    raw_ptr, z_ptr, tangent_ptr, gradient_ptr, norm_ptr, line_ptr,
    weight_ptr, bias_ptr, out_ptr, sums_ptr, out_z_ptr, out_gradient_ptr, out_norm_ptr,
    height, width, total, images, per_kind, first_tangent, groups, norms, out_norms, runs, weight_stride, bias_stride,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, INPUT_BLOCK: tl.constexpr, OUTPUT_BLOCK: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr, STAGES: tl.constexpr,
    READ: tl.constexpr, WRITE: tl.constexpr, PADDING: tl.constexpr, BIAS: tl.constexpr, SLOPE: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (programs, groups): program p computes the tiles p, p + programs, ... of all images of its group."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    group = tl.program_id(1)
    out_height = height + 2 * PADDING - 2
    out_width = width + 2 * PADDING - 2
    tiles_across = tl.cdiv(out_width, BLOCK_WIDTH)
    tiles = tiles_across * tl.cdiv(out_height, BLOCK_HEIGHT)

    pixel = tl.arange(0, BLOCK_HEIGHT * BLOCK_WIDTH)
    ci = tl.arange(0, INPUT_BLOCK)
    co = tl.arange(0, OUTPUT_BLOCK)
    valid_in = ci < INPUTS
    valid_out = co < OUTPUTS
    weight_mask = valid_in[:, None] & valid_out[None, :]
    weight_place = ci[:, None] * OUTPUTS + co[None, :]
    weight_ptr += (group % runs).to(tl.int64) * weight_stride

    mean, scale, shift, b, c, d, f = load_coefficients(
        norm_ptr, line_ptr, group % norms, ci, valid_in, INPUTS, READ
    )  # fmt: skip
    if WRITE == "masked" or WRITE == "sums":
        row = (group % out_norms) * 5
        out_mean = load_row(out_norm_ptr, row, co, valid_out, OUTPUTS)
        out_rstd = load_row(out_norm_ptr, row + 1, co, valid_out, OUTPUTS)
        out_scale = load_row(out_norm_ptr, row + 2, co, valid_out, OUTPUTS)
        out_shift = load_row(out_norm_ptr, row + 3, co, valid_out, OUTPUTS)

    first = tl.zeros((OUTPUT_BLOCK,), SUMS)
    second = tl.zeros((OUTPUT_BLOCK,), SUMS)
    third = tl.zeros((OUTPUT_BLOCK,), SUMS)

    # One stage: pipelining this loop would multiply the shared memory of the inner one (700 KB at 32 channels).
    for step in tl.range(program, tiles * (total // groups), programs, num_stages=1):
        member = step // tiles
        tile = step % tiles
        image = (member // images * groups + group) * images + member % images
        top = (tile // tiles_across) * BLOCK_HEIGHT
        left = (tile % tiles_across) * BLOCK_WIDTH
        y = top + pixel // BLOCK_WIDTH
        x = left + pixel % BLOCK_WIDTH
        inside = (y < out_height) & (x < out_width)

        start = image.to(tl.int64) * (height * width * INPUTS)
        behind = (image - first_tangent).to(tl.int64) * (height * width * INPUTS)
        place = (y * width + x)[:, None] * INPUTS + ci[None, :]
        seed = seed_value(image, total, per_kind, images * height * width, READ, SUMS)

        out = tl.zeros((BLOCK_HEIGHT * BLOCK_WIDTH, OUTPUT_BLOCK), SUMS)
        for tap in tl.range(0, 9, num_stages=STAGES):
            down = tap // 3 - PADDING
            across = tap % 3 - PADDING
            seen = inside
            if PADDING > 0:
                seen = inside & (y >= -down) & (y < height - down) & (x >= -across) & (x < width - across)
            mask = seen[:, None] & valid_in[None, :]
            reached = mask
            if READ == "adjoint":
                # A block of comparisons, since Triton 3.9 does not combine a scalar condition with a mask.
                reached = mask & ((ci * 0 + image) >= first_tangent)[None, :]
            values = load_values(
                raw_ptr + start, z_ptr + start, tangent_ptr + behind, gradient_ptr + behind,
                place + (down * width + across) * INPUTS, mask, reached, seed,
                mean, scale, shift, b, c, d, f, READ, SLOPE, SUMS,
            )  # fmt: skip
            weight = tl.load(weight_ptr + tap * (INPUTS * OUTPUTS) + weight_place, mask=weight_mask, other=0.0)
            out = tl.dot(values.to(OPERAND), weight.to(OPERAND), out, input_precision=PRECISION, out_dtype=SUMS)
        if BIAS:
            bias = tl.load(bias_ptr + (group % runs).to(tl.int64) * bias_stride + co, mask=valid_out, other=0.0)
            out += bias[None, :]

        mask = inside[:, None] & valid_out[None, :]
        offset = (y * out_width + x)[:, None] * OUTPUTS + co[None, :]
        start = image.to(tl.int64) * (out_height * out_width * OUTPUTS)
        if WRITE == "masked" or WRITE == "sums":
            centred = tl.load(out_z_ptr + start + offset, mask=mask, other=0.0).to(SUMS) - out_mean
            if WRITE == "masked":
                out = tl.where(centred * out_scale + out_shift > 0, out, out * SLOPE)
        stored = out.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + start + offset, stored, mask=mask)

        # The sums are of the values that later kernels will read: rounded ones.
        out = tl.where(mask, stored.to(SUMS), 0.0)
        if WRITE == "statistics" or WRITE == "scores":
            # Chan's combination of block means: no difference of large sums (third holds the count so far).
            count = (tl.minimum(BLOCK_HEIGHT, out_height - top) * tl.minimum(BLOCK_WIDTH, out_width - left)).to(SUMS)
            tile_mean = tl.sum(out, 0) / count
            change = tile_mean - first
            both = third + count
            if WRITE == "scores":
                active = mask & (out * (1 - 2 * (group // runs)).to(SUMS) < 1)
                second += tl.sum(tl.where(active, 1.0, 0.0).to(SUMS), 0)
            else:
                deviation = tl.where(mask, out - tile_mean[None, :], 0.0)
                second += tl.sum(deviation * deviation, 0) + change * change * (third * count / both)
            first += change * (count / both)
            third = both
        if WRITE == "masked" or WRITE == "sums":
            first += tl.sum(out, 0)
            second += tl.sum(out * (centred * out_rstd), 0)
            if WRITE == "sums":
                gradient = tl.load(out_gradient_ptr + start + offset, mask=mask, other=0.0).to(SUMS)
                third += tl.sum(out * gradient, 0)

    if WRITE != "plain":
        row_ptr = sums_ptr + (group * programs + program) * 3 * OUTPUTS + co
        tl.store(row_ptr, first, mask=valid_out)
        tl.store(row_ptr + OUTPUTS, second, mask=valid_out)
        tl.store(row_ptr + 2 * OUTPUTS, third, mask=valid_out)
