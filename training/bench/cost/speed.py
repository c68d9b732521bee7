"""Cost of one training step of each loss: forward, and backward to the prediction.

    python -m training.bench.cost.speed                      # prints the tables
    python -m training.bench.cost.speed --json results.json  # and keeps the figures
    python -m training.bench.cost.speed --losses ours "ours, texture=0" --rounds 20     # these alone

All losses take turns in one process, so that whatever else the machine does hits them alike; a row is the median over
rounds of the ratio to ours within a round. Memory is each loss's own process: the growth of its peak resident size
(on CUDA: of allocated memory) during a step. Random weights cost what trained ones cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses import DenoiseLoss, JPEGLoss, SRLoss
from training.bench.authors import AuthorsLoss
from training.bench.cost.turns import take_turns
from training.bench.markdown import table
from training.bench.trunks import TrunkLoss, vgg16
from training.provenance import machine

SHAPES = ((1, 3, 256, 256), (8, 3, 96, 96))
MEMORY_SIDE = 512


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "ours": lambda: JPEGLoss(pretrained=False),
    "ours, texture=0": lambda: JPEGLoss(pretrained=False, texture=0.0),
    "ours, DenoiseLoss": lambda: DenoiseLoss(pretrained=False),  # of the same form since v5
    "ours, SRLoss": lambda: SRLoss(pretrained=False),
    "ours, every discriminator at full resolution": lambda: JPEGLoss(pretrained=False, resolution="full"),
    "VGG16, 4 blocks": lambda: TrunkLoss(vgg16()),
    "authors' algorithm": AuthorsLoss,
}


def make_step(name: str, shape: tuple[int, ...], device: str) -> Callable[[], None]:
    """A function that does one step's work with a loss."""
    torch.manual_seed(0)
    loss = LOSSES[name]().to(device)
    pred = torch.rand(shape, device=device).requires_grad_()
    target = torch.rand(shape, device=device)

    def step() -> None:
        pred.grad = None
        loss(pred, target).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def time_losses(
    shape: tuple[int, ...], rounds: int, device: str, losses: Sequence[str] = tuple(LOSSES)
) -> dict[str, dict[str, float]]:
    """Milliseconds of a step, and how many times ours, the first, fits into it, per loss."""
    steps = {name: make_step(name, shape, device) for name in losses}
    seconds = take_turns(steps, rounds)
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(times),
            "times_ours": statistics.median(t / ours for t, ours in zip(times, seconds[losses[0]], strict=True)),
        }
        for name, times in seconds.items()
    }


def step_memory(name: str, device: str, side: int) -> float:
    """Peak memory of a step above what was held before it, in MB. Meant to run in a process of its own."""
    make_step(name, (1, 3, 128, 128), device)()  # libraries and thread pools are no part of the step
    step = make_step(name, (1, 3, side, side), device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far (a child even inherits its parent's)
    before = _resident_kilobytes("VmRSS")
    step()
    return (_resident_kilobytes("VmHWM") - before) / 1e3


def _resident_kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_in_own_process(name: str, device: str, side: int = MEMORY_SIDE) -> float:
    """:func:`step_memory` of a square image of ``side`` pixels."""
    command = [sys.executable, __file__, "--memory-of", name, "--side", str(side), "--device", device]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def render(results: dict[str, Any]) -> str:
    """The results as Markdown tables."""
    tables = []
    for shape, rows in results["time"].items():
        lines = [[name, f"{row['milliseconds']:.0f}", f"{row['times_ours']:.2f}"] for name, row in rows.items()]
        tables.append(table([f"one step, {shape}", "ms", "times ours"], lines))
    memory = results["memory_mb"]
    ours = next(iter(memory.values()))
    lines = [[name, f"{value:.0f}", f"{value / ours:.2f}"] for name, value in memory.items()]
    tables.append(table([f"memory of one step, 1x3x{MEMORY_SIDE}x{MEMORY_SIDE}", "MB", "times ours"], lines))
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.bench.cost.speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed steps per loss and shape [9]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument(
        "--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES), help="which take turns, ours first [all]"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--memory-of", choices=list(LOSSES), help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, default=MEMORY_SIDE, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(step_memory(arguments.memory_of, arguments.device, arguments.side))
        return
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "device": arguments.device, "rounds": arguments.rounds}
    results["time"] = {
        "x".join(map(str, shape)): time_losses(shape, arguments.rounds, arguments.device, arguments.losses)
        for shape in SHAPES
    }
    results["memory_mb"] = {name: memory_in_own_process(name, arguments.device) for name in arguments.losses}
    print(render(results))
    print(json.dumps(results["machine"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
