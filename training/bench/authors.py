"""The authors' algorithm, written plainly from its description: what parity and the speed bench compare with.

Every discriminator sees the image at full resolution. Each image's distance is the sum over discriminators and taps
of the mean squared feature difference; the loss is the mean over the batch. BatchNorm is a layer of its own here and
the convolutions are as trained: nothing is folded, shared or skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SLOPE = 0.2
EPS = 1e-5
# Hidden layers per discriminator, coarsest first: the eight that the authors' loss uses.
CHANNELS = (32,) * 4 + (64,) * 4


class Block(nn.Sequential):
    """3x3 convolution without padding, BatchNorm, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(inputs, outputs, 3))
        self.add_module("norm", nn.BatchNorm2d(outputs, eps=EPS))
        self.add_module("activation", nn.LeakyReLU(SLOPE, inplace=True))


class AuthorsDiscriminator(nn.Module):
    """Five convolutions; taps after the first block, the fourth block, and the output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = Block(3, channels)
        self.body = nn.Sequential()
        for index in (1, 2, 3):
            self.body.add_module(f"block{index}", Block(channels, channels))
        self.tail = nn.Conv2d(channels, 1, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image: (N, 3, H, W) in [0, 1], H and W at least 11; features (N, C, H - 2l, W - 2l), l = 1, 4, 5."""
        first = self.head(image)
        last = self.body(first)
        return first, last, self.tail(last)


class AuthorsLoss(nn.Module):
    """The loss of the authors' code, always in evaluation mode and without trainable weights.

    Args:
        channels: width of each discriminator's hidden layers; the default is the authors'.
        seed: of the random weights. They cost what trained ones cost.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.discriminators = nn.ModuleList(AuthorsDiscriminator(width) for width in channels)
        for module in self.modules():
            _randomise(module, generator)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> AuthorsLoss:
        return super().train(False)

    def per_image(self, pred: Tensor, target: Tensor) -> Tensor:
        """Distances (N,) of images (N, 3, H, W) in [0, 1], H and W at least 11."""
        total = pred.new_zeros(len(pred))
        for discriminator in self.discriminators:
            for x, y in zip(discriminator(pred), discriminator(target), strict=True):
                total = total + (x - y).square().mean(dim=(1, 2, 3))
        return total

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean of :meth:`per_image` over the batch."""
        return self.per_image(pred, target).mean()


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Random numbers that exercise every term: biases and running statistics differ from zero and one."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE, generator=generator)
        if module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.2, generator=generator)
        nn.init.normal_(module.bias, 0, 0.1, generator=generator)
        if module.running_mean is not None and module.running_var is not None:
            nn.init.normal_(module.running_mean, 0, 0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
