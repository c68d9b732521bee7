"""NVIDIA's compute-sanitizer on one update of a critic whose kernels are launched one by one.

It looks for what tests can miss. Every tensor gets memory of its own, or the caching allocator hides accesses outside
of tensors; without that allocator torch captures no graph, so nothing is captured here.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch

from training.adam import adam
from training.bench.device.runner import run_limited
from training.bench.device.work import Skipped, Work
from training.kernels import reference
from training.networks import Discriminator
from training.objectives import Objective
from training.provenance import ROOT

TOOLS = {
    "memcheck": "outside of memory, misaligned",
    "initcheck": "reads of what nothing wrote",
    "racecheck": "hazards in shared memory",
    "synccheck": "barriers that not all threads reach",
}
_CHANNELS, _SIZE = 16, (18, 27)


def step(work: Work) -> None:
    """One update, under each tool where there is one."""
    command = [
        sys.executable,
        "-m",
        "training.bench.device.part",
        "sanitizer.bare",
        "--file",
        os.devnull,
        "--device",
        work.device.type,
    ]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if work.small:
        ended = run_limited(command, work.left() - 1, ROOT, environment)
        work.add(tool=None, status=ended.status, output=ended.output[-500:])
        work.errors += ended.status != 0
    work.need_cuda()
    sanitizer = _sanitizer()
    for tool, finds in TOOLS.items():  # each may take all that is left: half a run says nothing
        seconds = work.left() - 1
        if seconds < 5:
            work.add(tool=tool, finds=finds, skipped="no time was left")
            continue
        ended = run_limited([sanitizer, "--tool", tool, "--error-exitcode", "9", *command], seconds, ROOT, environment)
        work.add(tool=tool, finds=finds, status=ended.status, output=ended.output)
        work.errors += ended.status != 0


def _sanitizer() -> str:
    """Its path, or the part is passed over."""
    found = shutil.which("compute-sanitizer")
    if found is None:
        others = Path("/usr/local").glob("cuda*/bin/compute-sanitizer")
        found = next(map(str, others), None)
    if found is None:
        raise Skipped("needs compute-sanitizer, of the CUDA toolkit")
    return found


def bare(work: Work) -> None:
    """An update by either objective; on a CPU the reference stands in for the kernels."""
    for objective in (Objective("wgan-gp"), Objective("hinge", spectral_norm=True)):
        torch.manual_seed(0)
        critic = Discriminator(_CHANNELS).to(work.device)
        optimizer = adam(critic.parameters(), 5e-4, (0.5, 0.999))
        real, fake = (torch.rand(1, 3, *_SIZE).to(work.device) for _ in range(2))
        if work.small:
            distance, penalty = reference.critic_gradients(list(critic.parameters()), real, fake, 0.3, objective)[:2]
        else:
            from training.kernels.triton.graph import CriticIteration

            iteration = CriticIteration([critic], [optimizer], 1, _SIZE, objective)
            distance, penalty = iteration([real], [fake], [0.3])[0]
        print(f"{objective.kind}: distance {distance.item():.6f}, penalty {penalty.item():.6f}")


PARTS = {"step": step, "bare": bare}
