"""A loss as a metric of torchmetrics: the mean over a validation set, over all processes."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from task_losses.losses import TaskLoss


class TaskLossMetric(Metric):
    """Mean of a loss over all images that it was shown; lower is better, 0 is the least.

    Args:
        loss: a copy is kept, so that moving the metric leaves it where it is. Its ``reduction`` plays no part.
        options: of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = TaskLossMetric(JPEGLoss())
        >>> metric.update(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
        >>> value = metric.compute()
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    def __init__(self, loss: TaskLoss, **options: Any) -> None:
        super().__init__(**options)
        self.loss = copy.deepcopy(loss)
        self.loss.reduction = "none"
        # A MetricCollection takes metrics for one if names and first values of their states are equal, as zeros are.
        self._total = f"total_{_fingerprint(loss)}"
        self.add_state(self._total, torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Arguments and errors as for the loss."""
        per_image = self.loss(preds, target)
        setattr(self, self._total, getattr(self, self._total) + per_image.sum())
        self.images += per_image.numel()  # frames of video too

    def compute(self) -> Tensor:
        """A scalar; NaN before any image."""
        mean: Tensor = getattr(self, self._total) / self.images
        return mean

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Figure and axes with the value, or the values given, as other metrics draw theirs."""
        return self._plot(val, ax)


def _fingerprint(loss: TaskLoss) -> str:
    """The same for losses that compute the same."""
    weights = (loss.weights_sha256, loss.scales, loss.resolution, loss.texture, loss.fidelity)
    options = (*weights, loss.channels, loss.low, loss.high, loss.loss_weight)
    return hashlib.sha256(repr(options).encode()).hexdigest()[:12]
