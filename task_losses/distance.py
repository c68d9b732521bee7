"""Distances over the levels of a pyramid, and their gradient in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from task_losses import fused
from task_losses.discriminator import FrozenDiscriminator
from task_losses.joined import LARGEST, WORTH_OF_A_GROUP, JoinedDiscriminators, groups, joinable
from task_losses.pyramid import (
    resize,
    resize_adjoint,
    resize_area,
    resize_levels,
    resize_levels_adjoint,
    rows_outermost,
)


class Level(NamedTuple):
    """A discriminator and the size of the image that it is to see."""

    scale: int
    size: tuple[int, int]
    discriminator: FrozenDiscriminator


def plain_distance(pred: Tensor, target: Tensor, levels: Sequence[Level], mask: Tensor | None = None) -> Tensor:
    """Each image's distance, (N,), in operations that autograd can differentiate any number of times.

    Args:
        mask: (N, 1, H, W), weights of the pixels, whose mean is 1, or 0 where nothing counts. No gradient leads to it.
    """
    distances = [
        level.discriminator.distance(
            resize(pred, level.size), resize(target, level.size), _weights_of_level(mask, level)
        )
        for level in levels
    ]
    return torch.stack(distances).sum(dim=0)


def distance_alone(pred: Tensor, target: Tensor, levels: Sequence[Level], mask: Tensor | None = None) -> Tensor:
    """:func:`plain_distance` where nothing is differentiated, as in validation; where kernels make it, by them.

    They make the gradient on the way, and yet take less time than the launches of plain operations; and so a value of
    validation is that of training. Large images, whose maps would take much memory for it, are left to plain ones.
    """
    plain = partial(distance_and_gradient, join=False)
    if mask is None and fused.takes(pred, levels, plain=plain) and fused.all_at_once(pred, levels):
        return fused.distance_and_gradient(pred, target, levels)[0]
    return plain_distance(pred, target, levels, mask)


def _weights_of_level(mask: Tensor | None, level: Level) -> Tensor | None:
    """The transpose of how a level's map becomes one of the image's pixels: so that one mean is the other."""
    return None if mask is None else resize_area(mask, level.size)


def distance_and_gradient(
    pred: Tensor,
    target: Tensor,
    levels: Sequence[Level],
    join: bool | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The distance, and the gradient of each image's distance by ``pred``. Called without gradient recording.

    Args:
        join: whether small levels become one network, which takes fewer operations and more arithmetic. Default:
            wherever operations have to be launched, which is everywhere but on the CPU; and the kernels of
            :mod:`task_losses.fused` where they are asked for.
        mask: as for :func:`plain_distance`. With one, levels are taken one by one, in plain torch.

    Returns:
        (N,) distances and a gradient of the shape of ``pred``.
    """
    if join is None and mask is None and fused.takes(pred, levels, plain=partial(distance_and_gradient, join=False)):
        return fused.distance_and_gradient(pred, target, levels)
    size = (pred.shape[2], pred.shape[3])
    alone, joined = list(levels), list[list[Level]]()
    if mask is None and (join or (join is None and pred.device.type != "cpu")):
        alone, joined = split(levels, 2 * len(pred), size)
    if not alone:
        total, gradient = _of_groups(pred, target, joined)
        return total, gradient.contiguous()
    total = pred.new_zeros(len(pred))
    gradient = torch.zeros_like(pred)
    for level in reversed(alone):  # the finest first: the memory it frees is enough for all others
        per_image, level_gradient = level.discriminator.distance_and_gradient(
            resize(pred, level.size), resize(target, level.size), _weights_of_level(mask, level)
        )
        total += per_image
        gradient += resize_adjoint(level_gradient, size)
    if joined:
        per_image, joined_gradient = _of_groups(pred, target, joined)
        total += per_image
        gradient += joined_gradient
    return total, gradient


def _of_groups(pred: Tensor, target: Tensor, joined: Sequence[Sequence[Level]]) -> tuple[Tensor, Tensor]:
    """The distance and gradient of groups of levels, each as one network."""
    size = (pred.shape[2], pred.shape[3])
    pair = rows_outermost([pred, target])
    distances = list[Tensor]()
    gradient: Tensor | None = None
    for group in reversed(joined):
        network = JoinedDiscriminators.of([level.discriminator for level in group])
        sizes = [level.size for level in group]
        of_parts, group_gradient = network.pair_distances_and_gradient(resize_levels(pair, sizes), sizes)
        distances += of_parts
        gradient = resize_levels_adjoint(group_gradient, sizes, size, onto=gradient)
        for level in group:
            if 0 in level.discriminator.taps:  # of the image itself: the finest level, which is not resampled
                of_image, gradient = level.discriminator.image_distance_and_gradient(pred, target, gradient)
                distances.append(of_image)
    assert gradient is not None
    return torch.stack(distances or [pred.new_zeros(len(pred))]).sum(dim=0), gradient


def split(
    levels: Sequence[Level], images: int, size: tuple[int, int], worth: int = WORTH_OF_A_GROUP
) -> tuple[list[Level], list[list[Level]]]:
    """Levels to take one by one, and groups of levels to join.

    Args:
        images: at each level, predictions and references.
        size: of the images.
        worth: see :func:`task_losses.joined.groups`.
    """
    if max(size) > LARGEST:
        return list(levels), []
    parts = [level.discriminator for level in levels]
    apart = (True, *(not joinable(one, other) for one, other in pairwise(parts)))
    alone, joined = [], []
    for group in groups(tuple(level.size for level in levels), apart, images, worth):
        members = [levels[index] for index in group]
        first = members[0]
        pixels = images * first.size[0] * first.size[1]
        if len(group) > 1 or (pixels <= worth and joinable(first.discriminator, first.discriminator)):
            joined.append(members)
        else:
            alone.append(first)
    return alone, joined
