"""All ways to make one update of a critic, to be timed side by side: autograd, compiled, captured and fused.

`python -m training.bench.device --stages updates` times them. All updates include Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses.discriminator import SLOPE
from training.adam import adam
from training.bench.cost.memory import Held, captured_memory
from training.config import Config
from training.networks import Discriminator
from training.objectives import critic_loss
from training.updates import Request, hinge_update, updates_of

Update = Callable[[], object]
MIX, PENALTY_WEIGHT, LR, BETAS = 0.3, 0.1, 5e-4, (0.5, 0.999)


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


def autograd_update(critic: Discriminator, real: Tensor, fake: Tensor) -> Update:
    """The plain update, as training makes it without kernels."""
    parameters = list(critic.parameters())
    optimizer = _adam(parameters)

    def update() -> None:
        total = critic_loss(critic, real, fake, MIX, PENALTY_WEIGHT).total
        _set_gradients(parameters, torch.autograd.grad(total, parameters))
        optimizer.step()

    return update


def compiled_update(critic: Discriminator, real: Tensor, fake: Tensor, **options: Any) -> Update:
    """The functional form under torch.compile, for this size alone.

    With sizes left open torch 2.11 cannot trace a gradient of a gradient; and of one function Dynamo keeps eight
    variants, then gives up. So each size begins anew: what was compiled before is forgotten.

    Args:
        options: of torch.compile.
    """
    torch.compiler.reset()
    parameters = list(critic.parameters())
    optimizer = _adam(parameters)
    gradients = torch.compile(functional_gradients, fullgraph=True, dynamic=False, **options)

    def update() -> None:
        _set_gradients(parameters, gradients([p.detach() for p in parameters], real, fake))
        optimizer.step()

    return update


def hinge_by_autograd(critic: Discriminator, real: Tensor, fake: Tensor) -> Update:
    """The update of the hinge loss with spectral norm, as training makes it without kernels."""
    optimizer, update = _adam(list(critic.parameters())), hinge_update(spectral_norm=True)
    return lambda: update([_request(critic, optimizer, real, fake)])


def hinge_by_kernels(critic: Discriminator, real: Tensor, fake: Tensor) -> Update:
    """The same as ``--kernels triton`` makes it.

    Raises:
        ValueError: there are no such kernels here.
    """
    width = critic.last.in_channels
    config = Config(objective="hinge", spectral_norm=True, channels=(width,), kernels="triton")
    update, _ = updates_of(config, real.device)
    optimizer = adam(critic.parameters(), LR, BETAS)
    return lambda: update([_request(critic, optimizer, real, fake)])


def _request(critic: Discriminator, optimizer: torch.optim.Adam, real: Tensor, fake: Tensor) -> Request:
    return Request(critic, optimizer, real, fake, MIX, PENALTY_WEIGHT, shared_norm=True)


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

    return Way(*captured_memory(lambda: record(once, device), device))


def fused(critic: Discriminator, real: Tensor, fake: Tensor, precision: str) -> Way:
    """The Triton kernels of WGAN-GP in a CUDA graph.

    Raises:
        NotCaptured: the device refuses.
    """
    from training.kernels.triton.graph import CriticIteration

    size = (real.shape[2], real.shape[3])
    optimizer = adam(critic.parameters(), LR, BETAS)
    iteration = CriticIteration([critic], [optimizer], len(real), size, PENALTY_WEIGHT, precision=precision)
    _, held = captured_memory(iteration.capture, real.device)
    return Way(lambda: iteration([real], [fake], [MIX]), held)


def ways(channels: int, size: tuple[int, int], device: torch.device) -> dict[str, Callable[[], Way]]:
    """What makes each way to update, with a critic of its own and the same images; whatever compiles comes last.

    Each may raise where the machine cannot do it.
    """
    draws = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(1, 3, *size, generator=draws).to(device) for _ in range(2))

    def critic() -> Discriminator:
        torch.manual_seed(0)
        return Discriminator(channels).to(device)

    def plain(make: Callable[[Discriminator, Tensor, Tensor], Update]) -> Callable[[], Way]:
        return lambda: Way(make(critic(), real, fake))

    def graph(make: Callable[[Discriminator, Tensor, Tensor], Update]) -> Callable[[], Way]:
        return lambda: captured(make(critic(), real, fake), device)

    if device.type != "cuda":
        # Without code generation, which takes minutes on a CPU and says nothing of a device.
        return {
            "autograd": plain(autograd_update),
            "torch.compile": plain(lambda *inputs: compiled_update(*inputs, backend="eager")),
            "hinge, autograd": plain(hinge_by_autograd),
        }
    return {
        "fused, ieee": lambda: fused(critic(), real, fake, "ieee"),
        "autograd": plain(autograd_update),
        "autograd, CUDA graph": graph(autograd_update),
        "hinge, fused": plain(hinge_by_kernels),
        "hinge, autograd": plain(hinge_by_autograd),
        "fused, tf32": lambda: fused(critic(), real, fake, "tf32"),
        "fused, bf16": lambda: fused(critic(), real, fake, "bf16"),
        "torch.compile": plain(compiled_update),
        "torch.compile, CUDA graph": graph(compiled_update),
    }


def _adam(parameters: list[torch.nn.Parameter]) -> torch.optim.Adam:
    on_cuda = parameters[0].is_cuda
    return torch.optim.Adam(parameters, lr=LR, betas=BETAS, fused=on_cuda, capturable=on_cuda)


def _set_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
