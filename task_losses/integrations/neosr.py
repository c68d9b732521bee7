"""Registers the losses with neosr: ``sr_loss``, ``denoise_loss``, ``jpeg_loss`` and ``task_loss``."""

from neosr.utils.registry import LOSS_REGISTRY

from task_losses.integrations.slots import WeightedSlot, register

register(LOSS_REGISTRY, WeightedSlot, lambda kind: f"{kind.task or 'task'}_loss", __name__)
