"""Counts what a GPU has to launch for one update of the critic, or of the generator, Adam included.

    TRITON_INTERPRET=1 python -m training.bench.cost.launches

Nothing is hard-coded: the update runs on the CPU, Triton's kernels in the interpreter, and every kernel launch and
every ATen operation that computes is counted as it happens. On a GPU an eager operation is at least one launch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training.kernels.triton.graph import CriticIteration
from training.kernels.triton.launch import running, watch
from training.kernels.triton.optional import interpreted
from training.networks import Discriminator, Generator
from training.objectives import Objective, critic_loss, generator_loss

_SIZE = (11, 11)  # the count does not depend on it
_OBJECTIVE = Objective("wgan-gp")
_LR, _BETAS = 5e-4, (0.5, 0.999)
# What no device hears of: memory, marks of the profiler, reading a number that is on the CPU.
_SILENT = ("aten.empty", "aten.new_empty", "aten.detach", "profiler.", "aten._local_scalar_dense")


class _Operations(TorchDispatchMode):
    """Counts operations that compute: no views, and nothing of ``_SILENT``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not running() and not view and not str(func).startswith(_SILENT):
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def count(update: Callable[[], object]) -> Counter[str]:
    """Launches of an update by name: Triton's kernels, and ATen operations that compute."""
    kernels: Counter[str] = Counter()
    with watch(lambda started: kernels.update([started.kernel.__name__])), _Operations() as operations:
        update()
    kernels.update(operations.counts)
    return kernels


def eager(channels: int = 8) -> Counter[str]:
    """Of the step by autograd, with the Adam that torch takes on a device."""
    critic, real, fake = _problem(channels)
    optimizer = torch.optim.Adam(critic.parameters(), lr=_LR, betas=_BETAS, foreach=True)

    def update() -> None:
        parameters = list(critic.parameters())
        loss = critic_loss(critic, real, fake, 0.5, 0.1).total
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    update()  # the first one makes Adam's state
    return count(update)


def fused(channels: int = 8, objective: Objective = _OBJECTIVE) -> Counter[str]:
    """Of the same in Triton, as a CUDA graph captures it."""
    critic, real, fake = _problem(channels)
    optimizer = torch.optim.Adam(critic.parameters(), lr=_LR, betas=_BETAS, fused=True)
    iteration = CriticIteration([critic], [optimizer], 1, _SIZE, objective)
    iteration([real], [fake], [0.5])
    return count(lambda: iteration([real], [fake], [0.5]))


def generator(channels: int = 8) -> Counter[str]:
    """Of the generator's update by autograd, and of the fake that it makes for the critic."""
    critic, real, distorted = _problem(channels)
    made = Generator(channels)
    parameters = list(made.parameters())
    optimizer = torch.optim.Adam(parameters, lr=_LR, betas=_BETAS, foreach=True)

    def update() -> None:
        with torch.no_grad():
            made(distorted)
        loss = generator_loss(critic, real, made(distorted), 10.0).total
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    update()
    return count(update)


def _problem(channels: int) -> tuple[Discriminator, Tensor, Tensor]:
    torch.manual_seed(0)
    return Discriminator(channels), torch.rand(1, 3, *_SIZE), torch.rand(1, 3, *_SIZE)


def main() -> None:
    if not interpreted():
        raise SystemExit("set TRITON_INTERPRET=1 before the start: the kernels are counted as they run, on the CPU")
    steps = {
        "eager": eager(),
        "fused": fused(),
        "generator": generator(),
    }
    for name, counts in steps.items():
        print(json.dumps({"step": name, "launches": sum(counts.values()), "by name": dict(counts.most_common())}))


if __name__ == "__main__":
    main()
