"""Adam as the training takes it: on a CUDA device one that a CUDA graph can hold."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def adam(parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Fused; on a CUDA device with its rate and its count of steps there, so that a step needs nothing of the host.

    Args:
        parameters: all on one device.
    """
    parameters = list(parameters)
    if not parameters[0].is_cuda:
        return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True)
    rate = torch.tensor(lr, device=parameters[0].device)
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True)


def descend(optimizer: torch.optim.Adam, parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor]) -> None:
    """A step along gradients in any layout: on the CPU the fused one takes them for the parameters' own."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.contiguous()
    optimizer.step()


@contextmanager
def capturable(optimizers: Sequence[torch.optim.Adam]) -> Iterator[None]:
    """Lets a CUDA graph capture steps. A fused step is the same with the flag; torch warns of it elsewhere."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


def set_rate(optimizer: torch.optim.Adam, rate: float) -> None:
    """Changes the learning rate, also inside of a CUDA graph."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_moments(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Takes up the moments and the count of steps of a ``state_dict``, which may come from another kind of device.

    The rate, and how a step is computed, stay the optimizer's own. Nothing is shared with the state afterwards, nor
    with the optimizer that it came from: torch's ``load_state_dict`` keeps the very tensors where no conversion is
    needed, and steps of either would move both.
    """
    state = copy.deepcopy(state)
    optimizer.load_state_dict(state | {"param_groups": optimizer.state_dict()["param_groups"]})
