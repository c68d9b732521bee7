"""All terms of joined discriminators at once, since an operation on several tensors costs one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from task_losses.constants import BySize
from task_losses.terms import BLOCK, LEAST_STRENGTH, WINDOW, Difference, Texture, add_by_slopes

Size = tuple[int, int]


class Part(NamedTuple):
    """What is to be compared: a term of a tap.

    Attributes:
        weights: of the term, one for each part of the map; 0 where a part does not have it.
        pair: outputs of the tap, (2N, parts * C, H, W): of N images to judge and then of their references.
        inner: sizes of the parts' maps, outside of which nothing counts.
    """

    weights: Sequence[float]
    term: Difference | Texture
    pair: Tensor
    inner: Sequence[Size]


class Compared(NamedTuple):
    """A term's distances (N,), and their derivative over the term's exponent.

    Attributes:
        derivative: by the tap's output; or by the strength of windows, over that strength.
        of_means: of windows, ``derivative`` times their means.
    """

    exponent: float
    distance: Tensor
    derivative: Tensor
    of_means: Tensor | None = None

    def added(self, output: Tensor, into: Tensor | None) -> Tensor:
        """The gradient by the output, added to ``into`` in place where that is given."""
        if self.of_means is not None:
            gradient = torch.zeros_like(output) if into is None else into
            add_by_slopes(gradient, self.derivative, self.of_means, output, self.exponent)
            return gradient
        if into is not None:
            return into.add_(self.derivative, alpha=self.exponent)
        return self.derivative if self.exponent == 1 else self.derivative.mul_(self.exponent)


def compare(parts: Sequence[Part], groups: int) -> list[Compared]:
    """Called without gradient recording.

    Args:
        parts: differences, then textures, of maps that hold a window at least.
        groups: parts of a map.
    """
    if not parts:
        return []
    count = sum(isinstance(part.term, Difference) for part in parts)  # the textures begin here
    strengths, means = _strengths([part.pair for part in parts[count:]])
    firsts, seconds = _halves([*(part.pair for part in parts[:count]), *strengths])
    apart = [d.view(len(d), groups, -1, *d.shape[2:]) for d in torch._foreach_sub(firsts, seconds)]
    # A mean of |d|^p is, up to the p, the sum of d times its derivative.
    slopes = list(apart)
    if absolute := [index for index, part in enumerate(parts) if part.term.exponent == 1]:
        for index, sign in zip(absolute, torch._foreach_sign([apart[index] for index in absolute]), strict=True):
            slopes[index] = sign
    derivatives = [slope * _shares(part.inner, part.weights, slope) for slope, part in zip(slopes, parts, strict=True)]
    torch._foreach_mul_(apart, derivatives)
    distances = [products.sum(dim=(1, 2, 3, 4)) for products in apart]
    derivatives = [derivative.flatten(1, 2) for derivative in derivatives]
    of_means: list[Tensor | None] = [None] * count
    if of_windows := derivatives[count:]:
        torch._foreach_div_(of_windows, firsts[count:])
        of_means += torch._foreach_mul(of_windows, _halves(means)[0])
    exponents = [part.term.exponent for part in parts]
    return [Compared(*of) for of in zip(exponents, distances, derivatives, of_means, strict=True)]


def inner_sizes(sizes: Sequence[Size], tap: int, term: Difference | Texture) -> list[Size]:
    """Of each part what a term compares: features of a tap, or windows of them.

    Args:
        sizes: of the parts' images.
    """
    inner = [(height - 2 * tap, width - 2 * tap) for height, width in sizes]
    if isinstance(term, Difference):
        return inner
    return [(max(0, height // BLOCK - 1), max(0, width // BLOCK - 1)) for height, width in inner]


def _strengths(maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """As :func:`task_losses.terms.strength`, of several maps: strengths, and means of the windows.

    A window's variance is one operation where averages take four. It reads each feature four times, as averages over
    windows do.
    """
    if not maps:
        return [], []
    windows = (map_.unfold(2, WINDOW, BLOCK).unfold(3, WINDOW, BLOCK) for map_ in maps)
    variances, means = zip(*(torch.var_mean(of, dim=(4, 5), correction=0) for of in windows), strict=True)
    torch._foreach_add_(variances, LEAST_STRENGTH**2)
    torch._foreach_sqrt_(variances)
    return list(variances), list(means)


def _halves(pairs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Of images to judge, and of their references."""
    counts = [len(pair) // 2 for pair in pairs]
    return (
        [pair[:count] for pair, count in zip(pairs, counts, strict=True)],
        [pair[count:] for pair, count in zip(pairs, counts, strict=True)],
    )


def _shares(inner: Sequence[Size], weights: Sequence[float], like: Tensor) -> Tensor:
    """What each difference weighs in the mean: (parts, 1, H, W), zero outside of the parts' own sizes."""
    channels, height, width = like.shape[2:]
    key = (tuple(inner), tuple(weights), channels, height, width, like.dtype, like.device)

    def make() -> Tensor:
        shares = torch.zeros(len(inner), 1, height, width, dtype=torch.float64)
        for share, (h, w), weight in zip(shares, inner, weights, strict=True):
            if h and w:
                share[:, :h, :w] = weight / (channels * h * w)
        return shares.to(like.device, like.dtype)

    return _CONSTANTS.get(key, make)


_CONSTANTS = BySize()
