"""The critic's step written out: no autograd, no graph. The mathematics is in docs/kernels.md.

It computes what :func:`training.objectives.critic_loss` and a double backward compute, for the layers of
:class:`training.networks.Discriminator`: blocks of convolution, BatchNorm and LeakyReLU, and a last convolution. The
operations on maps are plain torch here, the oracle of every other kernel; :mod:`training.kernels.cpu.native` puts
compiled ones in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from task_losses.discriminator import SLOPE

EPS, MOMENTUM = 1e-5, 0.1  # BatchNorm's defaults


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
    """Parameters of a block: of its convolution, and BatchNorm's weight and bias."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


class Activation(NamedTuple):
    """What the forward pass of a block leaves for the passes after it.

    Attributes:
        raw: the convolution's output, (B, C, h, w).
        scale: BatchNorm's weight, (C,).
        mean, variance, rstd: of ``raw``, (C,); the variance is the biased one.
        output: the block's output, of ``raw``'s shape.
    """

    raw: Tensor
    scale: Tensor
    mean: Tensor
    variance: Tensor
    rstd: Tensor
    output: Tensor


class Passed(NamedTuple):
    """A map that went through BatchNorm and LeakyReLU, as a gradient back or as a tangent forward.

    Attributes:
        before: the map as it entered BatchNorm, (B, C, h, w).
        sums: for each channel of it, its sum and that of its product with the normalised map; a tangent's also that
            of its product with the adjoint. (2 or 3, C).
        result: the map that came out.
    """

    before: Tensor
    sums: Tensor
    result: Tensor


class Trace(NamedTuple):
    """What the penalty leaves at a block for the last pass: its two maps, and a part of the weight's gradient."""

    adjoint: Tensor
    adjoint_sums: Tensor
    tangent: Tensor
    tangent_sums: Tensor
    by_weight: Tensor


class Operations:
    """The operations on maps, in plain torch. Arguments called ``gradient`` or ``tangent`` may be overwritten.

    Attributes:
        memory_format: of the maps. Channels last would cost torch's BatchNorm two digits of its float32 sums.
    """

    memory_format = torch.contiguous_format

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """3x3 convolution without padding: (B, inputs, H, W) -> (B, outputs, H - 2, W - 2)."""
        return F.conv2d(x, weight)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """From the gradient by :meth:`convolve`'s output, that by its input."""
        # The same as a transposed convolution, and faster on the CPU.
        return F.conv2d(gradient, weight.flip(2, 3).transpose(0, 1), padding=2)

    def weight_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """From the gradient by :meth:`convolve`'s output, that by its weight."""
        result: Tensor = conv2d_weight(x, [gradient.shape[1], x.shape[1], 3, 3], gradient)
        return result

    def normalise(self, raw: Tensor, block: Block) -> Activation:
        """LeakyReLU(BatchNorm(raw)), by the statistics of ``raw``."""
        mean, variance = torch.zeros_like(block.scale), torch.zeros_like(block.scale)
        # With a momentum of 1 the "running" statistics are this batch's, the variance the unbiased one.
        output, _, rstd = torch.native_batch_norm(raw, block.scale, block.shift, mean, variance, True, 1.0, EPS)
        variance *= 1 - 1 / (raw.numel() // raw.shape[1])
        return Activation(raw, block.scale, mean, variance, rstd, F.leaky_relu_(output, SLOPE))

    def back(self, gradient: Tensor, activation: Activation) -> Passed:
        """The gradient by a block's output, taken back to the convolution's."""
        before = self._through_leaky_relu(gradient, activation)
        result, dot, total = self._through_norm(before, activation)
        return Passed(before, torch.stack([total, dot]), result)

    def along(self, tangent: Tensor, activation: Activation, adjoint: Tensor) -> Passed:
        """A derivative of the convolution's output, taken forward to the block's."""
        result, dot, total = self._through_norm(tangent, activation)
        paired = (tangent * adjoint).sum((0, 2, 3))
        return Passed(tangent, torch.stack([total, dot, paired]), self._through_leaky_relu(result, activation))

    def back_twice(self, gradient: Tensor, activation: Activation, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`back`, with what the penalty adds through the statistics.

        Returns:
            Gradients by the convolution's output, by BatchNorm's weight and by its bias.
        """
        count = gradient.numel() // gradient.shape[1]
        rstd = activation.rstd
        adjoint_total, adjoint_dot = trace.adjoint_sums
        tangent_total, tangent_dot, paired = trace.tangent_sums
        paired = paired - (adjoint_total * tangent_total + adjoint_dot * tangent_dot) / count
        by_adjoint, by_tangent = rstd / count * tangent_dot, rstd / count * adjoint_dot
        before = self._through_leaky_relu(gradient, activation)
        before.addcmul_(trace.adjoint, _wide(-by_adjoint)).addcmul_(trace.tangent, _wide(-by_tangent))
        result, dot, total = self._through_norm(before, activation)
        by_scale = dot + 2 * by_adjoint * adjoint_dot + rstd * paired
        by_shift = total + by_adjoint * adjoint_total + by_tangent * tangent_total
        by_variance = activation.scale * paired * rstd**3 / count
        result.addcmul_(activation.raw - _wide(activation.mean), _wide(-by_variance))
        return result, by_scale, by_shift

    def _through_norm(self, x: Tensor, activation: Activation) -> tuple[Tensor, Tensor, Tensor]:
        """``scale * rstd * P(x)``, P being BatchNorm's projection; the sums of x times the normalised map, and of x."""
        raw, scale, mean, _, rstd, _ = activation
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
            x, raw, scale, None, None, mean, rstd, True, EPS, [True] * 3
        )
        return result

    def _through_leaky_relu(self, x: Tensor, activation: Activation) -> Tensor:
        result: Tensor = torch.ops.aten.leaky_relu_backward(x, activation.output, SLOPE, True)
        return result


@torch.no_grad()
def critic_gradients(
    parameters: Sequence[Tensor],
    real: Tensor,
    fake: Tensor,
    mix: float,
    penalty_weight: float,
    shared_norm: bool = True,
    operations: Operations | None = None,
) -> CriticGradients:
    """The critic's losses and the gradients of all its parameters.

    Args:
        parameters: as ``Discriminator.parameters()`` orders them: for each block the convolution's weight
            (C, inputs, 3, 3) and BatchNorm's weight and bias (C,); then the last convolution's weight (1, C, 3, 3)
            and bias (1,).
        real, fake: (N, 3, H, W), of one shape.
        mix: ``between = mix * real + (1 - mix) * fake``.
        shared_norm: see :func:`training.objectives.scores`.
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
    critic = operations or Operations(), blocks, last
    between = mix * real + (1 - mix) * fake
    if shared_norm:
        groups = [Group(*critic, torch.cat([real, fake, between]), [1, -1, 0])]
    else:
        groups = [Group(*critic, images, [sign]) for images, sign in ((real, 1), (fake, -1), (between, 0))]
    penalty = groups[-1].penalise(len(between), penalty_weight)
    gradients = zip(*(group.gradients() for group in groups), strict=True)
    by_block = zip(*(group.statistics() for group in groups), strict=True)
    return CriticGradients(
        distance=torch.stack([group.distance for group in groups]).sum(),
        penalty=penalty,
        # The last bias moves the scores of real and fake alike, and no gradient by a pixel: its own is exactly zero.
        parameters=[*(torch.stack(each).sum(0) for each in gradients), torch.zeros_like(bias)],
        statistics=[(torch.stack([m for m, _ in block]), torch.stack([v for _, v in block])) for block in by_block],
    )


def critic_gradients_of_runs(
    parameters: Sequence[Sequence[Tensor]],
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    mix: Sequence[float],
    penalty_weight: float,
    shared_norm: bool = True,
    operations: Operations | None = None,
) -> list[CriticGradients]:
    """Steps of several critics, each as :func:`critic_gradients` makes it.

    One after the other: on the CPU a step fills the cores by itself. On a GPU it does not, and the Triton kernels
    make all in the same launches.
    """
    return [
        critic_gradients(*run, penalty_weight, shared_norm, operations)
        for run in zip(parameters, real, fake, mix, strict=True)
    ]


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


class Group:
    """Images that are normalised together, and the passes over them.

    The scores only ever enter as sums over an image, so the gradient by them is one number for each image. Hence the
    last convolution needs no convolution of maps: sums over nine windows of its input give the mean score and the
    gradient by its weight, and the gradient by its input is the same map for all images, up to a factor.

    Args:
        images: (B, 3, H, W).
        signs: of the mean score of each equal share of the images in the distance: 1, -1 or 0.
    """

    def __init__(
        self, operations: Operations, blocks: list[Block], last: Tensor, images: Tensor, signs: list[int]
    ) -> None:
        self.operations, self.blocks = operations, blocks
        self.inputs = [images.contiguous(memory_format=operations.memory_format)]
        self.activations: list[Activation] = []
        for block in blocks:
            raw = operations.convolve(self.inputs[-1], block.weight)
            self.activations.append(operations.normalise(raw, block))
            self.inputs.append(self.activations[-1].output)
        self.traces: list[Trace | None] = [None] * len(blocks)

        self.size = self.inputs[-1].shape[2] - 2, self.inputs[-1].shape[3] - 2  # of the scores
        share = len(images) // len(signs)
        self.seed = images.new_tensor(signs).repeat_interleave(share) / -(share * self.size[0] * self.size[1])
        one_image = images.new_ones(1, 1, *self.size)
        self.reach = operations.input_gradient(one_image, last).contiguous(memory_format=operations.memory_format)
        self.by_last = torch.einsum("b,bcij->cij", self.seed, self._windows(self.inputs[-1]))[None]
        self.distance = -(self.by_last * last).sum()

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        return [(activation.mean, activation.variance) for activation in self.activations]

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
        operations = self.operations
        backwards = [self.by_last]
        gradient = self._seeded(self.seed)
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


def _wide(per_channel: Tensor) -> Tensor:
    return per_channel[:, None, None]
