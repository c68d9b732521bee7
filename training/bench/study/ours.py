"""What a loss of this project was trained with."""

from __future__ import annotations

from task_losses import TaskLoss
from training.config import Config


def recipe_of(loss: TaskLoss) -> Config:
    """The settings that a loss was trained with."""
    return Config.from_dict(loss.weights_info["config"])
