"""The same critics, compared otherwise than any setting says: other weights of scales and taps, unit features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses import TaskLoss
from task_losses.architecture import Architecture, Terms
from task_losses.discriminator import FrozenDiscriminator
from task_losses.weights import named_layers, parse_weights, serialize_weights
from training.bench.study.ours import recipe_of
from training.config import Config
from training.scaling import Layers, distances, feature_scale, scaled


def reweighted(
    data: bytes, *, scale_growth: float = 1.0, equal_scales: bool = False, tap_weights: Sequence[float] = ()
) -> bytes:
    """A weight file whose features weigh otherwise in the loss, in total as much as before on the training image.

    The image itself (tap 0) keeps its weight.

    Args:
        data: bytes of a weight file that was trained here.
        scale_growth: weight of a scale's features relative to the next coarser scale's.
        equal_scales: first give the features of all scales equal shares of the loss on the training image.
        tap_weights: of the taps above 0, in their order; empty for equal ones.

    Raises:
        ValueError: there are not as many taps.
    """
    weights = parse_weights(data, "the weight file to reweight")
    config, architecture = Config.from_dict(weights.info["config"]), weights.architecture
    discriminators = [weights.layers(scale) for scale in range(architecture.scales)]
    shares = [scale_growth**scale for scale in range(architecture.scales)]
    if equal_scales:
        energies = [0.0] * architecture.scales
        for scale, _, features in distances(discriminators, config):
            energies[scale] += features
        shares = [share / energy for share, energy in zip(shares, energies, strict=True)]
    of_layers = _layer_weights(architecture, tap_weights)
    power = 0.5 if architecture.distance == "squared" else 1.0
    discriminators = [
        with_gains(layers, [(share * weight) ** power for weight in of_layers])
        for layers, share in zip(discriminators, shares, strict=True)
    ]
    factor = feature_scale(discriminators, config)
    tensors = named_layers(scaled(layers, factor) for layers in discriminators)
    reweighting = {"scale_growth": scale_growth, "equal_scales": equal_scales, "tap_weights": list(tap_weights)}
    return serialize_weights(tensors, architecture, {**weights.info, "reweighted": reweighting})


def _layer_weights(architecture: Architecture, tap_weights: Sequence[float]) -> list[float]:
    taps = sorted(tap for tap in architecture.taps if tap > 0)
    if tap_weights and len(tap_weights) != len(taps):
        raise ValueError(f"{len(tap_weights)} tap weights, but the taps above the image are {taps}: give one for each")
    by_tap = dict(zip(taps, tap_weights, strict=True)) if tap_weights else {}
    return [by_tap.get(layer, 1.0) for layer in range(1, architecture.depth + 1)]


def with_gains(layers: Layers, gains: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Layers whose outputs are those of ``layers`` times positive numbers, one a layer: LeakyReLU lets them through."""
    results, before = [], 1.0
    for (weight, bias), gain in zip(layers, gains, strict=True):
        results.append((weight * (gain / before), bias * gain))
        before = gain
    return results


class UnitFeatures(FrozenDiscriminator):
    """Compares features of one length over the channels at each pixel, as LPIPS (arXiv 1801.03924) does.

    Args:
        layers, terms: see :class:`FrozenDiscriminator`; the image, tap 0, is left as it is.
        length: of the features.

    Raises:
        ValueError: the last layer is among the taps; of a single channel no more than the sign would be left.
    """

    def __init__(self, layers: Layers, terms: Terms, *, length: float = 1.0) -> None:
        super().__init__(layers, terms)
        if len(layers) in self.taps:
            raise ValueError(f"the last layer has one channel, which cannot be normalised: leave {len(layers)} out")
        self.length = length

    def forward(self, image: Tensor) -> list[Tensor]:
        outputs = zip(self.taps, super().forward(image), strict=True)
        return [self.length * F.normalize(output, dim=1) if tap > 0 else output for tap, output in outputs]

    def distance_and_gradient(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`FrozenDiscriminator.distance_and_gradient`, by autograd."""
        with torch.enable_grad():
            pred = pred.detach().requires_grad_()
            distance = self.distance(pred, target.detach(), mask)
            (gradient,) = torch.autograd.grad(distance.sum(), pred)
        return distance.detach(), gradient


def unit_feature_loss(path: Path, resolution: str = "pyramid") -> TaskLoss:
    """The loss of a weight file that was trained here, with :class:`UnitFeatures`.

    Their length gives the features the share of the loss that the file's recipe gives them, so a mix of image and
    features, or with L1, stays comparable.
    """
    loss = TaskLoss(path, resolution=resolution)
    found = [cast(FrozenDiscriminator, discriminator) for discriminator in loss.discriminators]
    layers = [discriminator.layers() for discriminator in found]
    length = feature_scale(layers, recipe_of(loss), UnitFeatures)
    loss.discriminators = nn.ModuleList(
        UnitFeatures(of_scale, part.terms, length=length) for of_scale, part in zip(layers, found, strict=True)
    )
    return loss.eval()
