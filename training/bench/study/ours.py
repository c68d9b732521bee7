"""This project's released losses by task, and the settings that they were trained with."""

from __future__ import annotations

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss
from training.config import Config

OURS: dict[str, type[TaskLoss]] = {"sr": SRLoss, "denoise": DenoiseLoss, "jpeg": JPEGLoss}


def recipe_of(loss: TaskLoss) -> Config:
    """The settings that a loss was trained with."""
    return Config.from_dict(loss.weights_info["config"])
