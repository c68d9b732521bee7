"""Losses for training image-restoration networks, each specialised on the artefacts of its task."""

from task_losses.losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss
from task_losses.weighting import weight_for
from task_losses.weights import WeightsError, WeightsIntegrity, WeightsNotFound, WeightsUnavailable

__version__ = "0.1.0"
__all__ = [
    "DenoiseLoss",
    "JPEGLoss",
    "SRLoss",
    "TaskLoss",
    "WeightsError",
    "WeightsIntegrity",
    "WeightsNotFound",
    "WeightsUnavailable",
    "__version__",
    "weight_for",
]
