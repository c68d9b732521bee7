"""Critics that are trained otherwise than any setting says: by another objective, or averaged over their steps.

Hinge loss: Lim and Ye, "Geometric GAN", arXiv 1705.02894. Spectral normalisation: Miyato et al., ICLR 2018, arXiv
1802.05957. Averaged weights: as Yazici et al., ICLR 2019, arXiv 1806.04498, do with a generator's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from training.config import Config
from training.kernels import Judged, Request, Update
from training.objectives import scores
from training.train import Scale


def hinge_loss(of_real: Tensor, of_fake: Tensor) -> Tensor:
    """What the critic minimises: the mean over patches of max(0, 1 - D(real)) + max(0, 1 + D(fake))."""
    return F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()


def hinge_update(spectral_norm: bool) -> Update:
    """An update as :func:`training.kernels.choose` returns, by the hinge loss. It has no penalty: 0 is returned for it.

    Args:
        spectral_norm: the critic acts with its weights as :func:`spectrally_normalised` returns them, and the
            gradient goes through the norm. BatchNorm undoes the scale of all convolutions but the last, up to its eps.
    """

    def update(requests: Sequence[Request]) -> list[Judged]:
        results = []
        for run in requests:
            parameters: dict[str, Tensor] = dict(run.critic.named_parameters())
            weights = spectrally_normalised(parameters) if spectral_norm else parameters
            critic = partial(functional_call, run.critic, weights)
            of_real, of_fake = scores(critic, (run.real, run.fake), run.shared_norm)
            gradients = torch.autograd.grad(hinge_loss(of_real, of_fake), list(parameters.values()))
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter.grad = gradient
            run.optimizer.step()
            distance = of_real.mean() - of_fake.mean()
            results.append(Judged(distance.detach(), distance.new_zeros(())))
        return results

    return update


def spectrally_normalised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each convolution's weight, as a matrix of a row an output, divided by its spectral norm.

    The norm is exact: these matrices are small enough for a singular value decomposition in every step.
    """
    return {
        name: tensor / torch.linalg.matrix_norm(tensor.flatten(1), 2) if tensor.dim() == 4 else tensor
        for name, tensor in tensors.items()
    }


class VariantScale(Scale):
    """A scale whose critic enters the loss averaged over its steps, or with spectrally normalised weights.

    The next scale starts from the critic itself.

    Args:
        average: decay of the moving average of weights and running statistics; 0 for the last step's.
        spectral_norm: for a critic that was trained by such steps.
    """

    def __init__(
        self, config: Config, scale: int, device: torch.device, *, average: float = 0.0, spectral_norm: bool = False
    ) -> None:
        super().__init__(config, scale, device)
        self.decay, self.spectral_norm = average, spectral_norm
        self.average: dict[str, Tensor] = {}

    def step(
        self, real: Tensor, distorted: Tensor, step: int, draws: torch.Generator
    ) -> Generator[Request, Judged | None, dict[str, Tensor]]:
        losses = yield from super().step(real, distorted, step, draws)
        self.average = averaged(self.average, super().outcome(), self.decay, step + 1)
        return losses

    def outcome(self) -> dict[str, Tensor]:
        return spectrally_normalised(self.average) if self.spectral_norm else self.average

    def state(self) -> dict[str, Any]:
        return {**super().state(), "average": self.average}

    def load_state(self, state: dict[str, Any], same_scale: bool) -> None:
        super().load_state(state, same_scale)
        if same_scale:
            self.average = state["average"]


def averaged(
    average: Mapping[str, Tensor], latest: Mapping[str, Tensor], decay: float, count: int
) -> dict[str, Tensor]:
    """The moving average after ``count`` states: sum over t of decay^(count - t) state_t, over the sum of the factors.

    Without that division the first states, which are the initial weights in all but name, would weigh most.

    Args:
        average: after ``count - 1`` states; not read for the first.
        latest: state ``count``. What is no floating-point number is taken from it.
    """
    share = (1 - decay) / (1 - decay**count)
    return {
        name: value.clone() if count == 1 or not value.is_floating_point() else average[name].lerp(value, share)
        for name, value in latest.items()
    }


MakeScale = Callable[[Config, int, torch.device], Scale]


def method_of(objective: str, spectral_norm: bool, average: float) -> tuple[Update | None, MakeScale]:
    """What :func:`training.train.train_together` takes to train in this way."""
    update = hinge_update(spectral_norm) if objective == "hinge" else None
    return update, partial(VariantScale, average=average, spectral_norm=spectral_norm)
