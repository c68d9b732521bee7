"""What the kernels compare, read off the terms of discriminators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

from task_losses.discriminator import FrozenDiscriminator
from task_losses.fused.configs import Level
from task_losses.terms import Difference, Periodic, Texture


class Period(NamedTuple):
    """Errors that repeat with a period of so many pixels, and the factor of their term."""

    pixels: int
    weight: float


@dataclass(frozen=True)
class Compared:
    """What levels compare.

    Attributes:
        differences, textures: layers, from 1, whose outputs are compared one by one, and by their strength in windows.
        exponent: of both: 2 or 1.
        texture_weight: factor of the textures.
        image_weight, image_exponent: of the image's own differences. Without a weight there are none.
        periods: in which errors of the image repeat.
    """

    differences: tuple[int, ...]
    textures: tuple[int, ...]
    exponent: float
    texture_weight: float = 1.0
    image_weight: float = 0.0
    image_exponent: float = 2.0
    periods: tuple[Period, ...] = ()

    @property
    def last(self) -> int:
        """The last layer that is compared."""
        return max(*self.differences, *self.textures, 0)

    def of_features(self) -> Compared:
        """Without what the image itself adds."""
        return replace(self, image_weight=0.0, image_exponent=2.0, periods=())

    def without_textures(self) -> Compared:
        return replace(self, textures=(), texture_weight=1.0)

    @cached_property
    def form(self) -> Compared:
        """Without what changes no kernel: factors, which are numbers in memory, and periods, which are arguments."""
        known = replace(self, texture_weight=1.0, image_weight=float(self.image_weight > 0))
        return replace(known, periods=tuple(Period(period.pixels, 1.0) for period in self.periods))


# Of the finest level's discriminator: those that it was asked with, and the answer. Reading terms takes 0.1 ms.
_known: WeakKeyDictionary[FrozenDiscriminator, tuple[list[FrozenDiscriminator], Compared | None]] = WeakKeyDictionary()


def compared(levels: Sequence[Level]) -> Compared | None:
    """Of all levels; None where the kernels do not know a term, or levels differ in more than that some have no texture
    and none but the finest the image's own terms."""
    *others, finest = (level.discriminator for level in levels)
    before, known = _known.get(finest, ([], None))
    if known is None or len(before) != len(others) or any(a is not b for a, b in zip(before, others, strict=True)):
        known = _read(others, finest)
        _known[finest] = others, known
    return known


def _read(coarser: Sequence[FrozenDiscriminator], finest_one: FrozenDiscriminator) -> Compared | None:
    *others, finest = map(_of, (*coarser, finest_one))
    if finest is None:
        return None
    textured = next((of for of in others if of is not None and of.textures), finest)
    whole = replace(finest, textures=textured.textures, texture_weight=textured.texture_weight)
    possible = (whole.of_features(), whole.of_features().without_textures())
    if whole.last == 0 or any(of not in possible for of in (*others, finest.of_features())):
        return None
    return whole


def compares_texture(level: Level) -> bool:
    return any(isinstance(term, Texture) for terms in level.discriminator.terms.values() for _, term in terms)


def _of(discriminator: FrozenDiscriminator) -> Compared | None:
    differences, textures, periods = list[int](), list[int](), list[Period]()
    exponents, texture_weights = set[float](), set[float]()
    image_weight, image_exponent = 0.0, 2.0
    for layer, terms in discriminator.terms.items():
        for weight, term in terms:
            if layer == 0 and isinstance(term, Difference) and not image_weight:
                image_weight, image_exponent = weight, term.exponent
            elif layer == 0 and isinstance(term, Periodic):
                periods.append(Period(term.period, weight))
            elif layer and isinstance(term, Difference) and weight == 1 and layer not in differences:
                differences.append(layer)
                exponents.add(term.exponent)
            elif 0 < layer < discriminator.depth and isinstance(term, Texture) and layer not in textures:
                textures.append(layer)
                exponents.add(term.exponent)
                texture_weights.add(weight)
            else:
                return None
    if len(exponents) > 1 or len(texture_weights) > 1:
        return None
    return Compared(
        tuple(differences),
        tuple(textures),
        exponents.pop() if exponents else 2.0,
        texture_weights.pop() if texture_weights else 1.0,
        image_weight,
        image_exponent,
        tuple(periods),
    )
