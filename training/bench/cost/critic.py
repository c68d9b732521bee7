"""Cost of a critic's training step on the CPU: autograd against the explicit step, for each objective.

    python -m training.bench.cost.critic                                  # prints the tables
    python -m training.bench.cost.critic --json training/bench/results/critic-cpu.json
    python -m training.bench.cost.critic --busy 2                         # with two busy loops beside it

A step is one iteration of ``training.train`` without the distortion: losses, gradients, running statistics and Adam,
at each scale of a recipe. All back ends take turns in one process, so that whatever else the machine does hits them
alike; the fastest round of each counts, in CPU seconds of all threads and by the clock. Errors are of the gradients of
a first step together, root mean square, against the explicit step in float64.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.cost.busy import busy_loops
from training.bench.cost.memory import peak_memory
from training.config import Config
from training.images import open_image, pyramid, resize_clipped
from training.kernels.reference import critic_gradients
from training.provenance import machine
from training.recipes import settings
from training.scale import Scale
from training.threads import use_threads
from training.updates import Request, Update, choose

CPU = torch.device("cpu")
BACK_ENDS = ("autograd", "reference", "native")
MIX = 0.37
# Of SRLoss's training and of DenoiseLoss's, which JPEGLoss's shares.
RECIPES = {
    "wgan-gp": Config(**settings("sr", {"task": "sr"})),
    "hinge": Config(**settings("denoise", {"task": "denoise"})),
}


def iterate(scale: Scale, update: Update, real: Tensor, fake: Tensor) -> None:
    scale.begin_step(0)
    (judged,) = update([scale.request(real, fake, MIX)])
    scale.losses(judged, real, fake)


def gradient_errors(
    config: Config, index: int, updates: dict[str, Update], real: Tensor, fake: Tensor
) -> dict[str, float]:
    scales = {name: Scale(config, index, CPU) for name in updates}
    critics: dict[str, Any] = {name: scale.networks["discriminator"] for name, scale in scales.items()}
    start = [parameter.detach().double() for parameter in critics[BACK_ENDS[0]].parameters()]
    settings = MIX, config.critic_objective
    exact = critic_gradients(start, real.double(), fake.double(), *settings).parameters
    length = sum(gradient.square().sum().item() for gradient in exact)
    errors = {}
    for name, update in updates.items():
        update([Request(critics[name], scales[name].optimizers["discriminator"], real, fake, *settings)])
        pairs = zip(critics[name].parameters(), exact, strict=True)
        errors[name] = (sum((p.grad.double() - e).square().sum().item() for p, e in pairs) / length) ** 0.5
    return errors


def measure_scale(config: Config, index: int, real: Tensor, fake: Tensor, rounds: int) -> dict[str, dict[str, Any]]:
    """Per back end: seconds of a step, megabytes of its tensors at the finest scale, error of its gradients."""
    updates = {name: choose(name, CPU, config.architecture.channels, config.critic_objective)[0] for name in BACK_ENDS}
    scales = {name: Scale(config, index, CPU) for name in BACK_ENDS}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in BACK_ENDS}
    for turn in range(rounds + 1):
        for name, update in updates.items():
            cpu, wall = time.process_time(), time.perf_counter()
            iterate(scales[name], update, real, fake)
            if turn:  # the first fills caches
                seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    errors = gradient_errors(config, index, updates, real, fake)
    results: dict[str, dict[str, Any]] = {}
    for name, update in updates.items():
        cpu, wall = map(min, zip(*seconds[name], strict=True))
        results[name] = {"cpu": cpu, "wall": wall, "error": errors[name]}
        if index == config.scales - 1:
            work = functools.partial(iterate, scales[name], update, real, fake)
            results[name]["megabytes"] = peak_memory(work)
    return results


def measure(config: Config, rounds: int) -> dict[str, Any]:
    """All scales of a recipe, and their sums; prints a table meanwhile."""
    image, _ = open_image(config.image)
    levels = pyramid(image, config.scales, config.ratio, config.longest_side)
    scales: list[dict[str, Any]] = []
    print(f"\n{config.objective:<13}" + "".join(f"{name:>42}" for name in BACK_ENDS))
    for index, (coarser, real) in enumerate(pairwise(levels)):
        size = real.shape[2], real.shape[3]
        fake = resize_clipped(coarser if config.upscale else real, size)
        if not config.upscale:  # a distortion would be without blur
            fake = (real + 0.1 * torch.randn(real.shape, generator=torch.Generator().manual_seed(index))).clamp(0, 1)
        measured = measure_scale(config, index, real, fake, rounds)
        scales.append({"height": size[0], "width": size[1], **measured})
        print(f"{size[0]:>3} x {size[1]:<6} " + "".join(_shown(measured, name) for name in BACK_ENDS), flush=True)
    whole = {
        name: {clock: sum(scale[name][clock] for scale in scales) for clock in ("cpu", "wall")} for name in BACK_ENDS
    }
    print("pyramid      " + "".join(_shown(whole, name) for name in BACK_ENDS))
    print("tensors      " + "".join(f"{scales[-1][name]['megabytes']:>39.0f} MB" for name in BACK_ENDS))
    return {"scales": scales, "pyramid": whole}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.critic", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--objectives", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each back end (%(default)s)")
    parser.add_argument("--threads", type=int, help="default: as many as there are processors")
    parser.add_argument("--busy", type=int, default=0, help="loops that keep a core busy meanwhile (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    use_threads(arguments.threads)
    results: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds, "busy": arguments.busy}
    with busy_loops(arguments.busy):
        for objective in arguments.objectives:
            results[objective] = measure(RECIPES[objective], arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _shown(measured: dict[str, dict[str, Any]], name: str) -> str:
    of, slowest = measured[name], measured[BACK_ENDS[0]]
    text = f"{1e3 * of['cpu']:.1f} cpu ({slowest['cpu'] / of['cpu']:.2f}x)"
    text += f", {1e3 * of['wall']:.1f} wall ({slowest['wall'] / of['wall']:.2f}x)"
    if "error" in of:
        text += f", {of['error']:.0e}"
    return f"{text:>42}"


if __name__ == "__main__":
    raise SystemExit(main())
