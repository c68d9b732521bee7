"""Gradient of a 3x3 convolution's weight: dW[tap] = sum over pixels of input[pixel + tap] * gradient[pixel].

One launch adds the terms that a layer's weight gets in the critic's step: the loss's own, and a penalty's (tangent of
the input times the input-gradient pass's gradient). Each is given by two prologues, so neither activations nor
gradients are ever stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from task_losses.architecture import SLOPE
from training.kernels.triton.configs import MOST_REGISTERS, Numerics, Tiles
from training.kernels.triton.launch import kernel_dtype, launch_kernel, padded
from training.kernels.triton.optional import jit, tl
from training.kernels.triton.prologue import Batch, Prologue, load_coefficients, load_values, seed_value

_INTEGERS = [
    "height", "width", "images", "runs", "row_stride", "run_stride",
    "total", "first_tangent", "norms", "gradient_norms", "tangent_total", "tangent_norms", "tangent_gradient_norms",
]  # fmt: skip

Pair = tuple[Prologue, Prologue]  # input (B, H, W, C) and gradient (B, H - 2, W - 2, C')


def wgrad_reference(loss: Pair, penalty: Pair | None, batch: Batch, numerics: Numerics) -> Tensor:
    """The same in plain torch: (runs, C', C, 3, 3)."""
    result = None
    for pair in (loss,) if penalty is None else (loss, penalty):
        x, gradient = (p.values(batch, numerics.sums) for p in pair)
        run = torch.arange(len(x)) // batch.images % batch.runs
        windows = x.unfold(1, 3, 1).unfold(2, 3, 1)
        each = torch.stack(
            [torch.einsum("bhwo,bhwikl->oikl", gradient[run == r], windows[run == r]) for r in range(batch.runs)]
        )
        result = each if result is None else result + each
    assert result is not None
    return result


def wgrad(
    loss: Pair, penalty: Pair | None, partial: Tensor, offset: int, batch: Batch, numerics: Numerics, tiles: Tiles
) -> None:
    """Writes partial sums of a weight's gradient; fold_weights adds them.

    Args:
        loss: the loss's own term: prologues of the layer's input and of the gradient by its output.
        penalty: the penalty's term: tangent of the input, and gradient of the input-gradient pass. May cover fewer
            images, the last ones. None: there is no penalty.
        partial: (runs, programs, numbers): row ``p`` of a run gets program p's share of the weight's (C', C, 3, 3)
            numbers, from ``offset`` on.
    """
    (x, gradient), (tangent, tangent_gradient) = loss, penalty or (_NOTHING, _NOTHING)
    _, height, width, inputs = x.shape
    outputs = gradient.shape[3]
    unused = partial
    launch_kernel(
        wgrad_kernel,
        (partial.shape[1], 3, batch.runs),
        *_without_tangent(x, unused),
        *gradient.pointers(unused),
        *_without_tangent(tangent, unused),
        *_without_tangent(tangent_gradient, unused),
        partial[..., offset:],
        height,
        width,
        batch.images,
        batch.runs,
        partial.stride(1),
        partial.stride(0),
        x.shape[0],
        gradient.first_tangent,
        x.groups,
        gradient.groups,
        tangent.shape[0],
        tangent.groups,
        tangent_gradient.groups,
        **constants(inputs, outputs, (x.kind, gradient.kind), (tangent.kind, tangent_gradient.kind), numerics, tiles),
    )


def constants(
    inputs: int, outputs: int, loss: tuple[str, str], penalty: tuple[str, str], numerics: Numerics, tiles: Tiles
) -> dict[str, Any]:
    """The compile-time arguments of a launch, and its options."""
    return {
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "INPUT_BLOCK": padded(inputs),
        "OUTPUT_BLOCK": padded(outputs),
        "BLOCK_HEIGHT": tiles.height,
        "BLOCK_WIDTH": tiles.width,
        "READ": loss[0],
        "GRADIENT": loss[1],
        "TANGENT": penalty[0],
        "TANGENT_GRADIENT": penalty[1],
        "SLOPE": SLOPE,
        "OPERAND": kernel_dtype(torch.bfloat16 if numerics.dot == "bf16" else numerics.sums),
        "PRECISION": "tf32" if numerics.dot == "tf32" else "ieee",
        "SUMS": kernel_dtype(numerics.sums),
        "warps": tiles.warps,
        "registers": MOST_REGISTERS,
    }


_NOTHING = Prologue("nothing", (0,))


def _without_tangent(prologue: Prologue, unused: Tensor) -> tuple[Tensor, ...]:
    raw, z, _, _, norm, line = prologue.pointers(unused)
    return raw, z, norm, line


@jit(do_not_specialize=_INTEGERS)
def wgrad_kernel(
    raw_ptr, z_ptr, norm_ptr, line_ptr,
    g_raw_ptr, g_z_ptr, g_tangent_ptr, g_gradient_ptr, g_norm_ptr, g_line_ptr,
    t_raw_ptr, t_z_ptr, t_norm_ptr, t_line_ptr,
    tg_raw_ptr, tg_z_ptr, tg_norm_ptr, tg_line_ptr,
    partial_ptr,
    height, width, images, runs, row_stride, run_stride,
    total, first_tangent, norms, gradient_norms, tangent_total, tangent_norms, tangent_gradient_norms,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, INPUT_BLOCK: tl.constexpr, OUTPUT_BLOCK: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    READ: tl.constexpr, GRADIENT: tl.constexpr, TANGENT: tl.constexpr, TANGENT_GRADIENT: tl.constexpr,
    SLOPE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (programs, 3, runs): a program sums one row of taps over its share of the run's tiles."""
    tap_row = tl.program_id(1)
    run = tl.program_id(2)
    left = tl.zeros((INPUT_BLOCK, OUTPUT_BLOCK), SUMS)
    centre = tl.zeros((INPUT_BLOCK, OUTPUT_BLOCK), SUMS)
    right = tl.zeros((INPUT_BLOCK, OUTPUT_BLOCK), SUMS)
    left, centre, right = _accumulate(
        left, centre, right, raw_ptr, z_ptr, norm_ptr, line_ptr,
        g_raw_ptr, g_z_ptr, g_tangent_ptr, g_gradient_ptr, g_norm_ptr, g_line_ptr,
        height, width, images, runs, total, first_tangent, norms, gradient_norms,
        INPUTS, OUTPUTS, INPUT_BLOCK, OUTPUT_BLOCK, BLOCK_HEIGHT, BLOCK_WIDTH,
        READ, GRADIENT, SLOPE, OPERAND, PRECISION, SUMS,
    )  # fmt: skip
    if TANGENT != "nothing":
        left, centre, right = _accumulate(
            left, centre, right, t_raw_ptr, t_z_ptr, t_norm_ptr, t_line_ptr,
            tg_raw_ptr, tg_z_ptr, tg_raw_ptr, tg_raw_ptr, tg_norm_ptr, tg_line_ptr,
            height, width, images, runs, tangent_total, first_tangent, tangent_norms, tangent_gradient_norms,
            INPUTS, OUTPUTS, INPUT_BLOCK, OUTPUT_BLOCK, BLOCK_HEIGHT, BLOCK_WIDTH,
            TANGENT, TANGENT_GRADIENT, SLOPE, OPERAND, PRECISION, SUMS,
        )  # fmt: skip

    ci = tl.arange(0, INPUT_BLOCK)[:, None]
    co = tl.arange(0, OUTPUT_BLOCK)[None, :]
    mask = (ci < INPUTS) & (co < OUTPUTS)
    row_ptr = partial_ptr + run.to(tl.int64) * run_stride + tl.program_id(0).to(tl.int64) * row_stride
    numbers = row_ptr + (co * INPUTS + ci) * 9 + tap_row * 3
    tl.store(numbers, left, mask=mask)
    tl.store(numbers + 1, centre, mask=mask)
    tl.store(numbers + 2, right, mask=mask)


@jit
def _accumulate(
    left, centre, right, raw_ptr, z_ptr, norm_ptr, line_ptr,
    g_raw_ptr, g_z_ptr, g_tangent_ptr, g_gradient_ptr, g_norm_ptr, g_line_ptr,
    height, width, images, runs, total, first_tangent, norms, gradient_norms,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, INPUT_BLOCK: tl.constexpr, OUTPUT_BLOCK: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    READ: tl.constexpr, GRADIENT: tl.constexpr,
    SLOPE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Adds one term: three taps of a row, over every ``programs``-th tile."""
    tap_row = tl.program_id(1)
    run = tl.program_id(2)
    out_height = height - 2
    out_width = width - 2
    tiles_across = tl.cdiv(out_width, BLOCK_WIDTH)
    tiles = tiles_across * tl.cdiv(out_height, BLOCK_HEIGHT)
    pixel = tl.arange(0, BLOCK_HEIGHT * BLOCK_WIDTH)
    ci = tl.arange(0, INPUT_BLOCK)
    co = tl.arange(0, OUTPUT_BLOCK)
    valid_in = ci < INPUTS
    valid_out = co < OUTPUTS
    per_kind = images * runs
    for step in tl.range(tl.program_id(0), tiles * (total // runs), tl.num_programs(0), num_stages=1):
        member = step // tiles
        tile = step % tiles
        lot = member // images * runs + run
        image = lot * images + member % images
        y = (tile // tiles_across) * BLOCK_HEIGHT + pixel // BLOCK_WIDTH
        x = (tile % tiles_across) * BLOCK_WIDTH + pixel % BLOCK_WIDTH
        inside = (y < out_height) & (x < out_width)

        mean, scale, shift, b, c, d, f = load_coefficients(
            g_norm_ptr, g_line_ptr, lot % gradient_norms, co, valid_out, OUTPUTS, GRADIENT
        )  # fmt: skip
        mask = inside[:, None] & valid_out[None, :]
        reached = mask
        if GRADIENT == "adjoint":
            reached = mask & ((co * 0 + image) >= first_tangent)[None, :]
        size = out_height * out_width * OUTPUTS
        start = image.to(tl.int64) * size
        behind = (image - first_tangent).to(tl.int64) * size
        gradient = load_values(
            g_raw_ptr + start, g_z_ptr + start, g_tangent_ptr + behind, g_gradient_ptr + behind,
            (y * out_width + x)[:, None] * OUTPUTS + co[None, :], mask, reached,
            seed_value(image, total, per_kind, images * out_height * out_width, GRADIENT, SUMS),
            mean, scale, shift, b, c, d, f, GRADIENT, SLOPE, SUMS,
        ).to(OPERAND)  # fmt: skip
        mean, scale, shift, b, c, d, f = load_coefficients(
            norm_ptr, line_ptr, lot % norms, ci, valid_in, INPUTS, READ
        )  # fmt: skip
        mask = inside[:, None] & valid_in[None, :]
        start = image.to(tl.int64) * (height * width * INPUTS)
        place = ((y + tap_row) * width + x)[:, None] * INPUTS + ci[None, :]
        for column in tl.static_range(3):
            values = load_values(
                raw_ptr + start, z_ptr + start, raw_ptr, raw_ptr, place + column * INPUTS, mask, mask, 0.0,
                mean, scale, shift, b, c, d, f, READ, SLOPE, SUMS,
            )  # fmt: skip
            turned = tl.trans(values.to(OPERAND))
            if column == 0:
                left = tl.dot(turned, gradient, left, input_precision=PRECISION, out_dtype=SUMS)
            if column == 1:
                centre = tl.dot(turned, gradient, centre, input_precision=PRECISION, out_dtype=SUMS)
            if column == 2:
                right = tl.dot(turned, gradient, right, input_precision=PRECISION, out_dtype=SUMS)
    return left, centre, right
