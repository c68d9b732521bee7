"""Trunks of image classifiers, whose features losses compare. Random weights cost what trained ones cost.

A trunk is cut into parts; the output of each part is compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def vgg16() -> nn.ModuleList:
    """The first four blocks of VGG16 (Simonyan & Zisserman 2015, arXiv 1409.1556), each to its last ReLU."""
    parts, inputs = nn.ModuleList(), 3
    for block, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3)]):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if block else []
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        parts.append(nn.Sequential(*layers))
    return parts


def alexnet() -> nn.ModuleList:
    """The five convolutions of AlexNet in its one-column form (Krizhevsky 2014, arXiv 1404.5997), each to its ReLU."""
    parts = nn.ModuleList()
    for layer, (inputs, width, side, stride, padding) in enumerate(
        [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
    ):
        layers: list[nn.Module] = [nn.MaxPool2d(3, 2)] if layer in (1, 2) else []
        convolution = nn.Conv2d(inputs, width, side, stride, padding)
        parts.append(nn.Sequential(*layers, convolution, nn.ReLU(inplace=True)))
    return parts


class TrunkLoss(nn.Module):
    """Sum over a trunk's parts of the mean squared difference of their outputs, or what a subclass makes of these.

    Nothing of it is trained.

    Args:
        parts: of the trunk, as :func:`vgg16` or :func:`alexnet` makes them.
        prepare: makes what the trunk takes of images (N, 3, H, W), RGB in [0, 1]; by default it takes these.
    """

    def __init__(self, parts: nn.ModuleList, prepare: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.parts, self.prepare = parts, prepare
        self.requires_grad_(False).eval()

    def features(self, image: Tensor) -> list[Tensor]:
        """Outputs of the parts for images (N, 3, H, W), RGB in [0, 1]."""
        x = self.prepare(image) if self.prepare else image
        outputs = []
        for part in self.parts:
            x = part(x)
            outputs.append(x)
        return outputs

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """pred, target: (N, 3, H, W), RGB in [0, 1] -> a scalar."""
        with torch.no_grad():
            references = self.features(target)
        pairs = zip(self.features(pred), references, strict=True)
        return torch.stack([self.distance(x, y) for x, y in pairs]).sum()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """How one part's outputs for the two images are compared."""
        return F.mse_loss(x, y)
