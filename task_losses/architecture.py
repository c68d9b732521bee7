"""The form of a loss: its discriminators' shapes, what they see, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from task_losses.checks import LARGEST_WEIGHT
from task_losses.terms import Difference, Periodic, Term, Texture
from task_losses.texts import shown

SLOPE = 0.2  # LeakyReLU of every discriminator, in training and here
# What an architecture may have: it may come from anybody's file, and is checked before anything is made from it.
MOST_SCALES, MOST_CHANNELS, MOST_DEPTH = 32, 1024, 32
SMALLEST_RATIO = 0.1
DISTANCES = {"squared": 2.0, "absolute": 1.0}  # and their exponents


class Weighted(NamedTuple):
    """A term and its factor."""

    weight: float
    term: Term


Terms = Mapping[int, Sequence[Weighted]]  # by the layer that is compared; 0 is the image itself


@dataclass(frozen=True)
class Architecture:
    """Shape of a family of discriminators, one per scale, and what of them is compared.

    Attributes:
        channels: width of each discriminator's hidden layers, coarsest scale first; at most 32 of at most 1024.
        ratio: size of a pyramid level relative to the next finer one, from 0.1 to below 1.
        depth: number of 3x3 convolutions, 2 to 32; the last one has a single output channel. No padding anywhere, so
            the receptive field is ``2 * depth + 1`` pixels.
        taps: layers (1 to depth) whose outputs are compared; 0 is the image itself, compared once, by the finest scale.
        distance: how two outputs are compared: by the mean of their ``"squared"`` or ``"absolute"`` differences.
        image_exponent: how two images are compared: by the mean of |difference|^exponent, from 1 to 2, between them
            smoothed at zero.
        image_weight: factor of that.
        texture_taps: layers (1 to depth) whose outputs' strength in windows is compared, by ``distance``.
        texture_weight: factor of that.
        texture_skips: how many of the finest scales do not compare texture.
        periods: in pixels; errors of the image that repeat with them are compared once more, by the finest scale.
        periodic_weight: factor of that.

    Raises:
        ValueError: a value is impossible.
    """

    channels: tuple[int, ...] = (32,) * 8
    ratio: float = 0.75
    depth: int = 5
    taps: tuple[int, ...] = (1, 4, 5)
    distance: str = "squared"
    image_exponent: float = 2.0
    image_weight: float = 1.0
    texture_taps: tuple[int, ...] = ()
    texture_weight: float = 0.0
    texture_skips: int = 0
    periods: tuple[int, ...] = ()
    periodic_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= MOST_SCALES or not all(1 <= c <= MOST_CHANNELS for c in self.channels):
            raise ValueError(
                f"channels must be one positive width per scale, of at most {MOST_CHANNELS} for at most {MOST_SCALES} "
                f"scales, got {shown(self.channels)}"
            )
        if not SMALLEST_RATIO <= self.ratio < 1:
            raise ValueError(f"ratio must lie between 0 and 1, at least {SMALLEST_RATIO}, got {self.ratio}")
        if not 2 <= self.depth <= MOST_DEPTH:
            raise ValueError(f"depth must be at least 2 and at most {MOST_DEPTH}, got {self.depth}")
        for name in ("taps", "texture_taps", "periods"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} must be different numbers, got {shown(getattr(self, name))}")
        if max(self.taps, default=0) < 1 or not set(self.taps) <= set(range(self.depth + 1)):
            raise ValueError(
                f"taps must be layers from 0 (the image) to {self.depth}, at least one above 0, got {shown(self.taps)}"
            )
        if self.distance not in DISTANCES:
            raise ValueError(f"distance must be {' or '.join(DISTANCES)}, got {shown(self.distance)}")
        if not 1 <= self.image_exponent <= 2:
            raise ValueError(f"image_exponent must be from 1 to 2, got {self.image_exponent}")
        if not set(self.texture_taps) <= set(range(1, self.depth + 1)):
            raise ValueError(f"texture_taps must be layers from 1 to {self.depth}, got {shown(self.texture_taps)}")
        if not 0 <= self.texture_skips <= self.scales:
            raise ValueError(f"texture_skips must be from 0 to {self.scales} scales, got {self.texture_skips}")
        if not all(2 <= period <= 64 for period in self.periods):
            raise ValueError(f"periods must be from 2 to 64 pixels, got {shown(self.periods)}")
        for name in ("image_weight", "texture_weight", "periodic_weight"):
            if not 0 <= getattr(self, name) <= LARGEST_WEIGHT:
                raise ValueError(
                    f"{name} must be a number from 0 up to {LARGEST_WEIGHT:.0e}, got {getattr(self, name)}"
                )

    @property
    def scales(self) -> int:
        return len(self.channels)

    @property
    def receptive_field(self) -> int:
        """Also the smallest side of an image that a discriminator can see."""
        return 2 * self.depth + 1

    def layer_shapes(self, scale: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of each convolution of a scale's discriminator."""
        widths = [3, *[self.channels[scale]] * (self.depth - 1), 1]
        return list(pairwise(widths))

    def dialled(self, texture: float, fidelity: float) -> Architecture:
        """With the weights of the texture term and of the image's own term multiplied."""
        texture, fidelity = self.texture_weight * texture, self.image_weight * fidelity
        if (texture, fidelity) == (self.texture_weight, self.image_weight):
            return self  # torch 2.4 cannot compile the rest
        return replace(self, texture_weight=texture, image_weight=fidelity)

    def terms(self, scale: int) -> dict[int, list[Weighted]]:
        """What a scale compares, by layer: the image itself only at the finest."""
        exponent = DISTANCES[self.distance]
        listed: list[tuple[int, Weighted]] = []
        if scale == self.scales - 1:
            listed += [(0, Weighted(self.image_weight, Difference(self.image_exponent)))] * (0 in self.taps)
            listed += [(0, Weighted(self.periodic_weight, Periodic(period))) for period in self.periods]
        listed += [(tap, Weighted(1.0, Difference(exponent))) for tap in self.taps if tap > 0]
        if scale < self.scales - self.texture_skips:
            listed += [(tap, Weighted(self.texture_weight, Texture(exponent))) for tap in self.texture_taps]
        by_layer: dict[int, list[Weighted]] = {}
        for layer, weighted in sorted(listed, key=lambda entry: entry[0]):
            if weighted.weight > 0:
                by_layer.setdefault(layer, []).append(weighted)
        return by_layer

    def to_dict(self) -> dict[str, Any]:
        """For a file: what says something, without what has no effect. The dial is no part of a file."""
        content = asdict(self)
        del content["image_weight"]
        if 0 not in self.taps:
            del content["image_exponent"]
        if not self.texture_weight:
            del content["texture_taps"], content["texture_weight"]
        if not self.texture_weight or not self.texture_skips:
            del content["texture_skips"]
        if not self.periodic_weight:
            del content["periods"], content["periodic_weight"]
        return content


def differences(taps: Sequence[int], exponent: float = 2.0, image_exponent: float = 2.0) -> dict[int, list[Weighted]]:
    """Terms that compare the outputs of some layers, 0 being the image, by the mean of |difference|^exponent."""
    return {tap: [Weighted(1.0, Difference(exponent if tap > 0 else image_exponent))] for tap in sorted(taps)}
