"""The critic's step written out in plain torch: no autograd, no graph. The mathematics is in docs/kernels.md.

This is the oracle of the Triton kernels and the fast path on the CPU. It computes what
:func:`training.objectives.critic_loss` and a double backward compute, for the layers of
:class:`training.networks.Discriminator`: blocks of convolution, BatchNorm and LeakyReLU, and a last convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses.discriminator import SLOPE
from training.networks import Block as NetworkBlock
from training.networks import Discriminator

EPS = 1e-5  # BatchNorm's defaults
MOMENTUM = 0.1


class CriticGradients(NamedTuple):
    """What a step of the critic yields.

    Attributes:
        distance: mean score of real minus mean score of fake, a scalar.
        penalty: the gradient penalty without its weight, a scalar.
        parameters: gradient of ``penalty_weight * penalty - distance`` by each parameter, in the critic's order.
        statistics: mean and biased variance of each block's BatchNorm, each (groups, C). A group is a set of images
            that are normalised together: one of real, fake and between, or three, in this order.
    """

    distance: Tensor
    penalty: Tensor
    parameters: list[Tensor]
    statistics: list[tuple[Tensor, Tensor]]


class Block(NamedTuple):
    """Parameters of a block, and per channel what its BatchNorm computes."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


class Activation(NamedTuple):
    """What the forward pass of a block leaves for the passes after it.

    Attributes:
        raw: the convolution's output, (B, C, h, w).
        mean, variance, rstd: of ``raw``, (C,); the variance is the biased one.
        output: the block's output, of ``raw``'s shape.
    """

    raw: Tensor
    mean: Tensor
    variance: Tensor
    rstd: Tensor
    output: Tensor


class Trace(NamedTuple):
    """What the penalty's two passes over a block leave for the last pass.

    Attributes:
        adjoint: gradient of the scores of ``between`` by BatchNorm's output, (B, C, h, w).
        adjoint_sum, adjoint_dot: its sum, and the sum of its product with the normalised map, (C,).
        tangent: derivative of ``raw`` along the penalty's direction, (B, C, h, w).
        tangent_sum, tangent_dot: as for the adjoint, (C,).
    """

    adjoint: Tensor
    adjoint_sum: Tensor
    adjoint_dot: Tensor
    tangent: Tensor
    tangent_sum: Tensor
    tangent_dot: Tensor


@torch.no_grad()
def critic_gradients(
    parameters: Sequence[Tensor],
    real: Tensor,
    fake: Tensor,
    mix: float,
    penalty_weight: float,
    shared_norm: bool = True,
) -> CriticGradients:
    """The critic's losses and the gradients of all its parameters.

    Args:
        parameters: as ``Discriminator.parameters()`` orders them: for each block the convolution's weight
            (C, inputs, 3, 3) and BatchNorm's weight and bias (C,); then the last convolution's weight (1, C, 3, 3)
            and bias (1,).
        real, fake: (N, 3, H, W), of one shape.
        mix: ``between = mix * real + (1 - mix) * fake``.
        shared_norm: see :func:`training.objectives.scores`.
    """
    *flat, last, bias = parameters
    blocks = [Block(*flat[i : i + 3]) for i in range(0, len(flat), 3)]
    between = mix * real + (1 - mix) * fake
    batches = [(real, 1), (fake, -1), (between, 0)]
    count = len(real)
    if shared_norm:
        signs = [sign for _, sign in batches for _ in range(count)]
        groups = [_Group(blocks, last, torch.cat([real, fake, between]), signs)]
    else:
        groups = [_Group(blocks, last, batch, [sign] * count) for batch, sign in batches]
    penalty = groups[-1].penalise(count, penalty_weight)
    gradients = [group.gradients() for group in groups]
    distance = torch.stack([group.distance for group in groups]).sum()
    by_block = zip(*(group.statistics() for group in groups), strict=True)
    statistics = [(torch.stack([m for m, _ in block]), torch.stack([v for _, v in block])) for block in by_block]
    total = [torch.stack(each).sum(0) for each in zip(*gradients, strict=True)]
    # The bias moves the scores of real and fake alike, and no gradient by a pixel: its own is exactly zero.
    return CriticGradients(distance, penalty, [*total, torch.zeros_like(bias)], statistics)


@torch.no_grad()
def update_running_statistics(
    critic: Discriminator, statistics: Sequence[tuple[Tensor, Tensor]], images: int, size: tuple[int, int]
) -> None:
    """Moves the running statistics as BatchNorm does in training mode, one group after the other.

    Args:
        statistics: as in :class:`CriticGradients`.
        images: number of images in each group.
        size: height and width of the images.
    """
    height, width = size
    for block, (means, variances) in zip(critic.blocks, statistics, strict=True):
        assert isinstance(block, NetworkBlock)
        norm = block.norm
        height, width = height - 2, width - 2
        count = images * height * width
        for mean, variance in zip(means, variances, strict=True):
            norm.get_buffer("running_mean").lerp_(mean, MOMENTUM)
            norm.get_buffer("running_var").lerp_(variance * (count / (count - 1)), MOMENTUM)
        norm.get_buffer("num_batches_tracked").add_(len(means))


class _Group:
    """Images that are normalised together, and the passes over them.

    Args:
        images: (B, 3, H, W).
        signs: of each image's mean score in the distance: 1, -1 or 0.
    """

    def __init__(self, blocks: list[Block], last: Tensor, images: Tensor, signs: list[int]) -> None:
        self.blocks, self.last = blocks, last
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.activations: list[Activation] = []
        x = self.images
        for block in blocks:
            self.activations.append(_forward(x, block))
            x = self.activations[-1].output
        scores = F.conv2d(x, last)
        per_image = scores[0].numel() * max(1, signs.count(1), signs.count(-1))
        self.seed = scores.new_tensor(signs).view(-1, 1, 1, 1).div(-per_image).expand_as(scores).contiguous()
        self.distance = -(scores * self.seed).sum()
        self.traces: list[Trace] = []
        self.direct: list[Tensor] = []

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        return [(a.mean, a.variance) for a in self.activations]

    def inputs(self, index: int) -> Tensor:
        return self.images if index == 0 else self.activations[index - 1].output

    def penalise(self, count: int, weight: float) -> Tensor:
        """The gradient penalty of the last ``count`` images; keeps what its gradient needs."""
        seed = torch.zeros_like(self.seed)
        seed[-count:] = 1
        gradient = _input_gradient(seed, self.last)
        adjoints = []
        for index in reversed(range(len(self.blocks))):
            activation, block = self.activations[index], self.blocks[index]
            adjoint = _leaky_relu_backward(gradient, activation.output)
            through, dot, total = _norm_backward(adjoint, activation, block)
            adjoints.append((adjoint, total, dot, through))
            gradient = _input_gradient(through if index else through[-count:], block.weight)
        adjoints.reverse()
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        excess = norm - 1
        # Where the gradient is zero its norm has no derivative: zero, as autograd takes it.
        slope = torch.where(norm > 0, 2 * weight / norm.numel() * excess / norm, 0)
        tangent = torch.zeros_like(self.images)
        tangent[-count:] = slope * gradient
        for block, activation, (adjoint, total, dot, through) in zip(
            self.blocks, self.activations, adjoints, strict=True
        ):
            self.direct.append(_weight_gradient(tangent, through, block.weight))
            moved = F.conv2d(tangent, block.weight)
            back, moved_dot, moved_sum = _norm_backward(moved, activation, block)
            tangent = _leaky_relu_backward(back, activation.output)
            self.traces.append(Trace(adjoint, total, dot, moved, moved_sum, moved_dot))
        self.direct.append(_weight_gradient(tangent, seed, self.last))
        return excess.square().mean()

    def gradients(self) -> list[Tensor]:
        """Gradients of all parameters but the last bias, in the critic's order."""
        last = _weight_gradient(self.inputs(len(self.blocks)), self.seed, self.last)
        if self.direct:
            last = last + self.direct[-1]
        backwards = [last]
        gradient = _input_gradient(self.seed, self.last)
        for index in reversed(range(len(self.blocks))):
            activation, block = self.activations[index], self.blocks[index]
            adjoint = _leaky_relu_backward(gradient, activation.output)
            if self.traces:
                through, by_scale, by_shift = _with_second_order(adjoint, activation, block, self.traces[index])
            else:
                through, by_scale, by_shift = _norm_backward(adjoint, activation, block)
            by_weight = _weight_gradient(self.inputs(index), through, block.weight)
            if self.direct:
                by_weight = by_weight + self.direct[index]
            backwards += [by_shift, by_scale, by_weight]
            if index:
                gradient = _input_gradient(through, block.weight)
        return backwards[::-1]


def _with_second_order(
    adjoint: Tensor, activation: Activation, block: Block, trace: Trace
) -> tuple[Tensor, Tensor, Tensor]:
    """BatchNorm's backward pass, with what the penalty adds through its statistics: gradients by raw, scale, shift."""
    count = adjoint.numel() // adjoint.shape[1]
    rstd = activation.rstd
    paired = (
        (trace.tangent * trace.adjoint).sum((0, 2, 3))
        - (trace.adjoint_sum * trace.tangent_sum + trace.adjoint_dot * trace.tangent_dot) / count
    )
    by_adjoint, by_tangent = rstd / count * trace.tangent_dot, rstd / count * trace.adjoint_dot
    adjoint = adjoint - _wide(by_adjoint) * trace.adjoint - _wide(by_tangent) * trace.tangent
    through, by_scale, by_shift = _norm_backward(adjoint, activation, block)
    by_scale = by_scale + by_adjoint * trace.adjoint_dot + by_tangent * trace.tangent_dot + rstd * paired
    by_shift = by_shift + by_adjoint * trace.adjoint_sum + by_tangent * trace.tangent_sum
    through = through - _wide(block.scale * paired * rstd**3 / count) * (activation.raw - _wide(activation.mean))
    return through, by_scale, by_shift


def _forward(x: Tensor, block: Block) -> Activation:
    raw = F.conv2d(x, block.weight)
    unbiased = torch.zeros_like(block.scale)  # with a momentum of 1, "running" means this batch's
    unused = torch.zeros_like(block.scale)
    normalised, mean, rstd = torch.native_batch_norm(raw, block.scale, block.shift, unused, unbiased, True, 1.0, EPS)
    count = raw.numel() // raw.shape[1]
    return Activation(raw, mean, unbiased * ((count - 1) / count), rstd, F.leaky_relu_(normalised, SLOPE))


def _norm_backward(gradient: Tensor, activation: Activation, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """``scale * rstd * P(gradient)``, P being BatchNorm's projection; the dot with the normalised map; the sum."""
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, activation.raw, block.scale, None, None, activation.mean, activation.rstd, True, EPS, [True] * 3
    )
    return result


def _leaky_relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.leaky_relu_backward(gradient, output, SLOPE, True)
    return result


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(gradient, weight.flip(2, 3).transpose(0, 1), padding=2)


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    result: Tensor = torch.nn.grad.conv2d_weight(x, list(weight.shape), gradient)
    return result


def _wide(per_channel: Tensor) -> Tensor:
    return per_channel[:, None, None]
