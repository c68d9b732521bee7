"""Registers the losses with BasicSR: ``import task_losses.integrations.basicsr``, and name them in the options.

``SRLoss``, ``DenoiseLoss``, ``JPEGLoss`` and ``TaskLoss`` are for ``pixel_opt``; ``SRPerceptualLoss`` and so on are for
``perceptual_opt``.
"""

from basicsr.utils.registry import LOSS_REGISTRY

from task_losses.integrations.slots import PerceptualSlot, WeightedSlot, register

register(LOSS_REGISTRY, WeightedSlot, lambda kind: kind.__name__, __name__)
register(LOSS_REGISTRY, PerceptualSlot, lambda kind: kind.__name__.replace("Loss", "PerceptualLoss"), __name__)
