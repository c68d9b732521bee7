"""How long torch.compile takes for a loss, and for a network with a loss as one step: forward and backward, by size.

    python -m training.bench.cost.compile                      # prints the table
    python -m training.bench.cost.compile --json compile.json  # and keeps the figures

A row is the first call at a size, which compiles where it must, and the second. The compiler's own start, a small
function compiled before all else, is a row of its own. Empty caches: each run compiles anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses import JPEGLoss
from task_losses.losses import LOSSES, TaskLoss
from training.bench.markdown import table
from training.provenance import machine

SHAPES = ((4, 3, 96, 96), (4, 3, 128, 112), (4, 3, 160, 144))


def measure(backend: str, kind: type[TaskLoss] = JPEGLoss) -> dict[str, Any]:
    """Seconds of calls by what is compiled and size, and how many graphs each took.

    Raises:
        RuntimeError: a compiled step gave another gradient than eager.
    """
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    loss = kind(pretrained=False)

    def step(image: Tensor, target: Tensor) -> Tensor:
        result: Tensor = loss(network(image), target)
        return result

    whole: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"loss": loss, "network and loss": step}
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict("os.environ", TORCHINDUCTOR_CACHE_DIR=empty):
        torch.compiler.reset()
        starts = torch.compile(lambda image, target: (image - target).square().mean(), fullgraph=True, backend=backend)
        start = _calls(starts, SHAPES[0])["first"]
        return {"start": start, **{name: _by_size(function, backend) for name, function in whole.items()}}


def _by_size(function: Callable[[Tensor, Tensor], Tensor], backend: str) -> dict[str, Any]:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    rows = {"x".join(map(str, shape)): {**_calls(compiled, shape), **_eager(function, shape)} for shape in SHAPES}
    for shape in SHAPES:
        if not torch.allclose(_gradient(compiled, shape), _gradient(function, shape), rtol=1e-4, atol=1e-9):
            raise RuntimeError(f"compiled by {backend}, the gradient at {shape} differs from eager's")
    return {"sizes": rows, "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}


def _calls(function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> dict[str, float]:
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        _gradient(function, shape)
        seconds.append(time.perf_counter() - begun)
    return {"first": seconds[0], "second": seconds[1]}


def _eager(function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> dict[str, float]:
    return {"eager": _calls(function, shape)["second"]}


def _gradient(function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    image, target = (torch.rand(shape, generator=generator) for _ in range(2))
    image.requires_grad_()
    return torch.autograd.grad(function(image, target), image)[0]


def render(results: dict[str, Any]) -> str:
    rows = [["the compiler's own start", "", f"{results['start']:.1f}", "", "", ""]]
    for name in ("loss", "network and loss"):
        for size, row in results[name]["sizes"].items():
            times = [f"{row['first']:.1f}", f"{row['second']:.2f}", f"{row['eager']:.2f}"]
            rows.append([name, size, *times, str(results[name]["graphs"])])
    header = ["compiled", "images", "first call, s", "second call, s", "eager, s", "graphs for all sizes"]
    return table(header, rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.compile", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile [inductor]")
    parser.add_argument("--task", choices=list(LOSSES), default="jpeg", help="of the loss [jpeg]")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    results = {"machine": machine(), "backend": arguments.backend, "task": arguments.task}
    results.update(measure(arguments.backend, LOSSES[arguments.task]))
    print(render(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
