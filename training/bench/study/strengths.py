"""Losses of the strength of textures that no critic has a part in: what ours are held against.

They say nothing of where things are, so they stand beside L1 (``--ratios``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from task_losses.architecture import Architecture
from task_losses.pyramid import level_size, resize
from task_losses.terms import Texture
from training.bench.trunks import TrunkLoss

SQUARED = Texture(2.0)


class ImageTexture(nn.Module):
    """The texture term on the pyramid's images themselves: the sum over the levels that hold a window."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """pred, target: (N, 3, H, W), RGB in [0, 1] -> a scalar."""
        form = Architecture()
        size = (pred.shape[2], pred.shape[3])
        sizes = [of for step in range(form.scales) if SQUARED.fits(of := level_size(size, form.ratio, step))]
        distances = [SQUARED.distance(resize(pred, of), resize(target, of)).mean() for of in sizes]
        return torch.stack(distances).sum()


class TrunkContrast(TrunkLoss):
    """The texture term on a trunk's features: relatives are SSIM's contrast and the texture of DISTS."""

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        return SQUARED.distance(x, y).mean()


class TrunkGram(TrunkLoss):
    """Squared differences of Gram matrices (Gatys et al. 2015, arXiv 1508.06576), over C H W of the outputs."""

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y = (f.flatten(2) @ f.flatten(2).mT / f[0].numel() for f in (x, y))
        return (of_x - of_y).square().sum(dim=(1, 2)).mean()
