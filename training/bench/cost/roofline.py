"""The least time that an update of the critic can take on a GPU, by arithmetic: no GPU is used or needed.

    python -m training.bench.cost.roofline                 # the default recipe's scales
    python -m training.bench.cost.roofline --sizes 250x250 --channels 64 --precision bf16

Updates run on tensors without data. Each operation or kernel counts as one launch that reads its inputs and writes its
outputs once; convolutions count their multiplications and additions. An update takes no less than its bytes take at the
device's bandwidth, its arithmetic at the device's peak, or its launches one after the other. Real kernels reach neither
peak, and what stays in a cache needs no bandwidth: so this is an estimate, not a measurement.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from training.config import Config
from training.images import open_image, pyramid
from training.kernels.triton.optional import TRITON_INSTALLED
from training.networks import Discriminator, Generator, Network
from training.objectives import Objective, critic_loss, generator_loss

# Seconds that a launch takes at least: issued one by one from Python, and as a node of a CUDA graph. Assumed.
EAGER_LAUNCH, GRAPH_LAUNCH = 6e-6, 1e-6
PRECISIONS = {"ieee": "fp32", "tf32": "tf32", "bf16": "bf16"}


@dataclass(frozen=True)
class Device:
    """Published peaks, without sparsity, of the SXM form.

    Attributes:
        bandwidth: bytes a second.
        peaks: floating point operations a second by kind of arithmetic.
    """

    name: str
    bandwidth: float
    peaks: dict[str, float]


DEVICES = (
    Device("A100", 2.039e12, {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12}),
    Device("H100", 3.35e12, {"fp32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12}),
)


@dataclass(frozen=True)
class Work:
    """What an update launches, moves (bytes) and computes (floating point operations)."""

    launches: int
    bytes: int
    flop: int

    def seconds(self, device: Device, arithmetic: str, launch: float) -> tuple[float, str]:
        """The least time, and what sets it."""
        bounds = {
            "memory": self.bytes / device.bandwidth,
            "arithmetic": self.flop / device.peaks[arithmetic],
            "launches": self.launches * launch,
        }
        name = max(bounds, key=lambda key: bounds[key])
        return bounds[name], name


def eager_work(channels: int, size: tuple[int, int], shared_norm: bool = True) -> Work:
    """Of the update by autograd and Adam, operation by operation."""
    critic = Discriminator(channels).to("meta")
    real, fake = (torch.empty(1, 3, *size, device="meta") for _ in range(2))
    return _of_updates(critic, lambda: critic_loss(critic, real, fake, 0.5, 0.1, shared_norm).total)


def generator_work(channels: int, size: tuple[int, int]) -> Work:
    """Of a generator's update, which is autograd's with every back end, and of the fake that it makes before."""
    critic, made = Discriminator(channels).to("meta"), Generator(channels).to("meta")
    real, distorted = (torch.empty(1, 3, *size, device="meta") for _ in range(2))

    def loss() -> Tensor:
        with torch.no_grad():
            made(distorted)
        return generator_loss(critic, real, made(distorted), 10.0).total

    return _of_updates(made, loss)


def _of_updates(network: Network, loss: Callable[[], Tensor]) -> Work:
    optimizer = torch.optim.Adam(network.parameters(), foreach=True)  # as torch chooses on a device

    def update() -> None:
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss(), parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    update()  # the first one makes Adam's state
    return _of_operations(update)


def fused_work(channels: int, size: tuple[int, int], precision: str, shared_norm: bool = True) -> Work:
    """Of the update by the Triton kernels and a fused Adam.

    Raises:
        RuntimeError: triton is not installed.
    """
    if not TRITON_INSTALLED:
        raise RuntimeError("the kernels' launches cannot be counted without triton: pip install triton")
    from training.kernels import reference
    from training.kernels.triton.launch import watch
    from training.kernels.triton.parameters import Layout
    from training.kernels.triton.step import launch_step

    critic = Discriminator(channels).to("meta")
    parameters = list(critic.parameters())
    layout = Layout.of(parameters)
    flat, settings = torch.empty(1, layout.total, device="meta"), torch.empty(1, 2, device="meta")
    real, fake = (torch.empty(1, 1, 3, *size, device="meta") for _ in range(2))
    objective, moved = Objective(shared_norm=shared_norm), list[int]()
    with watch(lambda started: moved.append(_bytes(started.arguments))):
        launch_step(flat, layout, real, fake, settings, objective, precision, arch=90)
    # Parameters are copied into one row; Adam, in two launches, reads them, gradients and two moments, and writes all
    # but the gradients.
    around = (2 + 7) * flat.numel() * flat.itemsize
    explicit = _of_operations(lambda: reference.critic_gradients(parameters, real[0], fake[0], 0.5, objective))
    return Work(len(moved) + 3, sum(moved) + around, explicit.flop)


class _Operations(TorchDispatchMode):
    """Counts operations on the device that compute, and the bytes of their inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = _bytes((args, kwargs, result))
        returns = func._schema.returns
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if moved and not is_view and not str(func).startswith(("aten.empty", "aten.new_empty", "aten.detach")):
            self.launches += 1
            self.bytes += moved
        return result


def _bytes(values: Any) -> int:
    """Of the distinct tensors without data in nested lists and dictionaries."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_meta}
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())


def _of_operations(update: Callable[[], object]) -> Work:
    with FlopCounterMode(display=False) as arithmetic, _Operations() as operations:
        update()
    return Work(operations.launches, operations.bytes, arithmetic.get_total_flops())


def recipe_sizes(config: Config) -> list[tuple[int, int]]:
    """Heights and widths of the levels that a configuration trains on, coarse to fine."""
    image, _ = open_image(config.image, config.image_licence)
    levels = pyramid(image, config.scales, config.ratio, config.longest_side)[1:]
    return [(level.shape[2], level.shape[3]) for level in levels]


def table(sizes: list[tuple[int, int]], channels: int, precisions: Sequence[str], generator: bool) -> str:
    """The estimate as Markdown."""
    head = ["size", "update", "launches", "MB", "GFLOP", *(f"{device.name}: ms, bound by" for device in DEVICES)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for size in sizes:
        eager = eager_work(channels, size)
        rows = [
            ("autograd", eager, EAGER_LAUNCH, "fp32"),
            ("autograd in a CUDA graph", eager, GRAPH_LAUNCH, "fp32"),
        ]
        for precision in precisions if TRITON_INSTALLED else ():
            fused = fused_work(channels, size, precision)
            rows.append((f"kernels in a CUDA graph, {precision}", fused, GRAPH_LAUNCH, PRECISIONS[precision]))
        if generator:
            work = generator_work(channels, size)
            rows.append(("generator, autograd", work, EAGER_LAUNCH, "fp32"))
            rows.append(("generator, if it were in a CUDA graph", work, GRAPH_LAUNCH, "fp32"))
        for name, work, launch, arithmetic in rows:
            bounds = [work.seconds(device, arithmetic, launch) for device in DEVICES]
            cells = [
                f"{size[0]}x{size[1]}",
                name,
                str(work.launches),
                f"{work.bytes / 1e6:.1f}",
                f"{work.flop / 1e9:.2f}",
            ]
            cells += [f"{seconds * 1e3:.3f}, {bound}" for seconds, bound in bounds]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.roofline", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--sizes", nargs="+", metavar="HxW", help="of the images [the default recipe's scales]")
    parser.add_argument("--channels", type=int, default=32, help="of the critic [32]")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=list(PRECISIONS),
        help="of the kernels [all]; training takes ieee",
    )
    parser.add_argument("--generator", action="store_true", help="also the update of the paper's generator")
    arguments = parser.parse_args(argv)
    try:
        sizes = [_size(text) for text in arguments.sizes] if arguments.sizes else recipe_sizes(Config())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"Estimates, no measurements: the least time of an update of a critic of {arguments.channels} channels,\n"
        f"from published peaks. Assumed: {EAGER_LAUNCH * 1e6:.0f} us for a launch from Python, "
        f"{GRAPH_LAUNCH * 1e6:.0f} us in a CUDA graph.\n"
    )
    for device in DEVICES:
        peaks = ", ".join(f"{peak / 1e12:g} TFLOP/s {kind}" for kind, peak in device.peaks.items())
        print(f"{device.name}: {device.bandwidth / 1e9:g} GB/s, {peaks}")
    print("\n" + table(sizes, arguments.channels, arguments.precision, arguments.generator))
    if not TRITON_INSTALLED:
        print("\nThe kernels' rows need triton: pip install triton")
    return 0


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 11):
        raise ValueError(f"--sizes {text}: expected HxW, each 11 or more, such as 250x250")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
