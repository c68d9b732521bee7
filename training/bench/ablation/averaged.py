"""Critics that are trained otherwise than any setting says: averaged over their steps.

As Yazici et al., ICLR 2019, arXiv 1806.04498, do with a generator's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.config import Config
from training.objectives import spectrally_normalised
from training.scale import Scale
from training.updates import Judged


class AveragedScale(Scale):
    """A scale whose critic enters the loss averaged over its steps.

    The next scale starts from the critic itself.

    Args:
        decay: of the moving average of weights and running statistics.
    """

    def __init__(self, config: Config, scale: int, device: torch.device, *, decay: float) -> None:
        super().__init__(config, scale, device)
        self.decay, self.count = decay, 0
        self.average: dict[str, Tensor] = {}

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self.count = step + 1

    def losses(self, judged: Judged, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        self.average = averaged(self.average, self.critic.state_dict(), self.decay, self.count)
        return super().losses(judged, real, fake)

    def outcome(self) -> dict[str, Tensor]:
        return spectrally_normalised(self.average) if self.config.spectral_norm else self.average

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
