"""Time and launches of a step: timed without a profiler, and counted in a pass of its own.

A profiler that has run once may slow what comes after it, so nothing is timed in a process that has profiled.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

Step = Callable[[], object]

_WARM_UPS = 3
_BURST = 0.02  # seconds of one reading at least: far more than the clock's grain and a wait for the device
_MOST_STEPS = 200


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(steps: Mapping[str, Step], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Of one step, in each round, on average over a burst; the steps take turns.

    By the clock, from an idle device to an idle device: what the host does counts where the device waits for it.
    """
    lengths = {name: _burst_length(step, device) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(1e3 * _burst(step, lengths[name], device) / lengths[name])
    return times


def median_milliseconds(step: Step, device: torch.device, rounds: int = 5) -> float:
    return statistics.median(milliseconds({"": step}, device, rounds)[""])


def _burst_length(step: Step, device: torch.device) -> int:
    for _ in range(_WARM_UPS):
        step()
    seconds = _burst(step, 1, device)
    return max(1, min(_MOST_STEPS, int(_BURST / max(seconds, 1e-9))))


def _burst(step: Step, steps: int, device: torch.device) -> float:
    wait_for(device)
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for(device)
    return time.perf_counter() - begun


def launches(step: Step, device: torch.device) -> Counter[str]:
    """What a step runs on the device, by name: kernels, copies, memory that is filled. On the CPU: ATen operations."""
    on_cuda = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_cuda else torch.profiler.ProfilerActivity.CPU
    step()
    wait_for(device)
    with torch.profiler.profile(activities=[activity]) as profiler:
        step()
        wait_for(device)
    kind = "CUDA" if on_cuda else "CPU"
    events = [event for event in profiler.events() or [] if event.device_type.name == kind]
    if on_cuda:  # a range that the host has named is shown on the device too, but is no launch
        return Counter(event.name for event in events if not getattr(event, "is_user_annotation", False))
    operations = [event for event in events if event.name.startswith("aten::")]
    # An operation that another one calls is a part of it.
    return Counter(op.name for op in operations if not (op.cpu_parent and op.cpu_parent.name.startswith("aten::")))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products of float32 matrices, and convolutions, may be made of operands rounded to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
