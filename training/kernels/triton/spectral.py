"""Spectral normalisation of all convolutions at once: the norms and their derivatives, and gradients through them.

A weight as a matrix W of a row an output has the Gram matrix W W^T. Squared often enough it becomes a multiple of the
projection P onto the largest singular vector; the norm is sqrt(sum of P W times W), its derivative P W / norm
(training.objectives.top_projectors). No host waits for a device here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.kernels.operations import Operations
from training.kernels.triton.configs import MOST_REGISTERS
from training.kernels.triton.launch import cdiv, kernel_dtype, launch_kernel, padded
from training.kernels.triton.optional import jit, tl
from training.kernels.triton.parameters import Layout, layer_place
from training.objectives import SQUARINGS

_COLUMNS = 16  # of a weight that a program multiplies at once; more spill
_BLOCK = 1024  # weights of a program
_SQUARINGS_AT_ONCE = 3  # before the trace is made 1 again, or the largest entry, at least 1 / C, could underflow


class Units(NamedTuple):
    """What divides the weights.

    Attributes:
        norms: largest singular values, (runs, depth).
        projected: P W, the norms times their derivatives by the weights, at the weights' places in (runs, total).
    """

    norms: Tensor
    projected: Tensor


def units_reference(flat: Tensor, layout: Layout) -> Units:
    """The same in plain torch."""
    units = [Operations().units(layout.split(row)[::3]) for row in flat]
    projected = torch.zeros_like(flat)
    for row, of_run in zip(projected, units, strict=True):
        for place, unit in zip(layout.split(row)[::3], of_run, strict=True):
            place.copy_(unit.direction * unit.norm)
    return Units(torch.stack([torch.stack([unit.norm for unit in of_run]) for of_run in units]), projected)


def units(flat: Tensor, layout: Layout) -> Units:
    """Spectral norms of all convolutions.

    Args:
        flat: (runs, total).
    """
    result = Units(flat.new_empty(len(flat), layout.depth), torch.empty_like(flat))
    launch_kernel(
        units_kernel, (layout.depth, len(flat)), flat, *result,
        CHANNELS=layout.channels, DEPTH=layout.depth, TOTAL=layout.total, OUTPUT_BLOCK=padded(layout.channels),
        COLUMNS=_COLUMNS, ROUNDS=SQUARINGS // _SQUARINGS_AT_ONCE, SQUARINGS=_SQUARINGS_AT_ONCE,
        # Three products of TF32's numbers for one of float32's, nearly as exact: a program squares alone, which without
        # tensor cores would take its multiprocessor at least 18 * 64^3 / 128 = 37 000 cycles at 64 channels.
        PRECISION="tf32x3", SUMS=kernel_dtype(flat.dtype),
        warps=4 if layout.channels <= 32 else 8, registers=MOST_REGISTERS,
    )  # fmt: skip
    return result


@jit
def units_kernel(
    flat_ptr, norms_ptr, projected_ptr,
    CHANNELS: tl.constexpr, DEPTH: tl.constexpr, TOTAL: tl.constexpr, OUTPUT_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr, ROUNDS: tl.constexpr, SQUARINGS: tl.constexpr,
    PRECISION: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (layers, runs)."""
    layer = tl.program_id(0)
    run = tl.program_id(1).to(tl.int64)
    inputs, outputs, offset = layer_place(layer, CHANNELS, DEPTH)
    columns = 9 * inputs
    row = tl.arange(0, OUTPUT_BLOCK)
    column = tl.arange(0, COLUMNS)
    place = run * TOTAL + offset + row[:, None] * columns + column[None, :]
    diagonal = row[:, None] == row[None, :]

    gram = tl.zeros((OUTPUT_BLOCK, OUTPUT_BLOCK), SUMS)
    for start in tl.range(0, columns, COLUMNS, num_stages=1):
        mask = (row < outputs)[:, None] & (start + column < columns)[None, :]
        weight = tl.load(flat_ptr + place + start, mask=mask, other=0.0)
        gram = tl.dot(weight, tl.trans(weight), gram, input_precision=PRECISION, out_dtype=SUMS)
    power = gram / tl.sum(tl.where(diagonal, gram, 0.0))
    for _ in tl.range(0, ROUNDS, num_stages=1):
        for _ in tl.static_range(SQUARINGS):
            power = tl.dot(power, power, input_precision=PRECISION, out_dtype=SUMS)
        power /= tl.sum(tl.where(diagonal, power, 0.0))
    products = tl.zeros((OUTPUT_BLOCK, COLUMNS), SUMS)
    for start in tl.range(0, columns, COLUMNS, num_stages=1):
        mask = (row < outputs)[:, None] & (start + column < columns)[None, :]
        weight = tl.load(flat_ptr + place + start, mask=mask, other=0.0)
        projected = tl.dot(power, weight, input_precision=PRECISION, out_dtype=SUMS)
        tl.store(projected_ptr + place + start, projected, mask=mask)
        products += projected * weight
    tl.store(norms_ptr + run * DEPTH + layer, tl.sqrt(tl.sum(products)))


def through_norms_reference(by_unit: Tensor, flat: Tensor, units: Units, gradients: Tensor, layout: Layout) -> None:
    """The same in plain torch."""
    for run in range(len(flat)):
        rows = [layout.split(tensor[run])[::3] for tensor in (by_unit, flat, units.projected, gradients)]
        for (g, weight, projected, result), norm in zip(zip(*rows, strict=True), units.norms[run], strict=True):
            result.copy_((g - (g * weight).sum() / norm.square() * projected) / norm)


def through_norms(by_unit: Tensor, flat: Tensor, units: Units, gradients: Tensor, layout: Layout) -> None:
    """From the gradients by the weights that act, those by the weights themselves.

    Args:
        by_unit, flat: (runs, total): gradients by the weights divided by their norms, and parameters.
        gradients: (runs, total), gets the gradients of all convolutions' weights.
    """
    launch_kernel(
        through_norms_kernel, (cdiv(layout.largest, _BLOCK), layout.depth, len(flat)),
        by_unit, flat, *units, gradients,
        CHANNELS=layout.channels, DEPTH=layout.depth, TOTAL=layout.total, BLOCK=_BLOCK, SUMS=kernel_dtype(flat.dtype),
    )  # fmt: skip


@jit
def through_norms_kernel(
    by_unit_ptr, flat_ptr, norms_ptr, projected_ptr, gradients_ptr,
    CHANNELS: tl.constexpr, DEPTH: tl.constexpr, TOTAL: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of numbers, layers, runs): each program adds up the whole layer's product by itself."""
    layer = tl.program_id(1)
    run = tl.program_id(2).to(tl.int64)
    inputs, outputs, offset = layer_place(layer, CHANNELS, DEPTH)
    size = 9 * inputs * outputs
    place = run * TOTAL + offset + tl.arange(0, BLOCK)
    number = tl.arange(0, BLOCK)
    products = tl.zeros((BLOCK,), SUMS)
    for start in tl.range(0, size, BLOCK, num_stages=1):
        mask = start + number < size
        by_unit = tl.load(by_unit_ptr + place + start, mask=mask, other=0.0)
        products += by_unit * tl.load(flat_ptr + place + start, mask=mask, other=0.0)
    norm = tl.load(norms_ptr + run * DEPTH + layer)
    start = tl.program_id(0) * BLOCK
    mask = start + number < size
    by_unit = tl.load(by_unit_ptr + place + start, mask=mask, other=0.0)
    projected = tl.load(projected_ptr + place + start, mask=mask, other=0.0)
    along = tl.sum(products, 0) / (norm * norm)
    tl.store(gradients_ptr + place + start, (by_unit - along * projected) / norm, mask=mask)
