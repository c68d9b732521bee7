"""Brings the features of a trained critic to the image's own scale.

WGAN leaves the magnitude of a critic to chance. Scaled to what the image itself would say of the same distortion, a
loss has the size of a sum of pixel losses whatever the training was, and features and image can be added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from task_losses.architecture import DISTANCES, differences
from task_losses.discriminator import FrozenDiscriminator
from training.config import Config
from training.distortions import make_adversary
from training.images import open_image, starts_and_levels

DRAWS = 8  # of the distortion's strength, at each scale
Layers = Sequence[tuple[Tensor, Tensor]]


def feature_scale(
    discriminators: Sequence[Layers], config: Config, kind: type[FrozenDiscriminator] = FrozenDiscriminator
) -> float:
    """The factor for all features that gives them their share of the loss on the training image.

    With the image among the taps its share is ``image_share``; without it the features weigh as much as it would,
    compared in their way at every scale.

    Args:
        discriminators: folded layers of each scale.
        kind: what compares the features.
    """
    of_image = of_features = 0.0
    for scale, image, features in distances(discriminators, config, kind):
        of_features += features
        if 0 not in config.taps or scale == config.scales - 1:
            of_image += image
    share = config.image_share if 0 in config.taps else 0.5
    factor = of_image / of_features * (1 - share) / share
    return factor**0.5 if config.distance == "squared" else factor


@torch.no_grad()
def distances(
    discriminators: Sequence[Layers], config: Config, kind: type[FrozenDiscriminator] = FrozenDiscriminator
) -> Iterator[tuple[int, float, float]]:
    """Scale, distance of the images and of the features, of each of ``DRAWS`` distorted training images a scale."""
    above = tuple(tap for tap in config.taps if tap > 0)
    exponent = config.image_exponent if 0 in config.taps else DISTANCES[config.distance]
    source, _ = open_image(config.image, config.image_licence)
    pairs = zip(discriminators, starts_and_levels(source, config), strict=True)
    for scale, (layers, (start, level)) in enumerate(pairs):
        adversary, draws = make_adversary(config), torch.Generator().manual_seed(config.seed)
        features = kind(layers, differences(above, DISTANCES[config.distance]))
        image = FrozenDiscriminator(layers, differences((0,), image_exponent=exponent))
        for _ in range(DRAWS):
            distorted = adversary(start, level, draws)
            yield scale, image.distance(distorted, level).item(), features.distance(distorted, level).item()


def scaled(layers: Layers, factor: float) -> list[tuple[Tensor, Tensor]]:
    """Layers whose outputs are those of ``layers`` times a positive factor: LeakyReLU lets it through."""
    (weight, bias), *others = layers
    return [(weight * factor, bias * factor), *((weight, bias * factor) for weight, bias in others)]
