"""Counts what a GPU has to launch for a step of each loss, forward and backward to the prediction, and of VGG16.

    python -m training.bench.cost.loss_launches                      # prints the tables
    python -m training.bench.cost.loss_launches --json results.json  # and keeps the figures
    python -m training.bench.cost.loss_launches --names              # and what is launched

Each loss runs on tensors without data, by the path that a CUDA device takes, with its caches filled; see ``counts``
for what counts. An operation is at least one launch: cuDNN adds the bias of a convolution by another one. On the CPU
the plain path takes one level after the other; its row shows what that would launch. A further path of the losses
joins ``PATHS``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses.distance import distance_and_gradient
from task_losses.fused import SWITCH, obstacle
from task_losses.losses import LOSSES, TaskLoss
from training.bench.cost.counts import Counts, count
from training.bench.cost.roofline import DEVICES, EAGER_LAUNCH, GRAPH_LAUNCH, least_time
from training.bench.markdown import table
from training.bench.trunks import TrunkLoss, alexnet, vgg16
from training.kernels.triton.optional import TRITON_INSTALLED
from training.provenance import machine

SHAPES = ((8, 3, 96, 96), (16, 3, 128, 128), (1, 3, 512, 512))
TRUNKS: dict[str, Callable[[], nn.ModuleList]] = {"VGG16, 4 blocks": vgg16, "AlexNet": alexnet}
DIALS = {"": 1.0, "(texture=0)": 0.0}
Shape = tuple[int, int, int, int]


def step(loss: Callable[[Tensor, Tensor], Tensor], shape: Shape, device: str) -> Counts:
    """Counts of forward + backward, the second time."""
    pred, target = (torch.zeros(shape, device=device) for _ in range(2))
    pred.requires_grad_()

    def work() -> None:
        loss(pred, target).backward()

    work()
    pred.grad = None
    return count(work, device)


def plain(loss: TaskLoss, shape: Shape) -> Counts:
    return step(loss.to("meta"), shape, "meta")


def one_by_one(loss: TaskLoss, shape: Shape) -> Counts:
    return step(loss, shape, "cpu")


def fused(loss: TaskLoss, shape: Shape) -> Counts | None:
    """By the Triton kernels. Their arithmetic is that of the plain form: the counter does not see inside of them."""
    if not TRITON_INSTALLED:
        return None
    loss, image = loss.to("meta"), torch.zeros(shape, device="meta")
    levels = loss._levels_for(image, image)
    if obstacle(image, levels) is not None:
        return None
    with mock.patch.dict(os.environ, {SWITCH: "fused"}):
        launched = step(loss, shape, "meta")
    with torch.no_grad():
        plain_form = count(lambda: distance_and_gradient(image, image, levels, join=False))
    return launched._replace(flop=plain_form.flop)


# Each path that a loss can take. None: not to be had here.
PATHS: dict[str, Callable[[TaskLoss, Shape], Counts | None]] = {
    "plain": plain,
    "plain, one level after the other": one_by_one,
    "fused": fused,
}


def measure() -> dict[str, dict[str, Counts]]:
    """Counts by row of the table and shape."""
    rows: dict[str, dict[str, Counts]] = {}
    for (kind, (title, texture)), (name, path) in product(product(LOSSES.values(), DIALS.items()), PATHS.items()):
        counted = {_name(shape): path(kind(texture=texture), shape) for shape in SHAPES}
        found = {shape: counts for shape, counts in counted.items() if counts is not None}
        if found:
            rows[f"{kind.__name__}{title}, {name}"] = found
    for name, trunk in TRUNKS.items():
        rows[name] = {_name(shape): step(TrunkLoss(trunk()).to("meta"), shape, "meta") for shape in SHAPES}
    return rows


def _name(shape: Shape) -> str:
    return "x".join(map(str, shape))


def render(results: dict[str, dict[str, Any]]) -> str:
    """Figures as :func:`figures` makes them, as Markdown tables: launches, bytes and arithmetic."""
    shapes = [_name(shape) for shape in SHAPES]
    parts = []
    for title, key, form in (
        ("launches", "launches", "{:.0f}"),
        ("moved, GB", "gigabytes", "{:.2f}"),
        ("computed, GFLOP", "gigaflop", "{:.1f}"),
    ):
        lines = [
            [row, *(form.format(of[shape][key]) if shape in of else "" for shape in shapes)]
            for row, of in results.items()
        ]
        parts.append(table([title, *shapes], lines))
    return "\n\n".join(parts)


def estimates(rows: dict[str, dict[str, Counts]]) -> str:
    """The least time of a step of the first shape, as a Markdown table: see ``roofline``. No measurement."""
    shape = _name(SHAPES[0])
    kinds = [(device, kind) for device in DEVICES for kind in ("fp32", "tf32")]
    lines = []
    for row, of in rows.items():
        bounds = [least_time(of[shape], device, kind, GRAPH_LAUNCH) for device, kind in kinds]
        times = [f"{seconds * 1e3:.3f}, {bound}" for seconds, bound in bounds]
        lines.append([row, *times, f"{of[shape].launches.total() * EAGER_LAUNCH * 1e3:.2f}"])
    title = f"{shape}, in a CUDA graph: ms at least, bound by"
    return table([title, *(f"{device.name}, {kind}" for device, kind in kinds), "launched from Python"], lines)


def figures(rows: dict[str, dict[str, Counts]]) -> dict[str, dict[str, Any]]:
    return {
        row: {
            shape: {"launches": c.launches.total(), "gigabytes": c.bytes / 1e9, "gigaflop": c.flop / 1e9}
            for shape, c in of.items()
        }
        for row, of in rows.items()
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.loss_launches", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--names", action="store_true", help="also tell what is launched, most often first")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    rows = measure()
    results = figures(rows)
    print(render(results))
    print(
        f"\nEstimates from published peaks, no measurements; {EAGER_LAUNCH * 1e6:.0f} us for a launch from Python and"
    )
    print(f"{GRAPH_LAUNCH * 1e6:.0f} us in a CUDA graph are assumed, and each map is moved once for each launch.\n")
    print(estimates(rows))
    if arguments.names:
        for row, of in rows.items():
            print(f"\n{row}, {_name(SHAPES[0])}:")
            print("\n".join(f"{times:6} {name}" for name, times in of[_name(SHAPES[0])].launches.most_common()))
    if arguments.json:
        content = {"machine": machine(), "counts": results}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
