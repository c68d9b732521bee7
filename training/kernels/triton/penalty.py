"""The images of a step, and the gradient penalty's derivative by the gradient at the last of them.

With g the gradient of the scores by the pixels of ``between`` and |g| its norm over a pixel's channels, the penalty is
the mean of (|g| - 1)^2 over pixels; v = weight * d penalty / dg is the direction of the tangent pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.kernels.triton.launch import cdiv, kernel_dtype, launch_kernel
from training.kernels.triton.optional import jit, tl
from training.kernels.triton.prologue import Batch

_BLOCK = 1024


def arrange_reference(real: Tensor, fake: Tensor, settings: Tensor, kinds: int) -> Tensor:
    """The same in plain torch."""
    mix = settings[:, 0].view(-1, 1, 1, 1, 1)
    every = torch.stack([real, fake, mix * real + (1 - mix) * fake][:kinds])
    return every.flatten(0, 2).permute(0, 2, 3, 1).contiguous()


def arrange(real: Tensor, fake: Tensor, settings: Tensor, kinds: int) -> Tensor:
    """Lays out the images of a step.

    Args:
        real, fake: (runs, N, 3, H, W), contiguous.
        settings: (runs, 2): mix and penalty weight of each run.
        kinds: 2, or 3 with ``between``.

    Returns:
        (kinds runs N, H, W, 3): real, fake and perhaps ``mix * real + (1 - mix) * fake``, channels last.
    """
    runs, images, _, height, width = real.shape
    out = real.new_empty(kinds * runs * images, height, width, 3)
    grid = (cdiv(height * width, _BLOCK), runs * images)
    launch_kernel(arrange_kernel, grid, real, fake, settings, out, height * width, images, KINDS=kinds, BLOCK=_BLOCK)
    return out


@jit(do_not_specialize=["pixels", "images"])
def arrange_kernel(real_ptr, fake_ptr, settings_ptr, out_ptr, pixels, images, KINDS: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (blocks of pixels, images of one kind)."""
    image = tl.program_id(1).to(tl.int64)
    mix = tl.load(settings_ptr + image // images * 2)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    kind = tl.num_programs(1).to(tl.int64) * pixels * 3
    for channel in tl.static_range(3):
        planar = (image * 3 + channel) * pixels + pixel
        real = tl.load(real_ptr + planar, mask=mask, other=0.0)
        fake = tl.load(fake_ptr + planar, mask=mask, other=0.0)
        target = out_ptr + (image * pixels + pixel) * 3 + channel
        tl.store(target, real, mask=mask)
        tl.store(target + kind, fake, mask=mask)
        if KINDS == 3:
            tl.store(target + 2 * kind, mix * real + (1 - mix) * fake, mask=mask)


def penalty_reference(gradient: Tensor, settings: Tensor, batch: Batch, reached: int) -> tuple[Tensor, Tensor]:
    """The same in plain torch; the sums come as one row, (runs, 1)."""
    norm = torch.linalg.vector_norm(gradient, dim=3, keepdim=True)
    weight = settings[:, 1].repeat_interleave(batch.images).view(-1, 1, 1, 1)
    count = batch.images * norm[0].numel()
    slope = torch.where(norm > 0, weight * 2 / count * (norm - 1) / norm, 0)
    direction = gradient.new_zeros(reached, *gradient.shape[1:])
    direction[-len(gradient) :] = slope * gradient
    return direction, (norm - 1).square().view(batch.runs, 1, -1).sum(2)


def penalty(gradient: Tensor, settings: Tensor, batch: Batch, reached: int) -> tuple[Tensor, Tensor]:
    """The direction of the tangent pass.

    Args:
        gradient: (runs N, H, W, 3): of the scores by the pixels of ``between``.
        settings: (runs, 2): mix and penalty weight of each run.
        reached: number of images of the tangent pass, the last of which are ``between``; the others stand still.

    Returns:
        v of shape (reached, H, W, 3), and partial sums of (|g| - 1)^2, (runs, rows).
    """
    total, height, width, _ = gradient.shape
    blocks = cdiv(height * width, _BLOCK)
    direction = gradient.new_empty(reached, height, width, 3)
    sums = gradient.new_empty(batch.runs, batch.images * blocks)
    launch_kernel(
        penalty_kernel, (blocks, total), gradient, settings, direction, sums, height * width, batch.images,
        STILL=reached // total - 1, BLOCK=_BLOCK, SUMS=kernel_dtype(gradient.dtype),
    )  # fmt: skip
    return direction, sums


@jit(do_not_specialize=["pixels", "images"])
def penalty_kernel(
    gradient_ptr, settings_ptr, direction_ptr, sums_ptr, pixels, images,
    STILL: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of pixels, images of one kind); STILL kinds before ``between`` get a direction of 0."""
    image = tl.program_id(1).to(tl.int64)
    weight = tl.load(settings_ptr + image // images * 2 + 1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    square = tl.zeros((BLOCK,), SUMS)
    for channel in tl.static_range(3):
        g = tl.load(gradient_ptr + (image * pixels + pixel) * 3 + channel, mask=mask, other=0.0)
        square += g * g
    norm = tl.sqrt(square)
    excess = norm - 1
    # Where the gradient is zero its norm has no derivative: zero, as autograd takes it.
    moving = norm > 0
    slope = tl.where(moving, weight * 2 / (images * pixels).to(SUMS) * excess / tl.where(moving, norm, 1), 0)
    kind = tl.num_programs(1).to(tl.int64) * pixels * 3
    for channel in tl.static_range(3):
        place = (image * pixels + pixel) * 3 + channel
        g = tl.load(gradient_ptr + place, mask=mask, other=0.0)
        for still in tl.static_range(STILL):
            tl.store(direction_ptr + still * kind + place, tl.zeros((BLOCK,), SUMS), mask=mask)
        tl.store(direction_ptr + STILL * kind + place, slope * g, mask=mask)
    row = image * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums_ptr + row, tl.sum(tl.where(mask, excess * excess, 0), 0))
