"""Memory of one step of each loss for large images, and the largest square ones that a device has room for.

    python -m training.bench.cost.large                      # prints the table
    python -m training.bench.cost.large --json results.json  # and keeps the figures

Each figure is a process of its own, as in ``speed``. A step that would take more than half of the free memory is left
out. Memory grows with the pixels: limits follow from the bytes a pixel of the largest image measured, an estimate.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.cost.speed import memory_in_own_process
from training.bench.markdown import table
from training.provenance import machine

NAMES = ("ours", "ours, SRLoss", "VGG16, 4 blocks")
SIDES = (512, 1024, 2048, 4096)  # pixels
ROOMS = (8, 16, 24)  # GB

Found = dict[str, dict[int, float]]  # MB by loss and side


def measure(device: str, sides: tuple[int, ...] = SIDES) -> Found:
    found: Found = {}
    for name in NAMES:
        found[name] = {}
        for side in sides:
            if expected(found[name], side) > free(device) / 2:
                break
            found[name][side] = memory_in_own_process(name, device, side)
    return found


def expected(found: Mapping[int, float], side: int) -> float:
    """MB, from the next smaller image; 0 if there is none."""
    return max((value * (side / smaller) ** 2 for smaller, value in list(found.items())[-1:]), default=0.0)


def free(device: str) -> float:
    """MB that nothing uses now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 1e6
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e6


def largest(found: Mapping[int, float], room: float) -> int:
    """Side in pixels of the largest square image whose step takes no more than ``room`` GB."""
    side, value = max(found.items())
    return int(side * (room * 1e3 / value) ** 0.5)


def render(found: Found) -> str:
    sides = [f"{side}x{side}, MB" for side in SIDES]
    rows = [
        [
            name,
            *(f"{values[side]:.0f}" if side in values else "" for side in SIDES),
            *(str(largest(values, room)) for room in ROOMS),
        ]
        for name, values in found.items()
    ]
    return table(["one image", *sides, *(f"side in {room} GB" for room in ROOMS)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.bench.cost.large", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    found = measure(arguments.device)
    print(render(found))
    results: dict[str, Any] = {"machine": machine(), "device": arguments.device, "memory_mb": found}
    print(json.dumps(results["machine"]))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
