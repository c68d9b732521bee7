"""Registers the losses with traiNNer-redux: ``srloss``, ``denoiseloss``, ``jpegloss`` and ``taskloss``."""

from traiNNer.utils.registry import LOSS_REGISTRY

from task_losses.integrations.slots import UnweightedSlot, register

register(LOSS_REGISTRY, UnweightedSlot, lambda kind: kind.__name__, __name__)
