"""The least time that an update of the critic can take on a GPU, by arithmetic: no GPU is used or needed.

    python -m training.bench.cost.roofline                 # the default recipe's scales
    python -m training.bench.cost.roofline --sizes 250x250 --channels 64 --precision bf16

An update takes no less than its bytes take at the device's bandwidth, its arithmetic at the device's peak, or its
launches one after the other; all three are counted by ``training.bench.cost.counts``. Real kernels reach neither peak,
and what stays in a cache needs no bandwidth: so this is an estimate, not a measurement.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.cost import counts
from training.bench.cost.counts import HINGE, WGAN_GP, Counts, Size
from training.bench.markdown import table
from training.config import Config
from training.images import open_image, pyramid
from training.kernels.triton.optional import TRITON_INSTALLED
from training.objectives import OBJECTIVES, Objective

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


def least_time(work: Counts, device: Device, arithmetic: str, launch: float) -> tuple[float, str]:
    """Seconds, and what sets them.

    Args:
        arithmetic: a kind of those in ``device.peaks``.
        launch: seconds that one launch takes.
    """
    bounds = {
        "memory": work.bytes / device.bandwidth,
        "arithmetic": work.flop / device.peaks[arithmetic],
        "launches": work.launches.total() * launch,
    }
    name = max(bounds, key=lambda key: bounds[key])
    return bounds[name], name


def recipe_sizes(config: Config) -> list[Size]:
    """Heights and widths of the levels that a configuration trains on, coarse to fine."""
    image, _ = open_image(config.image, config.image_licence)
    levels = pyramid(image, config.scales, config.ratio, config.longest_side)[1:]
    return [(level.shape[2], level.shape[3]) for level in levels]


def estimates(
    sizes: Sequence[Size], channels: int, precisions: Sequence[str], generator: bool, objective: Objective = WGAN_GP
) -> str:
    """A table in Markdown."""
    head = ["size", "update", "launches", "MB", "GFLOP", *(f"{device.name}: ms, bound by" for device in DEVICES)]
    lines = []
    for size in sizes:
        eager = counts.autograd(objective, channels, size)
        rows = [
            ("autograd", eager, EAGER_LAUNCH, "fp32"),
            ("autograd in a CUDA graph", eager, GRAPH_LAUNCH, "fp32"),
        ]
        for precision in precisions if TRITON_INSTALLED else ():
            fused = counts.fused(objective, channels, size, precision)
            rows.append((f"kernels in a CUDA graph, {precision}", fused, GRAPH_LAUNCH, PRECISIONS[precision]))
        if generator:
            work = counts.generator(channels, size)
            rows.append(("generator, autograd", work, EAGER_LAUNCH, "fp32"))
            rows.append(("generator, if it were in a CUDA graph", work, GRAPH_LAUNCH, "fp32"))
        for name, work, launch, arithmetic in rows:
            bounds = [least_time(work, device, arithmetic, launch) for device in DEVICES]
            counted = [str(work.launches.total()), f"{work.bytes / 1e6:.1f}", f"{work.flop / 1e9:.2f}"]
            times = [f"{seconds * 1e3:.3f}, {bound}" for seconds, bound in bounds]
            lines.append([f"{size[0]}x{size[1]}", name, *counted, *times])
    return table(head, lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.roofline", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--sizes", nargs="+", metavar="HxW", help="of the images [the default recipe's scales]")
    parser.add_argument("--channels", type=int, default=32, help="of the critic [32]")
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default="wgan-gp", help="hinge is with spectral norm [%(default)s]"
    )
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
    objective = HINGE if arguments.objective == "hinge" else WGAN_GP
    print(
        f"Estimates, no measurements: the least time of an update of a critic of {arguments.channels} channels by\n"
        f"{arguments.objective}, from published peaks. Assumed: {EAGER_LAUNCH * 1e6:.0f} us for a launch from Python, "
        f"{GRAPH_LAUNCH * 1e6:.0f} us in a CUDA graph.\n"
    )
    for device in DEVICES:
        peaks = ", ".join(f"{peak / 1e12:g} TFLOP/s {kind}" for kind, peak in device.peaks.items())
        print(f"{device.name}: {device.bandwidth / 1e9:g} GB/s, {peaks}")
    print("\n" + estimates(sizes, arguments.channels, arguments.precision, arguments.generator, objective))
    if not TRITON_INSTALLED:
        print("\nThe kernels' rows need triton: pip install triton")
    return 0


def _size(text: str) -> Size:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 11):
        raise ValueError(f"--sizes {text}: expected HxW, each 11 or more, such as 250x250")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
