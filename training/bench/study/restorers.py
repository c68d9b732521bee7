"""Small published restoration networks, in which the losses are compared."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses.pyramid import resize

SR_FACTOR = 4


class ResidualBlock(nn.Module):
    """conv - ReLU - conv with a skip and no normalisation, as in EDSR."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip: Tensor = x + self.second(F.relu(self.first(x)))
        return skip


class SRNet(nn.Module):
    """Super-resolution by 4: EDSR's baseline (Lim et al. 2017, arXiv 1707.02921) in small.

    Head, residual blocks, a long skip, two sub-pixel upsamplings by 2, tail. Its output is added to the bicubic
    upscaling of the input, so that a short training starts from bicubic.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(width) for _ in range(depth)])
        self.merge = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Sequential(
            *[layer for _ in range(2) for layer in (nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))]
        )
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, 4 H, 4 W), about [0, 1]."""
        features = self.head(x - 0.5)
        features = features + self.merge(self.blocks(features))
        size = (SR_FACTOR * x.shape[-2], SR_FACTOR * x.shape[-1])
        restored: Tensor = resize(x, size) + self.tail(self.up(features))
        return restored


class DenoisingNet(nn.Module):
    """Blind removal of noise or JPEG artefacts: a DnCNN (Zhang et al. 2017, arXiv 1608.03981) of this decade.

    Like DnCNN it predicts what to add to its input. Like FFDNet (arXiv 1710.04026) it works at half resolution
    between a pixel unshuffle and a shuffle, which quarters the arithmetic and doubles the view. In the place of
    BatchNorm, which small batches do not suit, skips carry the signal through the stack; without either, thousands
    of steps left JPEG images as they were.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(12, width, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(width) for _ in range(depth)])
        self.tail = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), about [0, 1], any size -> the same shape."""
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        features = self.blocks(self.head(F.pixel_unshuffle(padded - 0.5, 2)))
        residual = F.pixel_shuffle(self.tail(features), 2)[..., :height, :width]
        restored: Tensor = x + residual
        return restored


class PlainNet(nn.Module):
    """A stack of convolutions and nothing else, the kind that is deployed where there is little power.

    For super-resolution its last layer makes all pixels of a 4 x 4 tile at once, as ESPCN's does (Shi et al. 2016,
    arXiv 1609.05158); its output is added to the input, or to its bicubic upscaling.

    Args:
        factor: 1, or ``SR_FACTOR``.
    """

    def __init__(self, width: int, depth: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        widths = [3, *[width] * depth]
        layers = [nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(widths)]
        self.body = nn.Sequential(*(part for layer in layers for part in (layer, nn.LeakyReLU(0.1))))
        self.tail = nn.Conv2d(width, 3 * factor**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, factor H, factor W), about [0, 1]."""
        base = resize(x, (self.factor * x.shape[-2], self.factor * x.shape[-1])) if self.factor > 1 else x
        restored: Tensor = base + F.pixel_shuffle(self.tail(self.body(x - 0.5)), self.factor)
        return restored


class UNet(nn.Module):
    """Two levels down by strides of 2 and up again by sub-pixel layers, with skips (Ronneberger et al. 2015).

    Args:
        factor: 1, or ``SR_FACTOR``, by which the input is upscaled first.
    """

    def __init__(self, width: int, depth: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(2))
        self.blocks = nn.Sequential(*[ResidualBlock(width) for _ in range(depth)])
        self.up = nn.ModuleList(nn.Conv2d(width, 4 * width, 3, padding=1) for _ in range(2))
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), about [0, 1], any size -> (N, 3, factor H, factor W)."""
        if self.factor > 1:
            x = resize(x, (self.factor * x.shape[-2], self.factor * x.shape[-1]))
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        skips = [F.relu(self.head(padded - 0.5))]
        for down in self.down:
            skips.append(F.relu(down(skips[-1])))
        features = self.blocks(skips.pop())
        for up in self.up:
            features = F.pixel_shuffle(up(features), 2) + skips.pop()
        restored: Tensor = x + self.tail(features)[..., :height, :width]
        return restored


NETWORKS = ("residual", "plain", "unet")


def make_restorer(task: str, width: int, depth: int, seed: int, kind: str = "residual") -> nn.Module:
    """The network of a task with its initial weights.

    Args:
        depth: layers of a plain stack, or residual blocks of the others; but ``residual`` has half for tasks other than
            super-resolution, where it sees four times as many pixels.
        kind: one of ``NETWORKS``.
    """
    factor = SR_FACTOR if task == "sr" else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: SRNet | DenoisingNet | PlainNet | UNet
        if kind == "plain":
            network = PlainNet(width, depth, factor)
        elif kind == "unet":
            network = UNet(width, depth, factor)
        else:
            network = SRNet(width, depth) if task == "sr" else DenoisingNet(width, max(1, depth // 2))
    assert network.tail.bias is not None
    nn.init.zeros_(network.tail.weight)  # the training starts from the input (or its bicubic upscaling) itself
    nn.init.zeros_(network.tail.bias)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
