"""A loss's distances and gradient by kernels that take all levels and both images through one layer at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from task_losses.fused import configs, layers, resampling, texture
from task_losses.fused import periods as periodic
from task_losses.fused.compared import Compared, compared, compares_texture
from task_losses.fused.configs import Level, Tiles, width_of
from task_losses.fused.plan import Size, plan
from task_losses.fused.shared import Form, Shares
from task_losses.fused.weights import Packed, packed
from task_losses.terms import BLOCK


class Images(NamedTuple):
    """A pair, both (N, 3, H, W)."""

    pred: Tensor
    target: Tensor


def distance_and_gradient(
    pred: Tensor,
    target: Tensor,
    levels: Sequence[Level],
    *,
    tiles: Tiles | None = None,
    precision: str | None = None,
    together: int = configs.TOGETHER,
) -> tuple[Tensor, Tensor]:
    """As :func:`task_losses.distance.distance_and_gradient`, for discriminators of one width and form.

    Args:
        pred, target: (N, 3, H, W), any strides.
        tiles, precision: other ones than the discriminators' and torch's; see :mod:`task_losses.fused.configs`.
        together: bytes; see :data:`task_losses.fused.configs.TOGETHER`.

    Returns:
        (N,) distances and (N, 3, H, W) gradients.
    """
    here: AbstractContextManager[Any] = nullcontext()
    if pred.is_cuda and pred.device.index != torch.cuda.current_device():  # a kernel goes to the current device
        here = torch.cuda.device(pred.device)
    precision = precision or configs.precision()
    tiles = tiles or configs.tiles(width_of(levels[-1]), precision)
    size = (pred.shape[2], pred.shape[3])
    sizes = [level.size for level in levels]
    weights = packed([level.discriminator for level in levels])
    known, textured = compared(levels), [compares_texture(level) for level in levels]
    assert known is not None, "the caller asks task_losses.fused.obstacle first"
    images, result = Images(pred, target), None
    with here:
        for some in groups(sizes, len(pred) * pixel_bytes(levels[-1], known, pred.element_size()), together):
            with_finest = some.stop == len(levels)
            with_image = [False] * (some.stop - some.start)
            with_image[-1] = with_finest and known.image_weight > 0
            tables = plan(sizes[some], with_image, textured[some], size, tiles, pred.dtype, pred.device)
            here_compared = known if with_finest else known.of_features()
            if not any(textured[some]):
                here_compared = here_compared.without_textures()
            form = Form(tables, tiles, width_of(levels[-1]), here_compared, precision)
            result = _some_levels(images, weights, some, form, levels[-1].discriminator.depth, result)
    assert result is not None
    return result


def groups(sizes: Sequence[Size], pixel_bytes: int, together: int) -> list[slice]:
    """Levels that are computed at once: all, or as many as take no more than the finest one alone or ``together``."""
    pixels = [height * width for height, width in sizes]
    most = max(pixels[-1], together // pixel_bytes)
    found, end = [], len(sizes)
    while end:
        first = end - 1
        while first and sum(pixels[first - 1 : end]) <= most:
            first -= 1
        found.append(slice(first, end))
        end = first
    return found


def bytes_of_maps(pred: Tensor, levels: Sequence[Level]) -> int:
    """Of all levels together, of predictions and targets."""
    known = compared(levels)
    assert known is not None, "the caller asks task_losses.fused.obstacle first"
    pixels = len(pred) * sum(level.size[0] * level.size[1] for level in levels)
    return pixels * pixel_bytes(levels[-1], known, pred.element_size())


def pixel_bytes(level: Level, known: Compared, size: int) -> int:
    """Of all maps of a prediction and its target together, for a pixel of a level, in numbers of ``size`` bytes."""
    begun = known.last in known.textures  # its map is kept for the gradient that it begins
    windows = len(known.textures) * 2 / BLOCK**2
    return int((2 * known.last + begun + windows) * width_of(level) + 9) * size


class _Slots:
    """Places for shares of the distances, one after the other."""

    def __init__(self, images: int, counts: Sequence[int], like: Tensor) -> None:
        self.sums = like.new_empty(images, sum(counts))
        self._next = accumulate(counts, initial=0)

    def take(self) -> Shares:
        """Those of the next count."""
        return Shares(self.sums, next(self._next))


def _some_levels(
    images: Images,
    weights: Packed,
    rows: slice,
    form: Form,
    depth: int,
    before: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Of the levels that ``rows`` of the weights belong to, and what others gave ``before``."""
    known, tables, last = form.compared, form.plan, form.compared.last
    periods = [period for period in known.periods if periodic.slots_of(period, tables.size)]
    with_image = known.image_weight > 0
    slots = _Slots(
        len(images.pred),
        [tables.tiles] * (len(known.differences) + with_image)
        + [tables.window_tiles] * len(known.textures)
        + [periodic.slots_of(period, tables.size) for period in periods],
        images.pred,
    )
    differences = {tap: slots.take() for tap in known.differences}
    of_image = slots.take() if with_image else None
    textures = {tap: slots.take() for tap in known.textures}

    levels = resampling.resample(images.pred, images.target, tables)
    ends = last not in textures  # the launch of the last map can begin its gradient
    maps = {1: layers.first(levels, weights.layer(1, rows), form, differences.get(1), ends and last == 1)}
    for layer in range(2, min(last, depth - 1) + 1):
        weight = weights.layer(layer, rows)
        maps[layer] = layers.middle(
            maps[layer - 1], weight, layer, form, differences.get(layer), ends and layer == last
        )
    if last == depth:
        maps[last] = layers.score(maps[last - 1], weights.layer(last, rows), last, form, differences[last])
    slopes = {tap: texture.strengths(maps[tap], tap, form, shares) for tap, shares in textures.items()}
    gradient = maps.pop(last)
    if not ends:
        gradient = texture.begin(gradient, slopes.pop(last), last, form, last in differences)
    for layer in range(last, 1, -1):
        below = layer - 1
        gradient = layers.back(
            gradient, weights.layer(layer, rows), maps.pop(below), slopes.pop(below, None), layer, form,
            below in differences,
        )  # fmt: skip
    gradient = layers.image(gradient, weights.layer(1, rows), levels, form, of_image)
    found = [periodic.patterns(images.pred, images.target, period, slots.take()) for period in periods]
    total, gradient = resampling.adjoint(gradient, slots.sums, tables, before)
    for period, pattern in zip(periods, found, strict=True):
        periodic.add(gradient, pattern, period)
    return total, gradient
