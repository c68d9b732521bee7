"""The image pyramid that the losses and their training share."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def level_size(size: tuple[int, int], ratio: float, level: int) -> tuple[int, int]:
    """Height and width of a pyramid level: ``size * ratio**level``, rounded half up; level 0 is ``size``."""
    scale = ratio**level
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resampling with an antialiasing filter, as two matrix products.

    The same numbers as ``F.interpolate(mode="bicubic", antialias=True)``, up to rounding. Written as matrix
    products because that kernel is slow on the CPU, missing on some devices, and not deterministic in its
    CUDA backward pass; a product has none of these limits and can be differentiated any number of times.

    Args:
        image: (N, C, H, W), floating point, any range. Values outside the input's range may appear (overshoot).
        size: height and width of the result.

    Returns:
        (N, C, *size), same dtype and device.
    """
    height, width = image.shape[-2:]
    if (height, width) == tuple(size):
        return image
    rows = _matrix(height, size[0], image)
    columns = _matrix(width, size[1], image)
    return rows @ (image @ columns.T)


def resize_adjoint(gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """Transpose of :func:`resize`: from the gradient by its result, that by its image of the given size."""
    height, width = gradient.shape[-2:]
    if (height, width) == tuple(size):
        return gradient
    rows = _matrix(size[0], height, gradient)
    columns = _matrix(size[1], width, gradient)
    return rows.T @ (gradient @ columns)


def resize_area(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resampling that keeps each image's mean and sign: a new pixel is the average over the area that it covers.

    Args:
        image: (N, C, H, W), floating point.
        size: height and width of the result; smaller or larger.

    Returns:
        (N, C, *size), same dtype and device.
    """
    rows, columns = (
        _overlap(old, new).to(image.device, image.dtype) for old, new in zip(image.shape[-2:], size, strict=True)
    )
    return rows @ (image @ columns.T)


def _overlap(length: int, new_length: int) -> Tensor:
    """(new_length, length) shares of the old pixels in the new ones; each row sums to one."""
    edges = torch.arange(new_length + 1, dtype=torch.float64, device="cpu") * (length / new_length)
    pixels = torch.arange(length, dtype=torch.float64, device="cpu")
    first = torch.maximum(edges[:-1, None], pixels)
    last = torch.minimum(edges[1:, None], pixels + 1)
    return (last - first).clamp(min=0) * (new_length / length)


def _matrix(length: int, new_length: int, like: Tensor) -> Tensor:
    make = _resampling_matrix if torch.compiler.is_compiling() else _cached_matrix
    return make(length, new_length, like.dtype, like.device)


def _resampling_matrix(length: int, new_length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(new_length, length) weights; each row sums to one."""
    scale = length / new_length
    stretch = max(scale, 1.0)  # below one sample per pixel the kernel widens: that is the antialiasing
    # In float64, so that every device and dtype gets the same weights to its own precision.
    centre = (torch.arange(new_length, dtype=torch.float64) + 0.5) * scale
    position = torch.arange(length, dtype=torch.float64) + 0.5
    weights = _cubic((position[None, :] - centre[:, None]) / stretch)
    return (weights / weights.sum(dim=1, keepdim=True)).to(device, dtype)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5 (Keys 1981, IEEE TASSP 29(6), equation 15)."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@lru_cache(maxsize=64)
def _cached_matrix(length: int, new_length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor born in inference mode could not serve a later training step.
    with torch.inference_mode(False), torch.device("cpu"):
        return _resampling_matrix(length, new_length, dtype, device)
