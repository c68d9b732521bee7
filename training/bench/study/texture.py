"""How much fine texture a picture has, and where: what a blurred restoration loses and nobody's loss computes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WINDOW = 7  # pixels
STEP = 8  # pixels between the crops that are tried


def local_contrast(image: Tensor) -> Tensor:
    """Standard deviation of the grey picture in the window around each pixel: (1, 1, H, W), the borders mirrored.

    Args:
        image: (1, C, H, W) in [0, 1].
    """
    grey = F.pad(image.mean(dim=1, keepdim=True).double(), [WINDOW // 2] * 4, mode="reflect")
    mean = F.avg_pool2d(grey, WINDOW, stride=1)
    variance = F.avg_pool2d(grey.square(), WINDOW, stride=1) - mean.square()
    return variance.clamp(min=0).sqrt().float()


def kept_texture(image: Tensor, reference: Tensor) -> float:
    """Mean local contrast of an image over the reference's: below 1 it is smoother, above 1 rougher, noise included."""
    return float(local_contrast(image).mean() / local_contrast(reference).mean())


def textured_place(reference: Tensor, size: tuple[int, int], step: int = STEP) -> tuple[int, int]:
    """Top left corner of the crop with the highest median of local contrast: texture all over, not one hard edge.

    Args:
        size: height and width of the crop in pixels.
        step: between the crops that are tried, in pixels.
    """
    crops = local_contrast(reference)[0, 0].unfold(0, size[0], step).unfold(1, size[1], step)
    best = int(crops.reshape(*crops.shape[:2], -1).median(dim=-1).values.argmax())
    return best // crops.shape[1] * step, best % crops.shape[1] * step
