"""Several levels at once, for devices on which starting an operation costs more than what it computes.

The discriminators of a group become one network of as many groups of channels, and their images, filled up with zeros
to the largest, one image of as many channels. Features that see what was filled up take no part in the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from task_losses.architecture import Weighted
from task_losses.discriminator import FROM_WEIGHTS, FrozenDiscriminator
from task_losses.joined_terms import Part, compare, inner_sizes
from task_losses.terms import Difference, Texture

Size = tuple[int, int]

# A group takes about 30 launches of 5 us, both ways, and a pixel of one image through the layers about 1 ns by the
# bytes that it moves on an H100. So a group saved is worth so many pixels of padding. Estimated; on an H200 joining
# took 0.36 to 0.95 of the time launched from Python, and up to 2.1 times as long in a CUDA graph (docs/kernels.md).
WORTH_OF_A_GROUP = 150_000
LARGEST = 512  # pixels a side of images whose levels are made at once: the products are dense


class WeightedTerm(NamedTuple):
    """A term of a tap, and its weight in each part: none where a part does not have it."""

    tap: int
    term: Difference | Texture
    weights: list[float]


class JoinedDiscriminators(FrozenDiscriminator):
    """Discriminators of one shape as one network. What their image itself adds to the distance is left out.

    Args:
        parts: they agree in the shapes of their layers.
    """

    def __init__(self, parts: Sequence[FrozenDiscriminator]) -> None:
        layers = [
            (torch.cat([weight for weight, _ in same]), torch.cat([bias for _, bias in same]))
            for same in zip(*(part.layers() for part in parts), strict=True)
        ]
        found: dict[tuple[int, str], WeightedTerm] = {}
        for index, part in enumerate(parts):
            for tap, terms in part.terms.items():
                for weight, term in terms:
                    if tap > 0 and isinstance(term, (Difference, Texture)):
                        kind = (tap, repr(term))  # tuples of one exponent are equal
                        found.setdefault(kind, WeightedTerm(tap, term, [0.0] * len(parts))).weights[index] += weight
        self.weighted = [found[kind] for kind in sorted(found)]
        merged: dict[int, list[Weighted]] = {}
        for tap, known, weights in self.weighted:
            merged.setdefault(tap, []).append(Weighted(max(weights), known))
        super().__init__(layers, merged)
        self.groups = len(parts)

    @classmethod
    def of(cls, parts: Sequence[FrozenDiscriminator]) -> JoinedDiscriminators:
        """Made once for the weights that the parts have now."""
        weights = [tensor for part in parts for layer in part.layers() for tensor in layer]
        return FROM_WEIGHTS.get(parts[0], tuple(map(id, parts)), weights, lambda: cls(parts))

    def pair_distances_and_gradient(self, images: Tensor, sizes: Sequence[Size]) -> tuple[list[Tensor], Tensor]:
        """Distances of the parts, to be added up, and their gradient. Called without gradient recording.

        Args:
            images: (2N, 3 * parts, H, W): N images to judge, then their references, as ``resize_levels`` makes them.
            sizes: height and width of each part's image.

        Returns:
            (N,) distances, none where nothing fits, and a gradient (N, 3 * parts, H, W) that is zero outside of each
            part's image.
        """
        count = len(images) // 2
        pairs = [images, *self._outputs(images)]
        outputs = [pair[:count] for pair in pairs]
        parts = [
            (tap, Part(weights, term, pairs[tap], inner_sizes(sizes, tap, term)))
            for tap, term, weights in self.weighted
            if term.fits((pairs[tap].shape[2], pairs[tap].shape[3]))
        ]
        del pairs
        parts.sort(key=lambda part: isinstance(part[1].term, Texture))
        compared = compare([part for _, part in parts], self.groups)
        taps = [tap for tap, _ in parts]
        del parts

        def add(output: Tensor, tap: int, into: Tensor | None) -> Tensor:
            for of_tap, one in zip(taps, compared, strict=True):
                if of_tap == tap:
                    into = one.added(output, into)
            return torch.zeros_like(output) if into is None else into

        return [one.distance for one in compared], self._walk_back(outputs, add)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


def joinable(one: FrozenDiscriminator, other: FrozenDiscriminator) -> bool:
    """Whether two can be parts of one network. A subclass may compare in its own way."""
    return type(one) is type(other) is FrozenDiscriminator and one.shapes == other.shapes


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
