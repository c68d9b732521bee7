"""The image pyramid that the losses and their training share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses.constants import BySize

LARGEST_KEPT_AREA = 1024  # pixels a side up to which matrices of resampling by area are kept
DENSE = 256  # pixels a side up to which one product with all weights is no slower than a banded one
BLOCK = 32  # results that share one window of a banded product


def level_size(size: tuple[int, int], ratio: float, level: int) -> tuple[int, int]:
    """Height and width of a pyramid level: ``size * ratio**level``, rounded half up; level 0 is ``size``.

    In integers, so that it also works on symbolic sizes. ``ratio`` counts as exactly the fraction that the float is:
    3/4 for 0.75, a little less than 7/10 for 0.7.
    """
    if level == 0:
        return size
    numerator, denominator = ratio.as_integer_ratio()
    part, whole = numerator**level, denominator**level
    return (2 * size[0] * part + whole) // (2 * whole), (2 * size[1] * part + whole) // (2 * whole)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resampling with an antialiasing filter, as matrix products.

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
    if _same((height, width), size):
        return image
    image = _along_rows(image, _weights(width, size[1], image))
    return _along_columns(image, _weights(height, size[0], image))


def resize_adjoint(gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """Transpose of :func:`resize`: from the gradient by its result, that by its image of the given size."""
    height, width = gradient.shape[-2:]
    if _same((height, width), size):
        return gradient
    gradient = _along_rows(gradient, _weights(size[1], width, gradient, transposed=True))
    return _along_columns(gradient, _weights(size[0], height, gradient, transposed=True))


def _same(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are equal. Of symbols only if they are for all values: a program must not depend on some."""
    if _symbolic(*one):
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

        return all(statically_known_true(a == b) for a, b in zip(one, other, strict=True))
    return one == tuple(other)


def _symbolic(*lengths: int) -> bool:
    """Whether lengths may be symbols. No choice should depend on these."""
    return torch.compiler.is_compiling() or any(isinstance(length, torch.SymInt) for length in lengths)


def resize_levels(image: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """:func:`resize` to several sizes at once, each filled up with zeros to the largest height and width.

    Args:
        image: (N, C, H, W). Laid out with its rows outermost, as :func:`rows_outermost` does, it is not copied first.

    Returns:
        (N, sizes * C, H, W), contiguous: the channels of the first size, then those of the second, ...
    """
    rows, columns = _stacked_pair((image.shape[-2], image.shape[-1]), sizes, image)
    count, channels = image.shape[:2]
    x = rows.flatten(0, 1) @ image.permute(2, 0, 1, 3).reshape(image.shape[2], -1)  # (sizes * h, N * C * W)
    x = x.view(len(sizes), -1, image.shape[3]) @ columns.mT  # (sizes, h * N * C, w)
    x = x.view(len(sizes), rows.shape[1], count, channels, -1).permute(2, 0, 3, 1, 4)
    return x.reshape(count, len(sizes) * channels, *x.shape[-2:])


def resize_levels_adjoint(
    gradient: Tensor, sizes: Sequence[tuple[int, int]], size: tuple[int, int], onto: Tensor | None = None
) -> Tensor:
    """Transpose of :func:`resize_levels`: (N, sizes * C, H, W) -> (N, C, *size). What fills up must be zero.

    Args:
        onto: another result for images of this size, to which this one is added.

    Returns:
        The gradient, laid out with its rows outermost.
    """
    rows, columns = _stacked_pair(size, sizes, gradient)
    count, _, height, width = gradient.shape
    x = gradient.view(count, len(sizes), -1, height, width)
    channels = x.shape[2]
    x = x.permute(1, 3, 0, 2, 4).reshape(len(sizes), -1, width) @ columns  # (sizes, h * N * C, W)
    x, adjoint = x.view(len(sizes) * height, -1), rows.flatten(0, 1).mT
    # The product adds the sizes up.
    x = adjoint @ x if onto is None else torch.addmm(onto.permute(2, 0, 1, 3).reshape(size[0], -1), adjoint, x)
    return x.view(size[0], count, channels, size[1]).permute(1, 2, 0, 3)


def rows_outermost(images: Sequence[Tensor]) -> Tensor:
    """Several (N, C, H, W) as one, in the layout that :func:`resize_levels` reads."""
    return torch.cat([image.permute(2, 0, 1, 3) for image in images], dim=1).permute(1, 2, 0, 3)


def resize_area(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resampling that keeps each image's mean and sign: a new pixel is the average over the area that it covers.

    Args:
        image: (N, C, H, W), floating point.
        size: height and width of the result; smaller or larger.

    Returns:
        (N, C, *size), same dtype and device.
    """
    height, width = image.shape[-2:]
    if _same((height, width), size):
        return image
    image = _along_rows(image, _area_weights(width, size[1], image))
    return _along_columns(image, _area_weights(height, size[0], image))


def _area_weights(length: int, new_length: int, like: Tensor) -> Tensor:
    """Of long lines they are made anew each time: they would push everything else out."""
    dtype, device = like.dtype, like.device
    if torch._C._get_tracing_state() is not None:  # torch.jit.trace makes tensors of sizes
        length, new_length = int(length), int(new_length)
    if _symbolic(length, new_length) or max(length, new_length) > LARGEST_KEPT_AREA:
        return _overlap(length, new_length).to(device, dtype)
    return _CONSTANTS.get(
        ("area", length, new_length, dtype, device), lambda: _overlap(length, new_length).to(device, dtype)
    )


def _overlap(length: int, new_length: int) -> Tensor:
    """(new_length, length) shares of the old pixels in the new ones; each row sums to one."""
    edges = torch.arange(new_length + 1, dtype=torch.float64, device="cpu") * (length / new_length)
    pixels = torch.arange(length, dtype=torch.float64, device="cpu")
    first = torch.maximum(edges[:-1, None], pixels)
    last = torch.minimum(edges[1:, None], pixels + 1)
    return (last - first).clamp(min=0) * (new_length / length)


class _Band(NamedTuple):
    """A matrix whose entries lie near its diagonal. Results come in blocks; each has a window of the input.

    Attributes:
        weights: (blocks, results of a block, width of a window).
        step: from a window's start to the next one's.
        before, after: zeros that the windows need before and after the input; negative for values left out.
        length: of the result.
    """

    weights: Tensor
    step: int
    before: int
    after: int
    length: int

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes


def _along_rows(image: Tensor, weights: Tensor | _Band) -> Tensor:
    """Weights times each row of pixels: (N, C, H, W) -> (N, C, H, new W)."""
    if isinstance(weights, Tensor):
        return image @ weights.mT
    windows = F.pad(image, (weights.before, weights.after)).unfold(-1, weights.weights.shape[2], weights.step)
    results = windows.flatten(0, 2).transpose(0, 1) @ weights.weights.mT  # (blocks, N * C * H, results)
    results = results.transpose(0, 1).reshape(*image.shape[:3], -1)
    return results[..., : weights.length]


def _along_columns(image: Tensor, weights: Tensor | _Band) -> Tensor:
    """Weights times each column of pixels: (N, C, H, W) -> (N, C, new H, W)."""
    if isinstance(weights, Tensor):
        if _symbolic(*image.shape):  # the other order asks of symbols what they cannot prove
            return (image.mT @ weights.mT).mT
        return weights @ image
    padded = F.pad(image, (0, 0, weights.before, weights.after))
    windows = padded.unfold(-2, weights.weights.shape[2], weights.step)  # (N, C, blocks, W, width of a window)
    return (weights.weights @ windows.mT).flatten(2, 3)[:, :, : weights.length]


_CONSTANTS = BySize()


def _weights(length: int, new_length: int, like: Tensor, transposed: bool = False) -> Tensor | _Band:
    """What resamples a line of pixels, or the transpose of that."""
    dtype, device = like.dtype, like.device
    if torch._C._get_tracing_state() is not None:  # torch.jit.trace makes tensors of sizes
        length, new_length = int(length), int(new_length)
    if _symbolic(length, new_length):
        matrix = _resampling_matrix(length, new_length, dtype, device)
    elif max(length, new_length) > DENSE:
        return _CONSTANTS.get(
            (length, new_length, transposed, dtype, device),
            lambda: _band(length, new_length, transposed, dtype, device),
        )
    else:
        matrix = _CONSTANTS.get(
            (length, new_length, dtype, device), lambda: _resampling_matrix(length, new_length, dtype, device)
        )
    return matrix.mT if transposed else matrix


def _stacked_pair(size: tuple[int, int], sizes: Sequence[tuple[int, int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_stacked` of heights and of widths."""
    return _stacked(size[0], [h for h, _ in sizes], like), _stacked(size[1], [w for _, w in sizes], like)


def _stacked(length: int, new_lengths: Sequence[int], like: Tensor) -> Tensor:
    """Resampling matrices (lengths, largest new length, length), filled up with zeros."""

    def make() -> Tensor:
        longest = max(new_lengths)
        matrices = [
            F.pad(
                torch.eye(length, dtype=torch.float64) if new == length else _resampling_matrix(length, new),
                (0, 0, 0, longest - new),
            )
            for new in new_lengths
        ]
        return torch.stack(matrices).to(like.device, like.dtype)

    return _CONSTANTS.get((length, tuple(new_lengths), like.dtype, like.device), make)


def _resampling_matrix(
    length: int, new_length: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    """(new_length, length) weights; each row sums to one."""
    # In float64, so that every device and dtype gets the same weights to its own precision.
    results = torch.arange(new_length, dtype=torch.float64)
    pixels = torch.arange(length, dtype=torch.float64)
    weights = _kernel(results[:, None], pixels[None, :], length / new_length)
    return (weights / weights.sum(dim=1, keepdim=True)).to(device, dtype)


def _band(length: int, new_length: int, transposed: bool, dtype: torch.dtype, device: torch.device) -> _Band:
    """The same weights, or their transpose, without most of their zeros."""
    scale = length / new_length
    reach = 2 * max(scale, 1.0)  # of the kernel, in pixels
    results = torch.arange(new_length, dtype=torch.float64)
    pixels = ((results + 0.5) * scale - 0.5 - reach).ceil()[:, None] + torch.arange(int(2 * reach) + 1)
    inside = (pixels >= 0) & (pixels < length)
    sums = (_kernel(results[:, None], pixels, scale) * inside).sum(dim=1)
    if transposed:
        count, inputs, scale_of_line, reach = length, new_length, 1 / scale, reach / scale
    else:
        count, inputs, scale_of_line = new_length, length, scale
    # Each block's first and last input, and windows that start at even steps: wide enough for the blocks to drift.
    # In Python's numbers, since a traced tensor has no value to read.
    begins = range(0, count, BLOCK)
    first = [math.ceil((i + 0.5) * scale_of_line - 0.5 - reach) for i in begins]
    last = [math.floor((min(i + BLOCK, count) - 0.5) * scale_of_line - 0.5 + reach) for i in begins]
    step = max(1, round((first[-1] - first[0]) / max(1, len(first) - 1)))
    before = max(block * step - start for block, start in enumerate(first))
    width = max(end - block * step for block, end in enumerate(last)) + before + 1
    even = torch.arange(len(first)) * step
    output = torch.arange(len(first) * BLOCK).view(-1, BLOCK, 1)
    taken = (even[:, None] - before + torch.arange(width))[:, None, :]
    result, pixel = (taken, output) if transposed else (output, taken)
    valid = (output < count) & (taken >= 0) & (taken < inputs)
    weights = _kernel(result, pixel, scale) / sums[result.clamp(0, new_length - 1)] * valid
    after = (len(first) - 1) * step - before + width - inputs
    return _Band(weights.to(device, dtype), step, before, after, count)


def _kernel(result: Tensor, pixel: Tensor, scale: float) -> Tensor:
    """Weight of each pixel in each result, by their indices, before rows are divided by their sums."""
    # Below one sample per pixel the kernel widens: that is the antialiasing. A maximum that takes symbols.
    stretch = torch.sym_max(scale, 1.0)  # type: ignore[no-untyped-call]
    return _cubic((pixel.double() + 0.5 - (result.double() + 0.5) * scale) / stretch)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5 (Keys 1981, IEEE TASSP 29(6), equation 15)."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
