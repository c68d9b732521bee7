"""Brings the features of a trained critic to the image's own scale.

WGAN leaves the magnitude of a critic to chance. Scaled to what the image itself would say of the same distortion, a
loss has the size of a sum of pixel losses whatever the training was, and features and image can be added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import geometric_mean
from typing import NamedTuple

import torch
from torch import Tensor

from task_losses.architecture import DISTANCES, Architecture, differences
from task_losses.discriminator import FrozenDiscriminator
from task_losses.distance import distance_and_gradient
from task_losses.levels import Selection
from task_losses.operator import distance
from task_losses.weighting import weight_for
from task_losses.weights import random_weights
from training.config import Config
from training.distortions import make_adversary
from training.images import open_image, starts_and_levels

DRAWS = 8  # of the distortion's strength, at each scale
CONTROLS = 4  # draws of random weights
Layers = Sequence[tuple[Tensor, Tensor]]


class Examples(NamedTuple):
    """What a scale's critic was to tell apart.

    Attributes:
        level: (1, 3, H, W) in [0, 1].
        distorted: what the adversary made of it, each with a strength of its own, (``DRAWS``, 3, H, W).
    """

    level: Tensor
    distorted: Tensor


@torch.no_grad()
def draw_examples(config: Config, start: Tensor, level: Tensor) -> Examples:
    """Those of one scale; the same whenever they are drawn.

    Args:
        start: what the distortion is applied to, see :func:`training.images.start_of`.
    """
    adversary, draws = make_adversary(config), torch.Generator().manual_seed(config.seed)
    return Examples(level, torch.cat([adversary(start, level, draws) for _ in range(DRAWS)]))


def examples_of(config: Config) -> Iterator[Examples]:
    """Of all scales, from the image that the settings name."""
    image, _ = open_image(config.image, config.image_licence)
    return (draw_examples(config, start, level) for start, level in starts_and_levels(image, config))


def feature_scale(
    discriminators: Sequence[Layers],
    config: Config,
    kind: type[FrozenDiscriminator] = FrozenDiscriminator,
    examples: Iterable[Examples] | None = None,
) -> float:
    """The factor for all features that gives them their share of the loss on the training image.

    With the image among the taps its share is ``image_share``; without it the features weigh as much as it would,
    compared in their way at every scale.

    Args:
        discriminators: folded layers of each scale.
        kind: what compares the features.
        examples: of each scale; None for :func:`examples_of`.
    """
    of_image = of_features = 0.0
    for scale, image, features in distances(discriminators, config, kind, examples):
        of_features += features
        if 0 not in config.taps or scale == config.scales - 1:
            of_image += image
    share = config.image_share if 0 in config.taps else 0.5
    factor = of_image / of_features * (1 - share) / share
    return factor**0.5 if config.distance == "squared" else factor


def random_scale(config: Config, examples: Sequence[Examples]) -> float:
    """What :func:`feature_scale` is for random weights of the same shape, as the geometric mean of ``CONTROLS`` draws.

    A single draw is about a tenth off it. With it ``TaskLoss(pretrained=False, like=FILE)`` makes a control whose
    features weigh as much as the file's, without the image and the distortion.
    """
    factors = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(CONTROLS):
            torch.manual_seed(seed)
            drawn = random_weights(config.task, config.architecture)
            layers = [drawn.layers(scale) for scale in range(config.scales)]
            factors.append(feature_scale(layers, config, examples=examples))
    return float(f"{geometric_mean(factors):.3g}")  # more digits would be of chance, and of the machine


@torch.no_grad()
def texture_weight(discriminators: Sequence[Layers], config: Config, examples: Sequence[Examples]) -> float:
    """The texture term's factor that gives it its pull on the training image.

    Its gradient by the image then has ``texture_pull`` times the norm of the gradient by all differences, those of
    the image and of features, summed over the examples of the finest scale.

    Args:
        discriminators: layers of each scale, scaled.
        examples: of each scale.

    Returns:
        0 where there is no such term, or the image is too small for a window.
    """
    if not config.texture_taps or not config.texture_pull:
        return 0.0
    # Without errors that repeat: what a distortion leaves may be full of them, what a network leaves is not.
    form = replace(config.architecture, periodic_weight=0.0)
    rest, both = (
        Selection(replace(form, texture_weight=weight), tuple(range(config.scales)), "pyramid") for weight in (0.0, 1.0)
    )
    level, distorted = examples[-1]
    of_rest = of_texture = 0.0
    for pred in distorted.split(1):
        gradients = [
            distance_and_gradient(
                pred, level, seen.levels((pred.shape[2], pred.shape[3]), seen.discriminators(discriminators))
            )[1]
            for seen in (rest, both)
        ]
        of_rest += gradients[0].norm().item()
        of_texture += (gradients[1] - gradients[0]).norm().item()
    return config.texture_pull * of_rest / of_texture if of_texture else 0.0


def weight_beside_l1(discriminators: Sequence[Layers], form: Architecture, example: Examples) -> float:
    """The weight at which a loss, at its default dial, pulls as hard as L1 on what its critics were to tell apart.

    It is the weight for networks that restore about as well as the adversary's filter. Squares pull less where errors
    are smaller, so that better networks ask for more, and those that have hardly been trained for less.

    Args:
        discriminators: layers of each scale, scaled.
        form: with all its factors.
        example: of the finest scale.

    Raises:
        ValueError: the adversary left nothing to compare.
    """
    seen = Selection(form, tuple(range(form.scales)), "pyramid")
    frozen = seen.discriminators(discriminators)
    level = example.level.expand_as(example.distorted)
    weight = weight_for(lambda pred, target: distance(pred, target, None, seen, frozen), example.distorted, level)
    return float(f"{weight:.2g}")  # more digits would be of the machine


@torch.no_grad()
def distances(
    discriminators: Sequence[Layers],
    config: Config,
    kind: type[FrozenDiscriminator] = FrozenDiscriminator,
    examples: Iterable[Examples] | None = None,
) -> Iterator[tuple[int, float, float]]:
    """Scale, distance of the images and of the features, of each example; arguments as for :func:`feature_scale`."""
    above = tuple(tap for tap in config.taps if tap > 0)
    exponent = config.image_exponent if 0 in config.taps else DISTANCES[config.distance]
    pairs = zip(discriminators, examples_of(config) if examples is None else examples, strict=True)
    for scale, (layers, (level, of_level)) in enumerate(pairs):
        features = kind(layers, differences(above, DISTANCES[config.distance]))
        image = FrozenDiscriminator(layers, differences((0,), image_exponent=exponent))
        for distorted in of_level.split(1):
            yield scale, image.distance(distorted, level).item(), features.distance(distorted, level).item()


def scaled(layers: Layers, factor: float) -> list[tuple[Tensor, Tensor]]:
    """Layers whose outputs are those of ``layers`` times a positive factor: LeakyReLU lets it through."""
    (weight, bias), *others = layers
    return [(weight * factor, bias * factor), *((weight, bias * factor) for weight, bias in others)]
