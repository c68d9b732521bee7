"""The objectives of phase 1, as pure functions of images and networks.

WGAN-GP (Gulrajani et al., NeurIPS 2017, arXiv 1704.00028) on patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Critic = Callable[[Tensor], Tensor]


class CriticLoss(NamedTuple):
    """Terms of the critic's objective, each a scalar.

    Attributes:
        total: what the critic minimises, ``fake - real + penalty_weight * penalty``.
        distance: ``real - fake``, the critic's estimate of the Wasserstein distance.
        penalty: the gradient penalty without its weight.
    """

    total: Tensor
    distance: Tensor
    penalty: Tensor


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, mix: float) -> Tensor:
    """mean((|grad_z D(z)| - 1)^2) with z = mix * real + (1 - mix) * fake.

    The norm is taken at each pixel over the channels, the mean over pixels, since the critic scores patches.
    """
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    scores = critic(between)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    return (norm - 1).square().mean()


def critic_loss(critic: Critic, real: Tensor, fake: Tensor, mix: float, penalty_weight: float) -> CriticLoss:
    """The critic's objective (eq. 3 of WGAN-GP).

    Args:
        real, fake: (N, 3, H, W), same shape.
        mix: a number drawn uniformly from [0, 1].
    """
    distance = critic(real).mean() - critic(fake).mean()
    penalty = gradient_penalty(critic, real, fake, mix)
    return CriticLoss(penalty_weight * penalty - distance, distance, penalty)


class GeneratorLoss(NamedTuple):
    """Terms of the generator's objective, each a scalar: ``total = adversarial + weight * reconstruction``."""

    total: Tensor
    adversarial: Tensor
    reconstruction: Tensor


def generator_loss(critic: Critic, real: Tensor, restored: Tensor, weight: float) -> GeneratorLoss:
    """Fool the critic, stay close to the image."""
    adversarial = -critic(restored).mean()
    reconstruction = (restored - real).square().mean()
    return GeneratorLoss(adversarial + weight * reconstruction, adversarial, reconstruction)
