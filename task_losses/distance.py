"""Distances over the levels of a pyramid, and their gradient in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from task_losses.discriminator import FrozenDiscriminator
from task_losses.pyramid import resize, resize_adjoint


class Level(NamedTuple):
    """A discriminator and the size of the image that it is to see."""

    scale: int
    size: tuple[int, int]
    discriminator: FrozenDiscriminator


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Inside, autocast does nothing. A device that has none, like meta, needs no switching off."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def plain_distance(pred: Tensor, target: Tensor, levels: Sequence[Level]) -> Tensor:
    """Each image's distance, (N,), in operations that autograd can differentiate any number of times."""
    distances = [level.discriminator.distance(resize(pred, level.size), resize(target, level.size)) for level in levels]
    return torch.stack(distances).sum(dim=0)


def distance_and_gradient(pred: Tensor, target: Tensor, levels: Sequence[Level]) -> tuple[Tensor, Tensor]:
    """The distance, and the gradient of each image's distance by ``pred``. Called without gradient recording.

    Returns:
        (N,) distances and a gradient of the shape of ``pred``.
    """
    total = pred.new_zeros(len(pred))
    gradient = torch.zeros_like(pred)
    for level in reversed(levels):  # the finest first: the memory it frees is enough for all others
        per_image, level_gradient = level.discriminator.distance_and_gradient(
            resize(pred, level.size), resize(target, level.size)
        )
        total += per_image
        gradient += resize_adjoint(level_gradient, (pred.shape[2], pred.shape[3]))
    return total, gradient
