"""A loss's distances and gradient by kernels that take all levels and both images through one layer at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from task_losses.discriminator import FrozenDiscriminator
from task_losses.fused import layers, resampling
from task_losses.fused.layers import Form, Shares
from task_losses.fused.plan import Plan, Size, Tiles, plan
from task_losses.fused.weights import Packed, packed

_captured: dict[int, Plan] = {}  # what a CUDA graph reads must live as long as the process

# Bytes of maps up to which all levels are computed together. Where they would take more, launches cost little.
TOGETHER = 2**29


def distance_and_gradient(
    pred: Tensor,
    target: Tensor,
    sizes: Sequence[Size],
    discriminators: Sequence[FrozenDiscriminator],
    tiles: Tiles,
    precision: str,
    together: int = TOGETHER,
) -> tuple[Tensor, Tensor]:
    """As :func:`task_losses.distance.distance_and_gradient`, for levels given by size and discriminator.

    Args:
        pred, target: (N, 3, H, W), any strides.
        tiles, precision: see :mod:`task_losses.fused.configs`.
        together: bytes; see :data:`TOGETHER`.

    Returns:
        (N,) distances and (N, 3, H, W) gradients.
    """
    weights = packed(discriminators)
    height, width = pred.shape[2], pred.shape[3]
    result = None
    for some in groups(sizes, len(pred) * _pixel_bytes(discriminators[-1], pred.element_size()), together):
        chosen = discriminators[some]
        with_image = tuple(0 in one.taps for one in chosen)
        tables = plan(tuple(sizes[some]), with_image, (height, width), tiles, pred.dtype, pred.device)
        if pred.is_cuda and torch.cuda.is_current_stream_capturing():
            _captured[id(tables)] = tables
        result = _levels(pred, target, chosen[-1], weights, some, tables, tiles, precision, any(with_image), result)
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


def _pixel_bytes(discriminator: FrozenDiscriminator, size: int) -> int:
    """Of all maps of a prediction and its target, for a pixel of a level."""
    last = max(discriminator.taps)
    channels = discriminator.layers()[0][0].shape[0]
    return (2 * last * channels + 9) * size


def _levels(
    pred: Tensor,
    target: Tensor,
    one: FrozenDiscriminator,
    weights: Packed,
    rows: slice,
    tables: Plan,
    tiles: Tiles,
    precision: str,
    with_image: bool,
    before: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Of some levels, and what others gave ``before``."""
    last = max(one.taps)
    taps = [tap for tap in one.taps if tap > 0] + [0] * with_image
    channels = one.layers()[0][0].shape[0]
    form = Form(tables, tiles, channels, one.exponent, one.image_exponent, precision)
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
