"""The numbers of several discriminators in one row each, in the order in which the kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from task_losses.constants import ByWeights
from task_losses.discriminator import FrozenDiscriminator


@dataclass(frozen=True)
class Packed:
    """Weights of discriminators of one width.

    Attributes:
        flat: (discriminators, numbers): of each layer its kernels, (inputs, 9, outputs) of the first and (9, inputs,
            outputs) of the others, then its bias.
        starts: where each layer begins, and the end.
    """

    flat: Tensor
    starts: tuple[int, ...]

    def layer(self, number: int, rows: slice) -> Tensor:
        """(discriminators, numbers) of a layer, from 1."""
        return self.flat[rows, self.starts[number - 1] : self.starts[number]]


_packed = ByWeights()


def packed(discriminators: Sequence[FrozenDiscriminator]) -> Packed:
    """Made once, and anew if a tensor has been replaced or written to."""
    # By the dictionary of buffers, since getattr of a module takes half a microsecond for each of 80 tensors.
    sources = [tensor for one in discriminators for tensor in one._buffers.values() if tensor is not None]
    return _packed.get(discriminators[-1], len(discriminators), sources, lambda: _pack(discriminators))


def _pack(discriminators: Sequence[FrozenDiscriminator]) -> Packed:
    rows = [torch.cat([part for layer in _layers(one) for part in layer]) for one in discriminators]
    sizes = [weight.numel() + bias.numel() for weight, bias in discriminators[0].layers()]
    return Packed(torch.stack(rows), (0, *accumulate(sizes)))


def _layers(discriminator: FrozenDiscriminator) -> list[tuple[Tensor, Tensor]]:
    (first, bias), *others = discriminator.layers()
    packed = [(first.permute(1, 2, 3, 0).reshape(-1), bias)]
    return packed + [(weight.permute(2, 3, 1, 0).reshape(-1), bias) for weight, bias in others]
