"""The numbers of several discriminators in one row each, in the order in which the kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from task_losses.discriminator import FrozenDiscriminator


class Packed:
    """Weights of discriminators of one width.

    Attributes:
        flat: (discriminators, numbers): of each layer its kernels, (inputs, 9, outputs) of the first and (9, inputs,
            outputs) of the others, then its bias.
        made_of: the tensors and their versions, by which a change is noticed.
    """

    def __init__(self, discriminators: Sequence[FrozenDiscriminator]) -> None:
        self.made_of = _identity(discriminators)
        rows = [torch.cat([part for layer in _layers(one) for part in layer]) for one in discriminators]
        self.flat = torch.stack(rows)
        self._starts = [0]
        for weight, bias in discriminators[0].layers():
            self._starts.append(self._starts[-1] + weight.numel() + bias.numel())

    def layer(self, number: int, rows: slice) -> Tensor:
        """(discriminators, numbers) of a layer, from 1."""
        return self.flat[rows, self._starts[number - 1] : self._starts[number]]

    def is_of(self, discriminators: Sequence[FrozenDiscriminator]) -> bool:
        now = _identity(discriminators)
        return len(now) == len(self.made_of) and all(
            a is b and m == n for (a, m), (b, n) in zip(now, self.made_of, strict=True)
        )


def _layers(discriminator: FrozenDiscriminator) -> list[tuple[Tensor, Tensor]]:
    (first, bias), *others = discriminator.layers()
    packed = [(first.permute(1, 2, 3, 0).reshape(-1), bias)]
    return packed + [(weight.permute(2, 3, 1, 0).reshape(-1), bias) for weight, bias in others]


def _identity(discriminators: Sequence[FrozenDiscriminator]) -> list[tuple[Tensor, int]]:
    # By the dictionary of buffers, since getattr of a module takes a microsecond for each of 80 tensors.
    tensors = (tensor for one in discriminators for tensor in one._buffers.values() if tensor is not None)
    return [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


_packed: WeakKeyDictionary[FrozenDiscriminator, dict[int, Packed]] = WeakKeyDictionary()


def packed(discriminators: Sequence[FrozenDiscriminator]) -> Packed:
    """The row of each discriminator, made once, and anew if a tensor has been replaced or changed."""
    of_finest = _packed.setdefault(discriminators[-1], {})
    known = of_finest.get(len(discriminators))
    if known is None or not known.is_of(discriminators):
        with torch.no_grad():
            known = of_finest[len(discriminators)] = Packed(discriminators)
    return known
