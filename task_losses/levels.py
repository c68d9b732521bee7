"""Which discriminators take part, and which level of the pyramid each of them sees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from task_losses.architecture import Architecture
from task_losses.discriminator import FrozenDiscriminator
from task_losses.distance import Level
from task_losses.pyramid import level_size


class Selection(NamedTuple):
    """The chosen scales of an architecture, in ascending order, and what they see: see :class:`TaskLoss`."""

    architecture: Architecture
    scales: tuple[int, ...]
    resolution: str

    def discriminators(self, layers: Iterable[Sequence[tuple[Tensor, Tensor]]]) -> list[FrozenDiscriminator]:
        """Those of the chosen scales, from (weight, bias) of each convolution of each."""
        return [
            FrozenDiscriminator(of_scale, self.architecture.terms(scale))
            for scale, of_scale in zip(self.scales, layers, strict=True)
        ]

    def levels(self, size: tuple[int, int], discriminators: Sequence[FrozenDiscriminator]) -> list[Level]:
        """The levels that images of a size have, coarsest first; those too small for a discriminator drop out.

        Args:
            size: height and width of the images.
            discriminators: of the chosen scales.

        Raises:
            ValueError: no level is large enough.
        """
        levels = []
        for scale, discriminator in zip(self.scales, discriminators, strict=True):
            of_level = level_size(size, self.architecture.ratio, self._steps_down(scale))
            if all(side >= self.architecture.receptive_field for side in of_level):
                levels.append(Level(scale, of_level, discriminator))
        if not levels:
            raise ValueError(
                f"images of {size[0]} x {size[1]} are too small: the finest chosen scale, {max(self.scales)}, needs "
                f"sides of at least {self.smallest_side} pixels; use larger patches or finer scales"
            )
        return levels

    def _steps_down(self, scale: int) -> int:
        # The finest discriminator sees the image itself, each coarser one a level further down.
        return self.architecture.scales - 1 - scale if self.resolution == "pyramid" else 0

    @property
    def smallest_side(self) -> int:
        """Pixels that an image needs, in height and width, so that the finest chosen scale can judge it."""
        field = self.architecture.receptive_field
        return math.ceil((field - 0.5) / self.architecture.ratio ** self._steps_down(max(self.scales)))
