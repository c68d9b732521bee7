"""The operations on maps that a critic's update is made of, in plain torch: the oracle of every compiled one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from task_losses.architecture import SLOPE
from training.objectives import top_projectors

EPS, MOMENTUM = 1e-5, 0.1  # BatchNorm's defaults


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


class Unit(NamedTuple):
    """A convolution's weight divided by its spectral norm.

    Attributes:
        weight: the quotient, (outputs, inputs, 3, 3).
        norm: the largest singular value of the weight as a matrix of a row an output, a scalar.
        direction: the norm's gradient by the weight: the product of both singular vectors.
    """

    weight: Tensor
    norm: Tensor
    direction: Tensor

    def gradient(self, by_unit: Tensor) -> Tensor:
        """From the gradient by the quotient, that by the weight itself."""
        return (by_unit - (by_unit * self.weight).sum() * self.direction) / self.norm


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

    def units(self, weights: Sequence[Tensor]) -> list[Unit]:
        """Spectral normalisation, see :func:`training.objectives.spectral_norms`."""
        matrices = [weight.flatten(1) for weight in weights]
        projectors = top_projectors([matrix @ matrix.T for matrix in matrices])
        result = []
        for weight, matrix, projector in zip(weights, matrices, projectors, strict=True):
            projected = projector @ matrix
            norm = (projected * matrix).sum().sqrt()
            result.append(Unit(weight / norm, norm, (projected / norm).view_as(weight)))
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


def _wide(per_channel: Tensor) -> Tensor:
    return per_channel[:, None, None]
