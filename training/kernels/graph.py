"""A whole update of critics as one CUDA graph: gradients, running statistics and Adam, in static memory, no host sync.

iteration = CriticIteration(critics, images=1, size=(150, 200), ...)
losses = iteration(real, fake, mix)      # copies the inputs, replays the graph; losses stay on the device
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.kernels.fold import Running
from training.kernels.optional_triton import interpreted
from training.kernels.step import check, launch_step
from training.networks import Discriminator

_WARM_UPS = 3  # compile every kernel and fill the allocator before the capture


class CriticIteration:
    """Updates critics of one width on images of one size, all in the same launches.

    On a CUDA device the update is captured once and replayed; in Triton's interpreter, on the CPU, the same update
    runs without a graph. The critics' parameters and statistics are always the current ones.

    Args:
        critics: on one device; updated in place. Their BatchNorm buffers become views of shared ones.
        images: N, of each kind.
        size: height and width.
        lr, betas: of Adam; set ``lr`` anew with :meth:`set_lr`.
        penalty_weight, shared_norm: as :func:`training.kernels.step.critic_gradients` takes them.
        precision: see :func:`training.kernels.configs.numerics`.

    Raises:
        ValueError: the critics or sizes do not fit the kernels.
    """

    def __init__(
        self,
        critics: Sequence[Discriminator],
        images: int,
        size: tuple[int, int],
        lr: float,
        betas: tuple[float, float],
        penalty_weight: float,
        shared_norm: bool = True,
        precision: str = "ieee",
    ) -> None:
        self.parameters = [list(critic.parameters()) for critic in critics]
        first = self.parameters[0][0]
        self.real = first.new_zeros(len(critics), images, 3, *size).detach()
        self.fake = torch.zeros_like(self.real)
        self.settings = self.real.new_tensor([[0.0, penalty_weight]] * len(critics))
        self.layout = check(self.parameters, list(self.real), list(self.fake), [0.0] * len(critics))
        self.running = [
            _shared([critic.get_submodule(f"blocks.{block}.norm") for critic in critics])
            for block in range(self.layout.depth - 1)
        ]
        self.shared_norm, self.precision = shared_norm, precision
        on_device = first.is_cuda
        self.optimizer = torch.optim.Adam(
            [p for of_run in self.parameters for p in of_run],
            lr=torch.tensor(lr, device=first.device) if on_device else lr,
            betas=betas,
            fused=True,
            capturable=on_device,
        )
        self.graph: torch.cuda.CUDAGraph | None = None
        self.losses = self.settings
        if on_device:
            self._capture()

    def __call__(self, real: Sequence[Tensor], fake: Sequence[Tensor], mix: Sequence[float]) -> Tensor:
        """One update.

        Args:
            real, fake: of each critic, (N, 3, H, W).
            mix: of each critic.

        Returns:
            (critics, 2): distance and penalty before the update; overwritten by the next call.
        """
        for run, (r, f, m) in enumerate(zip(real, fake, mix, strict=True)):
            self.real[run].copy_(r, non_blocking=True)
            self.fake[run].copy_(f, non_blocking=True)
            self.settings[run, 0].fill_(m)
        if self.graph is None:
            self.update()
        else:
            self.graph.replay()
        return self.losses

    def set_lr(self, lr: float) -> None:
        """Changes the learning rate, also of a captured graph."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    @torch.no_grad()
    def update(self) -> None:
        """What the graph consists of."""
        flat = torch.cat([p.view(-1) for of_run in self.parameters for p in of_run]).view(len(self.parameters), -1)
        launched = launch_step(
            flat, self.layout, self.real, self.fake, self.settings, self.shared_norm, self.precision, self.running
        )
        for of_run, row in zip(self.parameters, launched.gradients, strict=True):
            for parameter, gradient in zip(of_run, self.layout.split(row), strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        self.losses = launched.losses

    def _capture(self) -> None:
        """Warms up, takes back what that changed, and captures."""
        assert not interpreted()
        tensors: list[Tensor] = [p for of_run in self.parameters for p in of_run]
        tensors += [t for block in self.running for t in (block.mean, block.variance, block.batches)]
        before = [t.detach().clone() for t in tensors]
        stream = torch.cuda.Stream(self.real.device)
        stream.wait_stream(torch.cuda.current_stream(self.real.device))
        with torch.cuda.device_of(self.real), torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.update()
        torch.cuda.current_stream(self.real.device).wait_stream(stream)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device_of(self.real), torch.cuda.graph(self.graph):
            self.update()


def _shared(norms: Sequence[torch.nn.Module]) -> Running:
    """Running statistics of several BatchNorms as rows of one tensor each, which the modules then use."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    rows = [torch.stack([norm.get_buffer(name) for norm in norms]) for name in names]
    for run, norm in enumerate(norms):
        for name, stacked in zip(names, rows, strict=True):
            setattr(norm, name, stacked[run])
    return Running(*rows)
