"""Peak memory of a piece of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


def peak_memory(work: Callable[[], object], device: torch.device | None = None) -> float | None:
    """Megabytes that tensors take at the peak of some work, beyond those alive before it.

    Counted from the allocator's own events, so the result repeats exactly. Scratch space inside a convolution
    library is not seen. Nor is the memory of a CUDA graph, which a replay does not allocate: see
    :func:`captured_memory`. None where the profiler of this torch records no memory.

    Args:
        device: where the work's tensors are; None: on the CPU.
    """
    work()  # caches fill
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results if profiler.profiler else None
    events = [event for event in results.events() if event.name() == "[memory]"] if results else []
    if not events:
        return None
    level = peak = 0
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        level += event.nbytes()
        peak = max(peak, level)
    return peak / 1e6


class Held(NamedTuple):
    """Memory of a CUDA graph, in megabytes.

    Attributes:
        peak: of tensors while it was captured, beyond those alive before. Every replay uses as much.
        pool: what the device keeps for it as long as the graph lives, in whole segments of the allocator.
    """

    peak: float
    pool: float


def captured_memory(capture: Callable[[], T], device: torch.device) -> tuple[T, Held]:
    """What a function that captures a CUDA graph returns, and the memory that the graph takes.

    A replay allocates nothing, so it is the capture that is watched: there the allocator counts the tensors of the
    graph's private pool like all others. It empties its cache first, as a capture does, so what is reserved afterwards
    and was not before is the pool, and what else the function has made.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    result = capture()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # of warming up; a living graph's pool stays
    peak = torch.cuda.max_memory_allocated(device) - allocated
    return result, Held(peak / 1e6, (torch.cuda.memory_reserved(device) - reserved) / 1e6)
