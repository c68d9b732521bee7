"""BatchNorm in evaluation mode is an affine map of channels, so the convolution before it can do its work."""

from __future__ import annotations

from torch import Tensor


def fold_batchnorm(
    weight: Tensor, bias: Tensor | None, *, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(weight, bias) of one convolution that equals a convolution followed by BatchNorm.

    In float64, so that folding adds no error beyond the rounding of whoever stores the result.

    Args:
        weight, bias: of the convolution, (outputs, inputs, 3, 3) and (outputs,).
        mean, variance: BatchNorm's running statistics, (outputs,).
        scale, shift: its weight and bias, (outputs,).
    """
    factor = scale.double() / (variance.double() + eps).sqrt()
    offset = -mean.double() if bias is None else bias.double() - mean.double()
    return weight.double() * factor[:, None, None, None], offset * factor + shift.double()
