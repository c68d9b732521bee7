"""How far a device's losses and gradients are from float64 on the CPU, with and without TF32.

The released weights, since rounding depends on them; without TF32 is how a network is trained that must be exact.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses import DenoiseLoss, JPEGLoss, SRLoss
from training.bench.cost.timing import tf32
from training.bench.device.losses import by_kernels, by_plain_torch
from training.bench.device.work import Work

LOSSES = (JPEGLoss, SRLoss, DenoiseLoss)
SHAPES = ((8, 3, 96, 96), (1, 3, 512, 512))
SMALL = ((2, 3, 40, 44),)


def pair(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A smooth picture with some noise, and the picture: values in [0, 1], in float64."""
    draws = torch.Generator().manual_seed(0)
    images, channels, height, width = shape
    coarse = torch.rand(images, channels, height // 8, width // 8, generator=draws, dtype=torch.float64)
    target = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.randn(shape, generator=draws, dtype=torch.float64)
    return (target + 0.05 * noise).clamp(0, 1), target


def errors(work: Work) -> None:
    """By plain torch."""
    _compare(work, by_plain_torch)


def fused(work: Work) -> None:
    """By the losses' own kernels."""
    with by_kernels(work):  # where they cannot run the part ends here
        pass
    _compare(work, lambda: by_kernels(work))


def _compare(work: Work, way: Callable[[], AbstractContextManager[object]]) -> None:
    """Args: way: what the losses compute by on the device."""
    for shape in SMALL if work.small else SHAPES:
        # Rounded first: what the device gets and what it is compared with are the same numbers.
        pred, target = (x.float() for x in pair(shape))
        for kind in LOSSES:
            exact, exact_gradient = _value_and_gradient(kind().double(), pred.double(), target.double())
            loss = kind().to(work.device)
            for allowed in (False, True):
                with work.noted(loss=kind.__name__, shape=shape, tf32=allowed) as row, tf32(allowed), way():
                    value, gradient = _value_and_gradient(loss, pred.to(work.device), target.to(work.device))
                    difference = gradient.cpu().double() - exact_gradient
                    row["value"] = exact.item()
                    row["error_of_the_value"] = abs(value.item() / exact.item() - 1)
                    row["error_of_the_gradient"] = (difference.norm() / exact_gradient.norm()).item()
                    row["largest_error_of_the_gradient"] = (difference.abs().max() / exact_gradient.abs().max()).item()
                    along = F.cosine_similarity(gradient.cpu().double().flatten(), exact_gradient.flatten(), dim=0)
                    row["one_minus_cosine_of_the_gradient"] = 1 - along.item()


def _value_and_gradient(loss: torch.nn.Module, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    pred = pred.clone().requires_grad_()
    value = loss(pred, target)
    (gradient,) = torch.autograd.grad(value, pred)
    return value.detach(), gradient


PARTS = {"errors": errors, "fused": fused}
