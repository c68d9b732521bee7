"""All ways to make one update of a critic, to be timed side by side: autograd, compiled, captured and fused.

`python -m training.bench.device --stages updates` times them. All updates include Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses.architecture import SLOPE
from training.adam import adam
from training.bench.cost.memory import Held, captured_memory
from training.networks import Discriminator
from training.objectives import Objective
from training.updates import Request
from training.updates import autograd_update as update_by_autograd

Update = Callable[[], object]
MIX, PENALTY_WEIGHT, LR, BETAS = 0.3, 0.1, 5e-4, (0.5, 0.999)
WGAN_GP, HINGE = Objective("wgan-gp", PENALTY_WEIGHT), Objective("hinge", spectral_norm=True)


def functional_gradients(parameters: Sequence[Tensor], real: Tensor, fake: Tensor) -> tuple[Tensor, ...]:
    """Gradients of :func:`training.objectives.critic_loss` as a pure function, which torch.compile takes as a whole.

    A module with a double backward it does not take. Running statistics are left out.

    Args:
        parameters: of a :class:`training.networks.Discriminator`, in its order.
        real, fake: (N, 3, H, W).
    """

    def scores(parameters: Sequence[Tensor], between: Tensor) -> list[Tensor]:
        x = torch.cat([real, fake, between])
        *blocks, weight, bias = parameters
        for i in range(0, len(blocks), 3):
            x = F.batch_norm(F.conv2d(x, blocks[i]), None, None, blocks[i + 1], blocks[i + 2], True)
            x = F.leaky_relu(x, SLOPE)
        return list(F.conv2d(x, weight, bias).chunk(3))

    def loss(parameters: Sequence[Tensor]) -> Tensor:
        def score(between: Tensor) -> tuple[Tensor, list[Tensor]]:
            every = scores(parameters, between)
            return every[2].sum(), every

        gradient, (of_real, of_fake, _) = torch.func.grad(score, has_aux=True)(MIX * real + (1 - MIX) * fake)
        norm: Tensor = torch.linalg.vector_norm(gradient, dim=1)
        total: Tensor = PENALTY_WEIGHT * (norm - 1).square().mean() - of_real.mean() + of_fake.mean()
        return total

    gradients: tuple[Tensor, ...] = torch.func.grad(loss)(tuple(parameters))
    return gradients


def autograd_update(critic: Discriminator, real: Tensor, fake: Tensor, objective: Objective = WGAN_GP) -> Update:
    """The plain update, as training makes it without kernels."""
    optimizer = _adam(list(critic.parameters()))
    request = Request(critic, optimizer, real, fake, MIX, objective)
    return lambda: update_by_autograd([request])


def compiled_update(critic: Discriminator, real: Tensor, fake: Tensor, **options: Any) -> Update:
    """The functional form under torch.compile, for this size alone: left open, torch 2.11 cannot trace it.

    Args:
        options: of torch.compile.
    """
    parameters = list(critic.parameters())
    optimizer = _adam(parameters)
    gradients = torch.compile(functional_gradients, fullgraph=True, dynamic=False, **options)

    def update() -> None:
        _set_gradients(parameters, gradients([p.detach() for p in parameters], real, fake))
        optimizer.step()

    return update


class Way(NamedTuple):
    """An update that can be made again and again.

    Attributes:
        held: memory of its CUDA graph, where it is one.
    """

    update: Update
    held: Held | None = None


def captured(update: Update, device: torch.device) -> Way:
    """An update as a CUDA graph.

    Raises:
        RuntimeError: it cannot be captured, since it waits for the device for example.
    """
    from training.kernels.triton.graph import record

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            update()
    torch.cuda.current_stream(device).wait_stream(stream)

    def once() -> None:
        update()

    replay, held = captured_memory(lambda: record(once, device), device)
    # A graph reads the memory of what it was captured with, and does not keep it.
    return Way(partial(_replay, replay, update), held)


def _replay(replay: Update, keeps: Update) -> None:
    replay()


def fused(critic: Discriminator, real: Tensor, fake: Tensor, objective: Objective, precision: str) -> Way:
    """The Triton kernels in a CUDA graph.

    Raises:
        RuntimeError: the device refuses to capture it; a warning says why.
    """
    from training.kernels.triton.graph import CriticIteration

    size = (real.shape[2], real.shape[3])
    optimizer = adam(critic.parameters(), LR, BETAS)
    iteration = CriticIteration([critic], [optimizer], len(real), size, objective, precision)
    is_graph, held = captured_memory(iteration.try_capture, real.device)
    if not is_graph:
        raise RuntimeError("no CUDA graph")
    return Way(lambda: iteration([real], [fake], [MIX]), held)


def ways(channels: int, size: tuple[int, int], device: torch.device) -> dict[str, Callable[[], Way]]:
    """What makes each way to update, with a critic of its own and the same images; whatever compiles comes last.

    Each may raise where the machine cannot do it. What torch.compile made for other sizes is forgotten: of one function
    Dynamo keeps eight variants, then it gives up.
    """
    torch.compiler.reset()
    draws = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(1, 3, *size, generator=draws).to(device) for _ in range(2))

    def critic() -> Discriminator:
        torch.manual_seed(0)
        return Discriminator(channels).to(device)

    def autograd(objective: Objective) -> Update:
        return autograd_update(critic(), real, fake, objective)

    def compiled(**options: Any) -> Update:
        return compiled_update(critic(), real, fake, **options)

    def kernels(objective: Objective, precision: str) -> Way:
        return fused(critic(), real, fake, objective, precision)

    if device.type != "cuda":
        # Without code generation, which takes minutes on a CPU and says nothing of a device.
        return {
            "autograd": lambda: Way(autograd(WGAN_GP)),
            "hinge, autograd": lambda: Way(autograd(HINGE)),
            "torch.compile": lambda: Way(compiled(backend="eager")),
        }
    return {
        "fused, ieee": lambda: kernels(WGAN_GP, "ieee"),
        "autograd": lambda: Way(autograd(WGAN_GP)),
        "autograd, CUDA graph": lambda: captured(autograd(WGAN_GP), device),
        "hinge, fused, ieee": lambda: kernels(HINGE, "ieee"),
        "hinge, autograd": lambda: Way(autograd(HINGE)),
        "hinge, autograd, CUDA graph": lambda: captured(autograd(HINGE), device),
        "fused, tf32": lambda: kernels(WGAN_GP, "tf32"),
        "fused, bf16": lambda: kernels(WGAN_GP, "bf16"),
        "hinge, fused, tf32": lambda: kernels(HINGE, "tf32"),
        "torch.compile": lambda: Way(compiled()),
        "torch.compile, CUDA graph": lambda: captured(compiled(), device),
    }


def _adam(parameters: list[torch.nn.Parameter]) -> torch.optim.Adam:
    on_cuda = parameters[0].is_cuda
    return torch.optim.Adam(parameters, lr=LR, betas=BETAS, fused=on_cuda, capturable=on_cuda)


def _set_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.contiguous()  # Adam takes no other strides than its parameter's
