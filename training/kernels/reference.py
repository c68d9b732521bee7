"""The critic's step written out: no autograd, no graph. The mathematics is in docs/critic_step.md.

It computes what an objective of :mod:`training.objectives` and autograd compute, for the layers of
:class:`training.networks.Discriminator`: blocks of convolution, BatchNorm and LeakyReLU, and a last convolution. The
operations on maps are those of :mod:`training.kernels.operations`, or compiled ones in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.kernels.operations import MOMENTUM, Activation, Block, Operations, Passed, Trace
from training.objectives import Objective


class CriticGradients(NamedTuple):
    """What a step of the critic yields.

    Attributes:
        distance: mean score of real minus mean score of fake, a scalar.
        penalty: the gradient penalty without its weight, a scalar; 0 for an objective without one.
        parameters: gradient of the objective by each parameter, in the critic's order.
        statistics: mean and biased variance of each block's BatchNorm, each (groups, C). A group is a set of images
            that are normalised together: one of all kinds, or one each of real, fake and between, in this order.
    """

    distance: Tensor
    penalty: Tensor
    parameters: list[Tensor]
    statistics: list[tuple[Tensor, Tensor]]


class Critic(NamedTuple):
    """The layers of a critic, and what to compute with: the last convolution's weight (1, C, 3, 3) and bias (1,)."""

    operations: Operations
    blocks: list[Block]
    last: Tensor
    bias: Tensor


@torch.no_grad()
def critic_gradients(
    parameters: Sequence[Tensor],
    real: Tensor,
    fake: Tensor,
    mix: float,
    objective: Objective,
    operations: Operations | None = None,
) -> CriticGradients:
    """The critic's losses and the gradients of all its parameters.

    Args:
        parameters: as ``Discriminator.parameters()`` orders them: for each block the convolution's weight
            (C, inputs, 3, 3) and BatchNorm's weight and bias (C,); then the last convolution's weight (1, C, 3, 3)
            and bias (1,).
        real, fake: (N, 3, H, W), of one shape.
        mix: ``between = mix * real + (1 - mix) * fake``, where the penalty is taken.
        operations: to compute with; plain torch if None.

    Raises:
        ValueError: images that do not fit each other or the critic.
    """
    *flat, last, bias = parameters
    smallest = 2 * (len(flat) // 3) + 3  # the critic's receptive field
    if real.shape != fake.shape or real.ndim != 4 or real.shape[1] != 3 or min(real.shape[2:]) < smallest:
        raise ValueError(
            f"expected real and fake of one shape (N, 3, H, W), H and W at least {smallest}, "
            f"got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    blocks = [Block(*flat[i : i + 3]) for i in range(0, len(flat), 3)]
    critic = Critic(operations or Operations(), blocks, last, bias)
    if objective.kind == "wgan-gp":
        return _wgan_gp(critic, [real, fake, mix * real + (1 - mix) * fake], objective)
    return _hinge(critic, [real, fake], objective)


def critic_gradients_of_runs(
    parameters: Sequence[Sequence[Tensor]],
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    mix: Sequence[float],
    objective: Objective,
    operations: Operations | None = None,
) -> list[CriticGradients]:
    """Steps of several critics, each as :func:`critic_gradients` makes it.

    One after the other: on the CPU a step fills the cores by itself. On a GPU it does not, and the Triton kernels
    make all in the same launches.
    """
    return [critic_gradients(*run, objective, operations) for run in zip(parameters, real, fake, mix, strict=True)]


@torch.no_grad()
def update_running_statistics(
    norms: Sequence[nn.BatchNorm2d], statistics: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int]
) -> None:
    """Moves the running statistics as BatchNorm does in training mode, by one group after the other.

    Args:
        norms: of the critic's blocks.
        statistics: as in :class:`CriticGradients`.
        counts: numbers that went into each block's statistics of a group and a channel: images times pixels.
    """
    for norm, (means, variances), count in zip(norms, statistics, counts, strict=True):
        for mean, variance in zip(means, variances, strict=True):
            norm.get_buffer("running_mean").mul_(1 - MOMENTUM).add_(mean, alpha=MOMENTUM)
            unbiased = variance * (count / (count - 1))
            norm.get_buffer("running_var").mul_(1 - MOMENTUM).add_(unbiased, alpha=MOMENTUM)
        norm.get_buffer("num_batches_tracked").add_(len(means))


class Pass:
    """Images that are normalised together, on their way through the blocks and back.

    Args:
        images: (B, 3, H, W).
    """

    def __init__(self, critic: Critic, images: Tensor) -> None:
        self.operations, self.blocks, self.last, _ = critic
        self.inputs = [self._ordered(images)]
        self.activations: list[Activation] = []
        for block in self.blocks:
            raw = self.operations.convolve(self.inputs[-1], block.weight)
            self.activations.append(self.operations.normalise(raw, block))
            self.inputs.append(self.activations[-1].output)
        self.traces: list[Trace | None] = [None] * len(self.blocks)

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        return [(activation.mean, activation.variance) for activation in self.activations]

    def back(self, gradient: Tensor) -> list[Tensor]:
        """Gradients of the blocks' parameters, in the critic's order.

        Args:
            gradient: by the last block's output.
        """
        operations = self.operations
        backwards = []
        for index in reversed(range(len(self.blocks))):
            trace = self.traces[index]
            if trace is None:
                _, sums, result = operations.back(gradient, self.activations[index])
                by_shift, by_scale = sums.to(result.dtype)
                by_weight = operations.weight_gradient(self.inputs[index], result)
            else:
                result, by_scale, by_shift = operations.back_twice(gradient, self.activations[index], trace)
                by_weight = operations.weight_gradient(self.inputs[index], result) + trace.by_weight
            backwards += [by_shift, by_scale, by_weight]
            if index:
                gradient = operations.input_gradient(result, self.blocks[index].weight)
        return backwards[::-1]

    def _ordered(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.operations.memory_format)


def _hinge(critic: Critic, images: list[Tensor], objective: Objective) -> CriticGradients:
    """:func:`training.objectives.hinge_loss`: each patch has a say of its own, or none beyond the margin."""
    operations, weights = critic.operations, [*(block.weight for block in critic.blocks), critic.last]
    units = operations.units(weights) if objective.spectral_norm else None
    if units is not None:
        *acting, last = (unit.weight for unit in units)
        blocks = [block._replace(weight=weight) for block, weight in zip(critic.blocks, acting, strict=True)]
        critic = critic._replace(blocks=blocks, last=last)
    passes = [Pass(critic, batch) for batch in ([torch.cat(images)] if objective.shared_norm else images)]
    scores = torch.cat([operations.convolve(p.inputs[-1], critic.last) for p in passes]) + critic.bias
    of_real, of_fake = scores.chunk(2)
    seed = torch.cat([-(of_real < 1).to(scores), (of_fake > -1).to(scores)]) / of_real.numel()

    by_pass = [
        [
            *one.back(operations.input_gradient(part, critic.last)),
            operations.weight_gradient(one.inputs[-1], part),
        ]
        for one, part in zip(passes, seed.chunk(len(passes)), strict=True)
    ]
    *gradients, by_last = by_pass[0]
    for other in by_pass[1:]:
        *gradients, by_last = (one + two for one, two in zip([*gradients, by_last], other, strict=True))
    if units is not None:
        gradients[::3] = [u.gradient(g) for u, g in zip(units[:-1], gradients[::3], strict=True)]
        by_last = units[-1].gradient(by_last)
    return CriticGradients(
        distance=of_real.mean() - of_fake.mean(),
        penalty=scores.new_zeros(()),
        parameters=[*gradients, by_last, seed.sum().expand_as(critic.bias)],
        statistics=_statistics(passes),
    )


def _wgan_gp(critic: Critic, images: list[Tensor], objective: Objective) -> CriticGradients:
    """:func:`training.objectives.critic_loss`: scores enter as means, and the last kind of images has the penalty."""
    if objective.shared_norm:
        passes = [MeanScores(critic, torch.cat(images), [1, -1, 0])]
    else:
        passes = [MeanScores(critic, batch, [sign]) for batch, sign in zip(images, (1, -1, 0), strict=True)]
    penalty = passes[-1].penalise(len(images[-1]), objective.penalty_weight)
    gradients = zip(*(one.gradients() for one in passes), strict=True)
    return CriticGradients(
        distance=torch.stack([one.distance for one in passes]).sum(),
        penalty=penalty,
        # The last bias moves the scores of real and fake alike, and no gradient by a pixel: its own is exactly zero.
        parameters=[*(torch.stack(each).sum(0) for each in gradients), torch.zeros_like(critic.bias)],
        statistics=_statistics(passes),
    )


def _statistics(passes: Sequence[Pass]) -> list[tuple[Tensor, Tensor]]:
    by_block = zip(*(one.statistics() for one in passes), strict=True)
    return [(torch.stack([m for m, _ in block]), torch.stack([v for _, v in block])) for block in by_block]


class MeanScores(Pass):
    """A pass whose scores only ever enter as sums over an image, so the gradient by them is one number for each image.

    Hence the last convolution needs no convolution of maps: sums over nine windows of its input give the mean score
    and the gradient by its weight, and the gradient by its input is the same map for all images, up to a factor.

    Args:
        signs: of the mean score of each equal share of the images in the distance: 1, -1 or 0.
    """

    def __init__(self, critic: Critic, images: Tensor, signs: list[int]) -> None:
        super().__init__(critic, images)
        self.size = self.inputs[-1].shape[2] - 2, self.inputs[-1].shape[3] - 2  # of the scores
        share = len(images) // len(signs)
        self.seed = images.new_tensor(signs).repeat_interleave(share) / -(share * self.size[0] * self.size[1])
        one_image = images.new_ones(1, 1, *self.size)
        self.reach = self._ordered(self.operations.input_gradient(one_image, self.last))
        self.by_last = torch.einsum("b,bcij->cij", self.seed, self._windows(self.inputs[-1]))[None]
        self.distance = -(self.by_last * self.last).sum()

    def penalise(self, count: int, weight: float) -> Tensor:
        """The gradient penalty at the last ``count`` images; keeps what its own gradient needs."""
        operations = self.operations
        chosen = torch.zeros_like(self.seed)
        chosen[-count:] = 1
        gradient = self._seeded(chosen)
        adjoints: list[Passed] = []
        for index in reversed(range(len(self.blocks))):
            passed = operations.back(gradient, self.activations[index])
            adjoints.append(passed)
            wanted = passed.result if index else passed.result[-count:]
            gradient = operations.input_gradient(wanted, self.blocks[index].weight)
        norm: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        excess = norm - 1
        # Where the gradient vanishes its norm has no derivative: zero, as autograd takes it.
        factor = torch.where(norm > 0, 2 * weight / norm.numel() * excess / norm, 0)
        tangent = torch.zeros_like(self.inputs[0])
        tangent[-count:] = factor * gradient
        for index, block in enumerate(self.blocks):
            adjoint = adjoints.pop()
            moving = slice(None) if index else slice(-count, None)  # at first only the penalised images move
            by_weight = operations.weight_gradient(tangent[moving], adjoint.result[moving])
            moved = operations.convolve(tangent, block.weight)
            passed = operations.along(moved, self.activations[index], adjoint.before)
            self.traces[index] = Trace(adjoint.before, adjoint.sums, passed.before, passed.sums, by_weight)
            tangent = passed.result
        self.by_last = self.by_last + self._windows(tangent[-count:]).sum(0, keepdim=True)
        return excess.square().mean()

    def gradients(self) -> list[Tensor]:
        """Gradients of all parameters but the last bias, in the critic's order."""
        return [*self.back(self._seeded(self.seed)), self.by_last]

    def _seeded(self, seed: Tensor) -> Tensor:
        """Gradient by the last block's output; seed: (B,), the gradient by each of an image's scores."""
        return self.reach * seed[:, None, None, None]

    def _windows(self, x: Tensor) -> Tensor:
        """(B, C, 3, 3): for each tap of the last convolution, the sum over the pixels of x that it sees."""
        rows, columns = (_band(size).to(x) for size in self.size)
        images, channels, height, width = x.shape
        by_row: Tensor = rows @ x.permute(0, 2, 3, 1).reshape(images, height, width * channels)
        by_pixel: Tensor = columns @ by_row.view(images, 3, width, channels)
        return by_pixel.permute(0, 3, 1, 2)


def _band(size: int) -> Tensor:
    """(3, size + 2): row i has ones from i to i + size."""
    return torch.stack([F.pad(torch.ones(size), (i, 2 - i)) for i in range(3)])
