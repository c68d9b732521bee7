"""Counts what a GPU has to launch for an update, Adam included, and what that moves and computes.

    python -m training.bench.cost.counts            # launches of each way to make an update
    python -m training.bench.cost.counts --names    # and what is launched

Nothing is hard-coded: the update runs, on tensors without data, and every Triton kernel and every ATen operation that
computes is counted as it happens. On a GPU an operation is at least one launch. Each reads its inputs and writes its
outputs once; convolutions and products of matrices count their multiplications and additions.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.markdown import table
from training.kernels import reference
from training.kernels.triton.launch import Started, running, watch
from training.kernels.triton.optional import TRITON_INSTALLED
from training.networks import Discriminator, Generator
from training.objectives import Objective, generator_loss
from training.updates import Request, autograd_update

Size = tuple[int, int]  # height and width

MIX = 0.5  # no count depends on it
WGAN_GP = Objective("wgan-gp")
HINGE = Objective("hinge", spectral_norm=True)
# What no device hears of: memory, marks of the profiler, reading a number that is on the CPU.
_SILENT = ("aten.empty", "aten.new_empty", "aten.detach", "aten._unsafe_view", "profiler.", "aten._local_scalar_dense")


class Counts(NamedTuple):
    """What an update launches (by name), moves (bytes) and computes (floating point operations)."""

    launches: Counter[str]
    bytes: int
    flop: int

    def joined(self, other: Counts) -> Counts:
        return Counts(self.launches + other.launches, self.bytes + other.bytes, self.flop + other.flop)


def count(update: Callable[[], object], device: str = "meta") -> Counts:
    """Counts while an update runs.

    Args:
        device: operations on its tensors count; an optimizer's numbers on the host do not.
    """
    with FlopCounterMode(display=False) as arithmetic, _Launches(device) as counted, watch(counted.kernel):
        update()
    return Counts(counted.launches, counted.bytes, arithmetic.get_total_flops())


class _Launches(TorchDispatchMode):
    """Counts operations that compute: no views, and nothing of ``_SILENT``."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.launches: Counter[str] = Counter()
        self.bytes = 0

    def kernel(self, started: Started) -> None:
        self._add(started.kernel.__name__, started.arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not running() and not is_view and not str(func).startswith(_SILENT):
            self._add(str(func), (args, kwargs, result))
        return result

    def _add(self, name: str, values: Any) -> None:
        leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
        tensors = {id(leaf): leaf for leaf in leaves if leaf.device.type == self.device}
        if tensors:
            self.launches[name] += 1
            self.bytes += sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())


def autograd(objective: Objective, channels: int, size: Size) -> Counts:
    """Of an update of a critic by autograd, operation by operation, with the Adam that torch takes on a device."""
    critic, real, fake = _problem(channels, size)
    optimizer = torch.optim.Adam(critic.parameters(), foreach=True)
    request = Request(critic, optimizer, real, fake, MIX, objective)
    autograd_update([request])  # the first one makes Adam's state
    return count(lambda: autograd_update([request]))


def fused(objective: Objective, channels: int, size: Size, precision: str = "ieee") -> Counts:
    """Of an update by the Triton kernels and a fused Adam: what its CUDA graph holds, with the tiles of an H100.

    Raises:
        RuntimeError: triton is not installed.
    """
    if not TRITON_INSTALLED:
        raise RuntimeError("the kernels' launches cannot be counted without triton: pip install triton")
    from training.kernels.triton.parameters import Layout
    from training.kernels.triton.step import launch_step

    critic, real, fake = _problem(channels, size)
    parameters = list(critic.parameters())
    layout, settings = Layout.of(parameters), torch.empty(1, 2, device="meta")

    def step() -> None:
        flat = torch.cat([parameter.detach().view(-1) for parameter in parameters])[None]
        launch_step(flat, layout, real[None], fake[None], settings, objective, precision, arch=90)

    launched = count(step).joined(_fused_adam(channels))
    # The counter does not see inside of the kernels: their arithmetic is that of the plain form.
    plain = count(lambda: reference.critic_gradients(parameters, real, fake, MIX, objective))
    return launched._replace(flop=plain.flop)


def _fused_adam(channels: int) -> Counts:
    """On the CPU: torch has no fused Adam for tensors without data."""
    parameters = list(Discriminator(channels).parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.Adam(parameters, fused=True)
    optimizer.step()
    return count(optimizer.step, "cpu")


def generator(channels: int, size: Size) -> Counts:
    """Of a generator's update, which is autograd's with every back end, and of the fake that it makes before."""
    critic, real, distorted = _problem(channels, size)
    network = Generator(channels).to("meta")
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, foreach=True)

    def update() -> None:
        with torch.no_grad():
            network(distorted)
        loss = generator_loss(critic, real, network(distorted), 10.0).total
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    update()
    return count(update)


def _problem(channels: int, size: Size) -> tuple[Discriminator, Tensor, Tensor]:
    real, fake = (torch.empty(1, 3, *size, device="meta") for _ in range(2))
    return Discriminator(channels).to("meta"), real, fake


# Each way to make an update that training has.
WAYS: dict[str, Callable[[int, Size], Counts]] = {
    "wgan-gp, autograd": partial(autograd, WGAN_GP),
    "wgan-gp, Triton": partial(fused, WGAN_GP),
    "hinge and spectral norm, autograd": partial(autograd, HINGE),
    "hinge and spectral norm, Triton": partial(fused, HINGE),
    "generator, autograd": generator,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.counts", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--channels", type=int, default=32, help="of the critic [32]")
    parser.add_argument("--names", action="store_true", help="also tell what is launched, most often first")
    arguments = parser.parse_args(argv)
    ways = {name: way for name, way in WAYS.items() if TRITON_INSTALLED or "Triton" not in name}
    counted = {name: way(arguments.channels, (11, 11)).launches for name, way in ways.items()}  # at any size the same
    print(table(["update", "launches"], [[name, str(launches.total())] for name, launches in counted.items()]))
    if arguments.names:
        for name, launches in counted.items():
            print(f"\n{name}:")
            print("\n".join(f"{times:6} {launched}" for launched, times in launches.most_common()))
    if not TRITON_INSTALLED:
        print("\nThe kernels' rows need triton: pip install triton")
    return 0


if __name__ == "__main__":
    sys.exit(main())
