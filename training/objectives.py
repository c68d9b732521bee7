"""The objectives of phase 1, as pure functions of images and networks.

WGAN-GP (Gulrajani et al., NeurIPS 2017, arXiv 1704.00028) and the hinge loss (Lim and Ye, "Geometric GAN", arXiv
1705.02894) with spectral normalisation (Miyato et al., ICLR 2018, arXiv 1802.05957), on patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
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


def scores(critic: Critic, batches: Sequence[Tensor], shared_norm: bool) -> list[Tensor]:
    """The critic's scores of several batches of one size.

    Args:
        shared_norm: judge them in one pass, so that BatchNorm normalises all by the same statistics, as it will in
            evaluation mode. With statistics of its own for each batch, BatchNorm removes from the fake the very change
            of variance that a distortion makes, and what the critic learns does not hold in evaluation mode
            (docs/method.md).
    """
    if not shared_norm:
        return [critic(batch) for batch in batches]
    return list(critic(torch.cat(list(batches))).chunk(len(batches)))


def critic_loss(
    critic: Critic, real: Tensor, fake: Tensor, mix: float, penalty_weight: float, shared_norm: bool = True
) -> CriticLoss:
    """The critic's objective (eq. 3 of WGAN-GP).

    The penalty is mean((|grad_z D(z)| - 1)^2) at z = mix * real + (1 - mix) * fake. The norm is taken at each pixel
    over the channels, the mean over pixels, since the critic scores patches.

    Args:
        real, fake: (N, 3, H, W), same shape.
        mix: a number drawn uniformly from [0, 1].
        shared_norm: see :func:`scores`.
    """
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    of_real, of_fake, of_between = scores(critic, (real, fake, between), shared_norm)
    (gradient,) = torch.autograd.grad(of_between.sum(), between, create_graph=True)
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    penalty = (norm - 1).square().mean()
    distance = of_real.mean() - of_fake.mean()
    return CriticLoss(penalty_weight * penalty - distance, distance, penalty)


def hinge_loss(of_real: Tensor, of_fake: Tensor) -> Tensor:
    """What the critic minimises: the mean over patches of max(0, 1 - D(real)) + max(0, 1 + D(fake)).

    A patch that is told apart by a margin of one has no more say, so the critic goes on with those that are hard.
    """
    return F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()


def spectrally_normalised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each convolution's weight, as a matrix of a row an output, divided by its spectral norm.

    The norm is exact: these matrices are small enough for a singular value decomposition in every step.
    """
    return {
        name: tensor / torch.linalg.matrix_norm(tensor.flatten(1), 2) if tensor.dim() == 4 else tensor
        for name, tensor in tensors.items()
    }


class GeneratorLoss(NamedTuple):
    """Terms of the generator's objective, each a scalar: ``total = adversarial + weight * reconstruction``."""

    total: Tensor
    adversarial: Tensor
    reconstruction: Tensor


def generator_loss(
    critic: Critic, real: Tensor, restored: Tensor, weight: float, shared_norm: bool = True
) -> GeneratorLoss:
    """Fool the critic, stay close to the image."""
    adversarial = -scores(critic, (restored, real), shared_norm)[0].mean()
    reconstruction = (restored - real).square().mean()
    return GeneratorLoss(adversarial + weight * reconstruction, adversarial, reconstruction)
