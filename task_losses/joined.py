"""Several levels at once, for devices on which starting an operation costs more than what it computes.

The discriminators of a group become one network of as many groups of channels, and their images, filled up with zeros
to the largest, one image of as many channels. Features that see what was filled up take no part in the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from task_losses.architecture import Weighted
from task_losses.constants import BySize
from task_losses.discriminator import FROM_WEIGHTS, FrozenDiscriminator
from task_losses.terms import BLOCK, Difference, Texture, add_by_strength, strength

Size = tuple[int, int]

# A group takes about 30 launches of 5 us, both ways, and a pixel of one image through the layers about 1 ns by the
# bytes that it moves on an H100. So a group saved is worth so many pixels of padding. Estimated, not measured.
WORTH_OF_A_GROUP = 150_000
LARGEST = 512  # pixels a side of images whose levels are made at once: the products are dense


class JoinedDiscriminators(FrozenDiscriminator):
    """Discriminators of one shape as one network. What their image itself adds to the distance is left out.

    Args:
        parts: they agree in layers, taps above 0 and distance.
    """

    def __init__(self, parts: Sequence[FrozenDiscriminator]) -> None:
        layers = [
            (torch.cat([weight for weight, _ in same]), torch.cat([bias for _, bias in same]))
            for same in zip(*(part.layers() for part in parts), strict=True)
        ]
        super().__init__(layers, {tap: terms for tap, terms in parts[0].terms.items() if tap > 0})
        self.groups = len(parts)

    @classmethod
    def of(cls, parts: Sequence[FrozenDiscriminator]) -> JoinedDiscriminators:
        """Made once for the weights that the parts have now."""
        weights = [tensor for part in parts for layer in part.layers() for tensor in layer]
        return FROM_WEIGHTS.get(parts[0], tuple(map(id, parts)), weights, lambda: cls(parts))

    def pair_distance_and_gradient(self, images: Tensor, sizes: Sequence[Size]) -> tuple[Tensor, Tensor]:
        """The parts' distances, added up, and their gradient. Called without gradient recording.

        Args:
            images: (2N, 3 * parts, H, W): N images to judge, then their references, as ``resize_levels`` makes them.
            sizes: height and width of each part's image.

        Returns:
            (N,) distances and a gradient (N, 3 * parts, H, W) that is zero outside of each part's image.
        """
        count = len(images) // 2
        pairs = [images, *self._outputs(images)]
        outputs = [pair[:count] for pair in pairs]
        compared = [pairs[tap] for tap in self.taps]
        del pairs

        def compare(_: Tensor, pair: Tensor, tap: int, into: Tensor | None) -> tuple[Tensor, Tensor]:
            inner = [(height - 2 * tap, width - 2 * tap) for height, width in sizes]
            total, gradient = None, into
            for weighted in self.terms[tap]:
                distance, gradient = self._of_term(weighted, pair, inner, gradient)
                total = distance if total is None else total + distance
            assert total is not None
            assert gradient is not None
            return total, gradient

        return self._walk_back(outputs, compared, compare)

    def _of_term(
        self, weighted: Weighted, pair: Tensor, inner: Sequence[Size], into: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A term's distances and their derivative, added to ``into``.

        Args:
            pair: outputs of a layer, of images to judge and then of their references.
            inner: sizes of the parts' maps.
        """
        weight, term = weighted
        if isinstance(term, Difference):
            distance, by_output = self._difference(pair, inner, weight, term.exponent)
            return distance, by_output if into is None else into.add_(by_output)
        assert isinstance(term, Texture)
        output = pair[: len(pair) // 2]
        gradient = torch.zeros_like(output) if into is None else into
        if not term.fits((pair.shape[2], pair.shape[3])):
            return output.new_zeros(len(output)), gradient
        strengths, means = strength(pair)
        windows = [(max(0, h // BLOCK - 1), max(0, w // BLOCK - 1)) for h, w in inner]
        distance, by_strength = self._difference(strengths, windows, weight, term.exponent)
        add_by_strength(gradient, by_strength, output, strengths[: len(output)], means[: len(output)])
        return distance, gradient

    def _difference(self, pair: Tensor, inner: Sequence[Size], weight: float, exponent: float) -> tuple[Tensor, Tensor]:
        x, y = pair.chunk(2)
        difference = (x - y).view(len(x), self.groups, -1, *x.shape[2:])
        # A mean of |d|^p is, up to the p, the sum of d times its derivative.
        shares = _shares(inner, weight * exponent, difference)
        derivative = (difference.sign() if exponent == 1 else difference) * shares
        return difference.mul_(derivative).sum(dim=(1, 2, 3, 4)) / exponent, derivative.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


def joinable(one: FrozenDiscriminator, other: FrozenDiscriminator) -> bool:
    """Whether two can be parts of one network. A subclass may compare in its own way."""
    return type(one) is type(other) is FrozenDiscriminator and one.form == other.form


@lru_cache
def groups(sizes: tuple[Size, ...], apart: tuple[bool, ...], images: int, worth: int) -> list[range]:
    """Which neighbouring levels to join, so that launches and padding together cost least.

    A group keeps the features of all its levels, of predictions and references, until its gradient is made. So it may
    have twice ``worth`` pixels at most.

    Args:
        sizes: of the levels.
        apart: whether a level cannot be joined to the one before it.
        images: at each level.
        worth: pixels of padding that are as dear as the launches of a group.
    """
    best: list[tuple[float, list[range]]] = [(0.0, [])]
    for stop in range(1, len(sizes) + 1):
        options = []
        for start in range(stop - 1, -1, -1):
            height, width = (max(sides) for sides in zip(*sizes[start:stop], strict=True))
            pixels = images * height * width * (stop - start)
            if start < stop - 1 and pixels > 2 * worth:  # a bound of the memory that a group takes
                break
            options.append((best[start][0] + worth + pixels, [*best[start][1], range(start, stop)]))
            if apart[start]:
                break
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def _shares(inner: Sequence[Size], factor: float, like: Tensor) -> Tensor:
    """What each difference weighs in the derivative: (parts, 1, H, W), zero outside of the parts' own sizes."""
    channels, height, width = like.shape[2:]
    key = (tuple(inner), factor, channels, height, width, like.dtype, like.device)

    def make() -> Tensor:
        shares = torch.zeros(len(inner), 1, height, width, dtype=torch.float64)
        for share, (h, w) in zip(shares, inner, strict=True):
            if h and w:
                share[:, :h, :w] = factor / (channels * h * w)
        return shares.to(like.device, like.dtype)

    return _CONSTANTS.get(key, make)


_CONSTANTS = BySize()
