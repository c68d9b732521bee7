"""What a loss compares: differences, the strength of texture in windows, and errors that repeat.

Each term is a mean over what it compares, zero where two maps agree and never below. It comes in three forms: the
``distance`` in operations that autograd can differentiate any number of times, the same with its derivative written
out, and a ``map`` of where it comes from, which has the distance as its mean.

With weights for the elements of the maps, (N, 1, H, W), a distance is the mean of that map times the weights. So a
window counts by the mean of the weights inside. Derivatives are by the maps, never by weights.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Smooths |d|^p at zero, for images in [0, 1]: its second derivative stays finite. A quarter of an 8-bit step.
SMOOTHING = 1e-3
# Added to a window's standard deviation, squared: its derivative stays finite where nothing varies. Features that are
# scaled to the image vary by about 5e-3.
LEAST_STRENGTH = 1e-4
BLOCK = 4  # pixels a side; a window is 2 x 2 blocks, and windows are a block apart
WINDOW = 2 * BLOCK
# Of a gradient by the means of windows, averaged over the four that hold a block, each pixel of it has this part.
OF_BLOCK = 4 / WINDOW**2


class Term(Protocol):
    """A comparison of two maps (N, C, H, W), an image's or a layer's."""

    def distance(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """(N,), by plain operations."""

    def distance_and_derivative(
        self, x: Tensor, y: Tensor, weight: float, into: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``weight`` times the distance, (N,), and that one's derivative by ``x``. Without gradient recording.

        Args:
            into: a gradient by ``x`` of something else, to which the derivative is added in place.
        """

    def map(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, 1, H, W), with the distance as its mean."""

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether maps of a height and width have anything to compare; where not, the distance is zero."""


class Difference(NamedTuple):
    """mean(|x - y|^p), for p from 1 to 2. Between them the power is smoothed at zero."""

    exponent: float

    def distance(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        return _mean(self._size(x - y), weights)

    def _size(self, difference: Tensor) -> Tensor:
        if self.exponent == 2:
            return difference.square()
        if self.exponent == 1:
            return difference.abs()
        # (d^2 + s^2)^(p/2) - s^p in a form that is exactly zero at zero, and never below.
        relative = (difference / SMOOTHING).square().log1p()
        return torch.expm1(self.exponent / 2 * relative) * float(SMOOTHING**self.exponent)

    def distance_and_derivative(
        self, x: Tensor, y: Tensor, weight: float, into: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        difference = x - y
        share = weight / difference[0].numel()
        factor = self.exponent * share
        if self.exponent == 2 and weights is None:
            distance = torch.linalg.vector_norm(difference, dim=(1, 2, 3)).square() * share
        elif self.exponent == 1 and weights is None:
            distance = torch.linalg.vector_norm(difference, ord=1, dim=(1, 2, 3)) * share
        elif self.exponent in (1, 2):
            distance = _mean(self._size(difference), weights) * weight
        else:  # as _size, with one logarithm for both
            logarithm = (difference / SMOOTHING).square_().log1p_()
            distance = _mean((logarithm * (self.exponent / 2)).expm1_(), weights) * (weight * SMOOTHING**self.exponent)
            difference.mul_(logarithm.mul_(self.exponent / 2 - 1).exp_())
            factor *= SMOOTHING ** (self.exponent - 2)
        if self.exponent == 1:
            difference.sign_()
        if weights is not None:
            difference.mul_(weights)
        return distance, difference.mul_(factor) if into is None else into.add_(difference, alpha=factor)

    def map(self, x: Tensor, y: Tensor) -> Tensor:
        return self._size(x - y).mean(dim=1, keepdim=True)

    def fits(self, size: tuple[int, int]) -> bool:
        return True


class Texture(NamedTuple):
    """mean over windows and channels of |s(x) - s(y)|^p, s the standard deviation in a window; p is 1 or 2.

    A mean of squared differences is least at the average of what might have been there, which is blur. The strength
    of a feature in a neighbourhood does not survive that average, so it is compared by itself. Relatives: the contrast
    of SSIM (Wang et al. 2004), the texture of DISTS (Ding et al. 2020).
    """

    exponent: float

    def distance(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        if not self.fits((x.shape[2], x.shape[3])):
            return x.new_zeros(x.shape[0])
        return _mean(self._of_windows(x, y), self._window_weights(weights))

    def _of_windows(self, x: Tensor, y: Tensor) -> Tensor:
        difference = strength(x)[0] - strength(y)[0]
        return difference.square() if self.exponent == 2 else difference.abs()

    def _window_weights(self, weights: Tensor | None) -> Tensor | None:
        return None if weights is None else window_means(weights)

    def distance_and_derivative(
        self, x: Tensor, y: Tensor, weight: float, into: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.zeros_like(x) if into is None else into
        if not self.fits((x.shape[2], x.shape[3])):
            return x.new_zeros(x.shape[0]), gradient
        (of_x, mean), (of_y, _) = strength(x), strength(y)
        distance, by_strength = Difference(self.exponent).distance_and_derivative(
            of_x, of_y, weight, weights=self._window_weights(weights)
        )
        add_by_strength(gradient, by_strength, x, of_x, mean)
        return distance, gradient

    def map(self, x: Tensor, y: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        if not self.fits(size):
            return torch.zeros_like(x[:, :1])
        return spread(self._of_windows(x, y).mean(dim=1, keepdim=True), size)

    def fits(self, size: tuple[int, int]) -> bool:
        return min(size) >= WINDOW


class Periodic(NamedTuple):
    """The part of the error that repeats with a period of p pixels, as a network's own pattern does.

    In a window of 8 x 8 tiles of p x p pixels, the error is averaged over the tiles, pixel by pixel of a tile, and the
    mean of that tile is taken off, for a colour that is off is no pattern. What is left is squared. The mean over
    windows is multiplied by the 64 tiles, so that an error without any order counts as its mean square does, and one
    that repeats 64 times as much. Networks that upscale by p leave such patterns (Odena et al., "Deconvolution and
    Checkerboard Artifacts", 2016), and a comparison of texture alone rewards them.
    """

    period: int

    def distance(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        if not self.fits((x.shape[2], x.shape[3])):
            return x.new_zeros(x.shape[0])
        # pixel_unshuffle would need sides that are multiples of the period, which torch.export may not know.
        tiles = F.unfold(x - y, self.period, stride=self.period)
        tiles = tiles.view(x.shape[0], -1, x.shape[2] // self.period, x.shape[3] // self.period)
        return _mean(self._of_windows(tiles).square(), self._window_weights(weights)) * WINDOW**2

    def _of_windows(self, tiles: Tensor) -> Tensor:
        """What repeats in each window.

        Args:
            tiles: (N, C p^2, H // p, W // p), a channel for each pixel of a tile.
        """
        means = window_means(tiles)
        of_tile = means.view(means.shape[0], -1, self.period**2, *means.shape[2:])
        return (of_tile - of_tile.mean(dim=2, keepdim=True)).view_as(means)

    def _cut(self, difference: Tensor) -> Tensor:
        height, width = (side // self.period * self.period for side in difference.shape[2:])
        return F.pixel_unshuffle(difference[:, :, :height, :width], self.period)

    def _window_weights(self, weights: Tensor | None) -> Tensor | None:
        return None if weights is None else window_means(F.avg_pool2d(weights, self.period))

    def distance_and_derivative(
        self, x: Tensor, y: Tensor, weight: float, into: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.zeros_like(x) if into is None else into
        if not self.fits((x.shape[2], x.shape[3])):
            return x.new_zeros(x.shape[0]), gradient
        means = self._of_windows(self._cut(x - y))
        share = weight * WINDOW**2 / means[0].numel()
        of_windows = self._window_weights(weights)
        if of_windows is None:
            distance = torch.linalg.vector_norm(means, dim=(1, 2, 3)).square() * share
        else:
            distance = _mean(means.square(), of_windows) * (weight * WINDOW**2)
            means.mul_(of_windows)
        # Of means without a mean: what the projection would take off the gradient is not there, window by window.
        blocks = F.pixel_shuffle(in_four_windows(means), self.period)
        count, channels = x.shape[:2]
        height, width = (side // self.period for side in blocks.shape[2:])
        shape = (count, channels, height, BLOCK, self.period, width, BLOCK, self.period)
        covered = gradient[:, :, : BLOCK * blocks.shape[2], : BLOCK * blocks.shape[3]].view(shape)
        each = blocks.view(count, channels, height, 1, self.period, width, 1, self.period)
        covered.add_(each, alpha=2 * share * OF_BLOCK)
        return distance, gradient

    def map(self, x: Tensor, y: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        if not self.fits(size):
            return torch.zeros_like(x[:, :1])
        of_windows = self._of_windows(self._cut(x - y)).square().mean(dim=1, keepdim=True) * WINDOW**2
        tiles = (size[0] // self.period, size[1] // self.period)
        pixels = spread(of_windows, tiles).repeat_interleave(self.period, 2).repeat_interleave(self.period, 3)
        area = size[0] * size[1] / (pixels.shape[2] * pixels.shape[3])
        return F.pad(pixels * area, (0, size[1] - pixels.shape[3], 0, size[0] - pixels.shape[2]))

    def fits(self, size: tuple[int, int]) -> bool:
        return min(size) >= WINDOW * self.period


def _mean(of_elements: Tensor, weights: Tensor | None) -> Tensor:
    """(N,): the mean over elements, each times its weight."""
    return (of_elements if weights is None else of_elements * weights).mean(dim=(1, 2, 3))


def window_means(x: Tensor) -> Tensor:
    """(N, C, H // 4 - 1, W // 4 - 1): means over windows. What is left over at the right and below is not seen."""
    if x.device.type == "cpu":  # less to read; elsewhere one launch is better than two
        return F.avg_pool2d(F.avg_pool2d(x, BLOCK), 2, 1)
    return F.avg_pool2d(x, WINDOW, BLOCK)


def strength(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation in each window, at least ``LEAST_STRENGTH``, and the window's mean."""
    mean = window_means(x)
    variance = torch.addcmul(window_means(x.square()), mean, mean, value=-1)
    return (variance.clamp_min(0) + LEAST_STRENGTH**2).sqrt(), mean


def add_by_strength(gradient: Tensor, by_strength: Tensor, x: Tensor, of_x: Tensor, mean: Tensor) -> None:
    """Adds what a gradient by the strength of windows is by ``x``: of each window, (x - mean) / strength times it."""
    slope = by_strength / of_x
    add_by_slopes(gradient, slope, slope * mean, x)


def add_by_slopes(gradient: Tensor, slope: Tensor, of_mean: Tensor, x: Tensor, factor: float = 1.0) -> None:
    """Adds, of each window, ``factor`` times slope * x - of_mean, as a mean over its pixels."""
    to_pixels, to_means = in_four_windows(slope), in_four_windows(of_mean)
    height, width = to_pixels.shape[2:]

    def in_blocks(map_: Tensor) -> Tensor:
        covered = map_[:, :, : height * BLOCK, : width * BLOCK]
        return covered.view(*map_.shape[:2], height, BLOCK, width, BLOCK)

    total = in_blocks(gradient)
    total.addcmul_(in_blocks(x), to_pixels[:, :, :, None, :, None], value=factor * OF_BLOCK)
    total.sub_(to_means[:, :, :, None, :, None], alpha=factor * OF_BLOCK)


def in_four_windows(of_windows: Tensor) -> Tensor:
    """For each block the mean over the four windows that hold it, where one outside of the map counts as zero."""
    return F.avg_pool2d(of_windows, 2, 1, padding=1)


def spread(of_windows: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of a size with the mean of the windows' values: each is spread evenly over its window's pixels."""
    height, width = size
    pixels = in_four_windows(of_windows).repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
    area = OF_BLOCK * height * width / (of_windows.shape[2] * of_windows.shape[3])
    return F.pad(pixels * area, (0, width - pixels.shape[3], 0, height - pixels.shape[2]))
