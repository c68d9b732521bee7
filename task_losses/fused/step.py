"""A loss's distances and gradient by kernels that take all levels and both images through one layer at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from task_losses.discriminator import FrozenDiscriminator
from task_losses.fused import configs, layers, resampling
from task_losses.fused.configs import Level, Tiles, width_of
from task_losses.fused.layers import Form, Shares
from task_losses.fused.plan import Size, plan
from task_losses.fused.weights import Packed, packed


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
    tiles = tiles or configs.tiles(width_of(levels[-1]))
    precision = precision or configs.precision()
    size = (pred.shape[2], pred.shape[3])
    sizes = [level.size for level in levels]
    weights = packed([level.discriminator for level in levels])
    exponents = configs.exponents(levels[-1].discriminator)
    assert exponents is not None, "the caller asks task_losses.fused.obstacle first"
    result = None
    with here:
        for some in groups(sizes, len(pred) * pixel_bytes(levels[-1], pred.element_size()), together):
            with_image = [configs.compares_image(level.discriminator) for level in levels[some]]
            tables = plan(sizes[some], with_image, size, tiles, pred.dtype, pred.device)
            one = levels[some][-1].discriminator
            form = Form(tables, tiles, width_of(levels[-1]), *exponents, precision)
            result = _some_levels(pred, target, one, weights, some, form, any(with_image), result)
    assert result is not None
    total, gradient = result
    for level in levels:
        for weight, term in configs.left_out(level.discriminator):
            distance, gradient = term.distance_and_derivative(pred, target, weight, gradient)
            total = total + distance
    return total, gradient


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


def pixel_bytes(level: Level, size: int) -> int:
    """Of all maps of a prediction and its target together, for a pixel of a level, in numbers of ``size`` bytes."""
    return (2 * max(level.discriminator.taps) * width_of(level) + 9) * size


def _some_levels(
    pred: Tensor,
    target: Tensor,
    one: FrozenDiscriminator,
    weights: Packed,
    rows: slice,
    form: Form,
    with_image: bool,
    before: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Of the levels that ``rows`` of the weights belong to, and what others gave ``before``.

    Args:
        one: any of their discriminators, which differ in numbers only.
        with_image: whether one of them compares the image itself.
    """
    tables, last = form.plan, max(one.taps)
    taps = [tap for tap in one.taps if tap > 0] + [0] * with_image
    sums = pred.new_empty(len(pred), len(taps) * tables.tiles)
    shares = {tap: Shares(sums, index * tables.tiles) for index, tap in enumerate(taps)}

    images = resampling.resample(pred, target, tables)
    maps = {1: layers.first(images, weights.layer(1, rows), form, shares.get(1), last == 1)}
    for layer in range(2, min(last, one.depth - 1) + 1):
        weight = weights.layer(layer, rows)
        maps[layer] = layers.middle(maps[layer - 1], weight, layer, form, shares.get(layer), layer == last)
    if last == one.depth:
        maps[last] = layers.score(maps[last - 1], weights.layer(last, rows), last, form, shares[last])
    gradient = maps.pop(last)
    for layer in range(last, 1, -1):
        gradient = layers.back(
            gradient, weights.layer(layer, rows), maps.pop(layer - 1), layer, form, layer - 1 in shares
        )
    gradient = layers.image(gradient, weights.layer(1, rows), images, form, shares.get(0))
    return resampling.adjoint(gradient, sums, tables, before)
