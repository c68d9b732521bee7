"""Times one update of the critic, and a whole training, on a CUDA device: autograd, compiled, captured and fused.

    python -m training.bench.cost.kernels                      # tests first, then the tables
    python -m training.bench.cost.kernels --json results.json  # and keeps the figures

Nothing is timed on kernels that do not pass their tests: `pytest -m gpu tests/kernels` runs first, and a failure ends
the program. All updates include Adam. They take turns, so that whatever else the machine does hits them alike; a time
is the median over rounds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses.discriminator import SLOPE
from training.adam import adam
from training.bench.cost.memory import peak_memory
from training.bench.cost.roofline import recipe_sizes
from training.config import Config
from training.networks import Discriminator
from training.objectives import critic_loss
from training.provenance import machine

Update = Callable[[], object]
ROOT = Path(__file__).parents[3]
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
    """The functional form under torch.compile.

    Args:
        options: of torch.compile.
    """
    parameters = list(critic.parameters())
    optimizer = _adam(parameters)
    gradients = torch.compile(functional_gradients, fullgraph=True, **options)

    def update() -> None:
        _set_gradients(parameters, gradients([p.detach() for p in parameters], real, fake))
        optimizer.step()

    return update


def captured(update: Update) -> Update:
    """An update as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            update()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    return graph.replay


def fused_update(critic: Discriminator, real: Tensor, fake: Tensor, precision: str) -> Update:
    """The Triton kernels in a CUDA graph."""
    from training.kernels.triton.graph import CriticIteration

    size = (real.shape[2], real.shape[3])
    optimizer = adam(critic.parameters(), LR, BETAS)
    iteration = CriticIteration([critic], [optimizer], len(real), size, PENALTY_WEIGHT, precision=precision)
    iteration.capture()
    return lambda: iteration([real], [fake], [MIX])


def _adam(parameters: list[torch.nn.Parameter]) -> torch.optim.Adam:
    on_cuda = parameters[0].is_cuda
    return torch.optim.Adam(parameters, lr=LR, betas=BETAS, fused=on_cuda, capturable=on_cuda)


def _set_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def launches(update: Update) -> int:
    """Kernels and copies that an update runs on the device."""
    update()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        update()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profiler.events())


def milliseconds(update: Update, repeats: int = 20) -> float:
    """Of one update, on average over a burst."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        update()
    end.record()
    torch.cuda.synchronize()
    elapsed: float = begin.elapsed_time(end)
    return elapsed / repeats


def updates(channels: int, size: tuple[int, int]) -> dict[str, Update]:
    """All ways to make an update, each with a critic of its own and the same images."""
    draws = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(1, 3, *size, generator=draws).cuda() for _ in range(2))

    def critic() -> Discriminator:
        torch.manual_seed(0)
        return Discriminator(channels).cuda()

    return {
        "autograd": autograd_update(critic(), real, fake),
        "torch.compile": compiled_update(critic(), real, fake),
        "autograd, CUDA graph": captured(autograd_update(critic(), real, fake)),
        "torch.compile, CUDA graph": captured(compiled_update(critic(), real, fake)),
        "fused, ieee": fused_update(critic(), real, fake, "ieee"),
        "fused, tf32": fused_update(critic(), real, fake, "tf32"),
        "fused, bf16": fused_update(critic(), real, fake, "bf16"),
    }


def update_rows(channels: int, size: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    """Time, launches and memory of each update."""
    ways = updates(channels, size)
    for way in ways.values():
        milliseconds(way)  # compiles, and warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(milliseconds(way))
    return [
        {
            "size": list(size),
            "update": name,
            "ms": statistics.median(times[name]),
            "ms_of_rounds": times[name],
            "launches": launches(way),
            "megabytes": peak_memory(way),
        }
        for name, way in ways.items()
    ]


def training_rows(kernels: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """Seconds of a whole training of the default recipe, each in a process of its own."""
    rows = []
    for name in kernels:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "training.train", "--task", "sr", "--out", f"{folder}/run"]
            command += ["--device", "cuda", "--kernels", name, "--steps", str(steps)]
            begun = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            rows.append({"kernels": name, "steps_per_scale": steps, "seconds": time.perf_counter() - begun})
    return rows


def tests_pass() -> bool:
    """Whether the kernels pass their tests on this machine's device."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/kernels"]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.kernels", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--channels", type=int, default=32, help="of the critic [32]")
    parser.add_argument("--rounds", type=int, default=10, help="of timing [10]")
    parser.add_argument("--steps", type=int, default=100, help="per scale of the whole training [100]")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print(
            "error: torch finds no CUDA device, so there is nothing to time; `python -m training.bench.cost.roofline` "
            "prints estimates without one",
            file=sys.stderr,
        )
        return 2
    if not tests_pass():
        print(
            "error: the kernels fail their tests on this device (above): nothing is timed until they pass",
            file=sys.stderr,
        )
        return 1
    torch.backends.cudnn.allow_tf32 = False  # as in training
    rows = [row for size in recipe_sizes(Config()) for row in update_rows(arguments.channels, size, arguments.rounds)]
    about = machine() | {"triton": importlib.metadata.version("triton")}
    print(f"{about}\n")
    print("| size | update | ms | launches | MB |\n|---|---|---|---|---|")
    for row in rows:
        size = "x".join(map(str, row["size"]))
        print(f"| {size} | {row['update']} | {row['ms']:.3f} | {row['launches']} | {row['megabytes']:.1f} |")
    trained = training_rows(("autograd", "reference", "triton"), arguments.steps)
    print("\n| training | seconds |\n|---|---|")
    for row in trained:
        print(f"| {row['kernels']}, {row['steps_per_scale']} steps a scale | {row['seconds']:.1f} |")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": about, "updates": rows, "trainings": trained}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
