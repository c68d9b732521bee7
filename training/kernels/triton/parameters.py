"""The critic's parameters as the kernels see them: one row of numbers per run, and weights packed by taps.

A row holds the parameters one after the other in the critic's order. With ``depth`` layers of ``C`` channels, layer
``l`` has its convolution at ``offset(l)``, a block's scale and shift right behind it; the last number is the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.kernels.triton.launch import cdiv, launch_kernel
from training.kernels.triton.optional import jit, tl

_BLOCK = 1024
IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Layout:
    """Where a parameter stands in a row.

    Attributes:
        channels: width of the critic.
        depth: number of convolutions.
    """

    channels: int
    depth: int

    @classmethod
    def of(cls, parameters: Sequence[Tensor]) -> Layout:
        """Of a critic's parameters.

        Raises:
            ValueError: they are not those of a :class:`training.networks.Discriminator`.
        """
        channels, depth = parameters[0].shape[0], (len(parameters) + 1) // 3
        shapes = [tuple(p.shape) for p in parameters]
        layout = cls(channels, depth)
        if shapes != layout.shapes():
            raise ValueError(
                f"expected the parameters of a Discriminator of {channels} channels, of shapes {layout.shapes()}, "
                f"got {shapes}; pass list(critic.parameters())"
            )
        return layout

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes in the critic's order."""
        c = self.channels
        blocks = [
            shape
            for layer in range(self.depth - 1)
            for shape in ((c, self.inputs(layer), 3, 3), (c,), (c,))
        ]  # fmt: skip
        return [*blocks, (1, c, 3, 3), (1,)]

    def inputs(self, layer: int) -> int:
        return IMAGE_CHANNELS if layer == 0 else self.channels

    def outputs(self, layer: int) -> int:
        return 1 if layer == self.depth - 1 else self.channels

    def size(self, layer: int) -> int:
        """Number of weights of a layer's convolution."""
        return 9 * self.inputs(layer) * self.outputs(layer)

    def offset(self, layer: int) -> int:
        """Where a layer's convolution begins."""
        return sum(self.size(before) + 2 * self.channels for before in range(layer))

    @property
    def total(self) -> int:
        return self.offset(self.depth - 1) + self.size(self.depth - 1) + 1

    @property
    def largest(self) -> int:
        """Number of weights of the largest convolution."""
        return max(map(self.size, range(self.depth)))

    @property
    def packed(self) -> int:
        """Length of a row of packed weights: padded, so that every run's are as well aligned as the first's."""
        return -(-self.total // 16) * 16

    def split(self, row: Tensor) -> list[Tensor]:
        """A row (total,) as views in the critic's order."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes()]
        return [part.view(shape) for part, shape in zip(row.split(sizes), self.shapes(), strict=True)]


def pack_reference(flat: Tensor, layout: Layout, norms: Tensor | None = None) -> Tensor:
    """The same in plain torch; what no weight fills is 0."""
    packed = flat.new_zeros(len(flat), 2, layout.packed)
    for run, row in enumerate(flat):
        for layer in range(layout.depth):
            begin = layout.offset(layer)
            weight = layout.split(row)[3 * layer]
            if norms is not None:
                weight = weight / norms[run, layer]
            forward = weight.permute(2, 3, 1, 0).reshape(-1)
            backward = weight.flip(2, 3).permute(2, 3, 0, 1).reshape(-1)
            packed[run, :, begin : begin + layout.size(layer)] = torch.stack([forward, backward])
    return packed


def pack(flat: Tensor, layout: Layout, norms: Tensor | None = None) -> Tensor:
    """Weights in the order in which a convolution reads them.

    Args:
        flat: (runs, total).
        norms: (runs, depth), what each convolution's weights are divided by.

    Returns:
        (runs, 2, packed): at a layer's offset, [0] its weights as (9, C, C') for the passes forward, [1] flipped as
        (9, C', C) for the passes back.
    """
    packed = flat.new_empty(len(flat), 2, layout.packed)
    launch_kernel(
        pack_kernel, (cdiv(layout.largest, _BLOCK), layout.depth, len(flat)),
        flat, flat if norms is None else norms, packed,
        CHANNELS=layout.channels, DEPTH=layout.depth, TOTAL=layout.total, PACKED=layout.packed,
        DIVIDE=norms is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return packed


@jit
def layer_place(layer, CHANNELS: tl.constexpr, DEPTH: tl.constexpr):
    """Layout.inputs, outputs and offset of a layer, in a kernel."""
    first = layer == 0
    inputs = tl.where(first, 3, CHANNELS)
    outputs = tl.where(layer == DEPTH - 1, 1, CHANNELS)
    offset = tl.where(first, 0, 29 * CHANNELS + (layer - 1) * (9 * CHANNELS * CHANNELS + 2 * CHANNELS))
    return inputs, outputs, offset


@jit
def pack_kernel(
    flat_ptr, norms_ptr, packed_ptr,
    CHANNELS: tl.constexpr, DEPTH: tl.constexpr, TOTAL: tl.constexpr, PACKED: tl.constexpr,
    DIVIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks, layers, runs)."""
    layer = tl.program_id(1)
    run = tl.program_id(2).to(tl.int64)
    inputs, outputs, offset = layer_place(layer, CHANNELS, DEPTH)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = number < 9 * inputs * outputs
    co = number // (9 * inputs)
    ci = number // 9 % inputs
    tap = number % 9
    weight = tl.load(flat_ptr + run * TOTAL + offset + number, mask=mask, other=0.0)
    if DIVIDE:
        weight /= tl.load(norms_ptr + run * DEPTH + layer)
    start = packed_ptr + run * 2 * PACKED + offset
    tl.store(start + (tap * inputs + ci) * outputs + co, weight, mask=mask)
    tl.store(start + PACKED + ((8 - tap) * outputs + co) * inputs + ci, weight, mask=mask)
