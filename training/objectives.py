"""The objectives of phase 1, as pure functions of images and networks.

WGAN-GP (Gulrajani et al., NeurIPS 2017, arXiv 1704.00028) and the hinge loss (Lim and Ye, "Geometric GAN", arXiv
1705.02894) with spectral normalisation (Miyato et al., ICLR 2018, arXiv 1802.05957), on patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Critic = Callable[[Tensor], Tensor]
OBJECTIVES = ("wgan-gp", "hinge")
# A weight that the squarings cannot tell from the largest singular value is at most 4e-6 of it off.
SQUARINGS = 18


@dataclass(frozen=True)
class Objective:
    """What a critic minimises, and how it is normalised meanwhile.

    Attributes:
        kind: one of ``OBJECTIVES``.
        penalty_weight: of the gradient penalty; for ``wgan-gp`` alone.
        spectral_norm: the critic acts with its weights as :func:`spectrally_normalised` returns them, and gradients go
            through the norm; for ``hinge`` alone. BatchNorm undoes the scale of all convolutions but the last, up to
            its eps.
        shared_norm: see :func:`scores`.

    Raises:
        ValueError: there is no such kind, or spectral normalisation is asked for with a gradient penalty.
    """

    kind: str = "wgan-gp"
    penalty_weight: float = 0.1
    spectral_norm: bool = False
    shared_norm: bool = True

    def __post_init__(self) -> None:
        if self.kind not in OBJECTIVES:
            raise ValueError(f"the objective must be {' or '.join(OBJECTIVES)}, got {self.kind!r}")
        if self.spectral_norm and self.kind != "hinge":
            raise ValueError(
                f"spectral normalisation is there for the objective hinge alone, got {self.kind}: the penalty holds "
                "the critic's slope already; leave out --spectral-norm, or use --objective hinge"
            )

    @property
    def kinds(self) -> int:
        """Kinds of images that a step judges: real and fake, and for a penalty what lies between."""
        return 3 if self.kind == "wgan-gp" else 2


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
    """The same tensors, each convolution's weight, as a matrix of a row an output, divided by its spectral norm."""
    weights = {name: tensor for name, tensor in tensors.items() if tensor.dim() == 4}
    norms = dict(zip(weights, spectral_norms(list(weights.values())), strict=True))
    return {name: tensor / norms[name] if name in norms else tensor for name, tensor in tensors.items()}


def spectral_norms(weights: Sequence[Tensor]) -> list[Tensor]:
    """The largest singular value of each weight, as a matrix of a row an output; differentiable once.

    Its square is the quotient trace(P W W^T) / trace(P), P projecting onto the largest singular vector. The quotient
    does not change with P at first order, so its gradient is that of W alone. No host waits for a device here, as a
    singular value decomposition makes it do.

    Args:
        weights: (outputs, inputs, 3, 3) each.

    Returns:
        Scalars; not a number for a weight of zeros, which has no direction.
    """
    matrices = [weight.flatten(1) for weight in weights]
    with torch.no_grad():
        projectors = top_projectors([matrix @ matrix.T for matrix in matrices])
    return [((p @ matrix) * matrix).sum().sqrt() for p, matrix in zip(projectors, matrices, strict=True)]


def top_projectors(grams: Sequence[Tensor]) -> list[Tensor]:
    """Projections onto the largest eigenvector of symmetric positive matrices (C, C): their powers, of trace 1.

    A matrix is squared ``SQUARINGS`` times. Two eigenvalues that the power does not tell apart are equal but for
    1 / 2^SQUARINGS; the projection is then onto both.
    """
    sizes = {len(gram) for gram in grams}
    found: dict[int, Tensor] = {}
    for size in sizes:  # those of one size together
        places = [index for index, gram in enumerate(grams) if len(gram) == size]
        power = _of_trace_one(torch.stack([grams[index] for index in places]))
        for squaring in range(1, SQUARINGS + 1):
            power = power @ power
            if squaring % 3 == 0:  # before the largest, at least 1 / C, could underflow
                power = _of_trace_one(power)
        found |= dict(zip(places, power, strict=True))
    return [found[index] for index in range(len(grams))]


def _of_trace_one(matrices: Tensor) -> Tensor:
    return matrices / matrices.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


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
