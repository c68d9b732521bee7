"""A whole update of critics as one CUDA graph: gradients, running statistics and Adam, in static memory, no host sync.

iteration = CriticIteration(critics, optimizers, images, size, objective)
iteration.try_capture()                 # from now on a graph, where the device lets it
losses = iteration(reals, fakes, mixes)  # copies the images, replays the graph; losses stay on the device
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.adam import capturable
from training.kernels.triton.step import check, launch_step
from training.kernels.triton.sums import Running
from training.networks import Discriminator
from training.objectives import Objective

_WARM_UPS = 2  # the first compiles the kernels and makes Adam's state, the second does what the graph will


class CriticIteration:
    """Updates critics of one width on images of one size, all in the same launches.

    The critics' parameters and statistics, and the optimizers' states, are always the current ones. While this is in
    use, no state may be loaded into the optimizers: they would put new tensors in the place of those of the graph.

    Args:
        critics: on one device; updated in place. Their BatchNorm buffers become views of shared ones.
        optimizers: of each critic's parameters, see :func:`training.adam.adam`; may have made steps already.
        images: N, of each kind.
        size: height and width.
        objective: of all critics.
        precision: see :func:`training.kernels.triton.configs.numerics`.

    Raises:
        ValueError: the critics or sizes do not fit the kernels.
    """

    def __init__(
        self,
        critics: Sequence[Discriminator],
        optimizers: Sequence[torch.optim.Adam],
        images: int,
        size: tuple[int, int],
        objective: Objective,
        precision: str = "ieee",
    ) -> None:
        self.optimizers = list(optimizers)
        self.parameters = [list(critic.parameters()) for critic in critics]
        first, runs = self.parameters[0][0].detach(), len(self.parameters)
        self.images = first.new_zeros(2 * runs, images, 3, *size)
        self.real, self.fake = self.images.chunk(2)
        self.settings = first.new_tensor([[0.0, objective.penalty_weight]] * runs)
        self.layout = check(self.parameters, list(self.real), list(self.fake), [0.0] * runs)
        self.running = [
            _shared([critic.get_submodule(f"blocks.{block}.norm") for critic in critics])
            for block in range(self.layout.depth - 1)
        ]
        self.objective, self.precision = objective, precision
        self.losses = self.settings
        self.run: Callable[[], None] = self.update

    @torch.no_grad()
    def __call__(self, real: Sequence[Tensor], fake: Sequence[Tensor], mix: Sequence[float]) -> Tensor:
        """One update.

        Args:
            real, fake: of each critic, (N, 3, H, W).
            mix: of each critic.

        Returns:
            (critics, 2): distance and penalty before the update.

        Raises:
            ValueError: not as many images, or not of that size.
        """
        images = [*real, *fake]
        if [image.shape for image in images] != [kept.shape for kept in self.images]:
            raise ValueError(
                f"expected {len(self.real)} real and fake images each, of shape {tuple(self.real.shape[1:])}, "
                f"got {[tuple(image.shape) for image in images]}"
            )
        with torch.cuda.device_of(self.images):
            torch.stack(images, out=self.images)
            if self.objective.kind == "wgan-gp":
                for settings, number in zip(self.settings, mix, strict=True):
                    settings[0].fill_(number)
            self.run()
            return self.losses.clone()

    @torch.no_grad()
    def update(self) -> None:
        """What the graph consists of."""
        flat = torch.cat([p.view(-1) for of_run in self.parameters for p in of_run]).view(len(self.parameters), -1)
        launched = launch_step(
            flat, self.layout, self.real, self.fake, self.settings, self.objective, self.precision, self.running
        )
        for of_run, row, optimizer in zip(self.parameters, launched.gradients, self.optimizers, strict=True):
            for parameter, gradient in zip(of_run, self.layout.split(row), strict=True):
                parameter.grad = gradient
            optimizer.step()
        self.losses = launched.losses

    def try_capture(self) -> bool:
        """From now on updates replay a graph, if the device and its driver let one be captured.

        Returns:
            Whether they do. Where not, a warning says why, and every kernel is launched by itself.

        Raises:
            RuntimeError: the update itself fails.
        """
        with torch.cuda.device_of(self.images):
            self._rehearse()
            try:
                with capturable(self.optimizers):
                    self.run = record(self.update, self.images.device)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                warnings.warn(f"no CUDA graph here, every kernel is launched by itself: {reason}", stacklevel=2)
                return False
        return True

    @torch.no_grad()
    def _rehearse(self) -> None:
        """Makes updates, so that all is compiled and in its place, and takes back what they change."""
        changed: list[Tensor] = [p for of_run in self.parameters for p in of_run]
        changed += [t for block in self.running for t in (block.mean, block.variance, block.batches)]
        changed += self._moments()  # of a resumed run; otherwise there are none yet
        before = [tensor.detach().clone() for tensor in changed]
        for _ in range(_WARM_UPS):
            self.update()
        for moment in self._moments():
            moment.zero_()  # as Adam begins
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)

    def _moments(self) -> list[Tensor]:
        """All that the optimizers remember."""
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        return [value for state in states for value in state.values()]


def record(update: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Captures what an update launches, without running it.

    Args:
        device: the current one.

    Returns:
        What runs it.

    Raises:
        RuntimeError: the device or its driver refuses; allocator and stream are as before.
    """
    graph, stream, pool = torch.cuda.CUDAGraph(), torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
    try:
        # The outer context leads back to the current stream also where the inner one fails to end.
        with torch.cuda.stream(stream), torch.cuda.graph(graph, pool, stream):
            update()
    except RuntimeError:
        # Where a capture cannot be ended, torch up to 2.12 leaves the allocator in it (pytorch#180395).
        with contextlib.suppress(RuntimeError, AttributeError):  # it is not in it, or this torch has no such function
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        graph.reset()
        raise
    return graph.replay


def _shared(norms: Sequence[torch.nn.Module]) -> Running:
    """Running statistics of several BatchNorms as rows of one tensor each, which the modules then use."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    rows = [torch.stack([norm.get_buffer(name) for norm in norms]) for name in names]
    for run, norm in enumerate(norms):
        for name, stacked in zip(names, rows, strict=True):
            setattr(norm, name, stacked[run])
    return Running(*rows)
