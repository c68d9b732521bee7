"""Peak memory of a piece of work."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_memory(work: Callable[[], object]) -> float | None:
    """Megabytes that tensors take at the peak of some work, beyond those alive before it.

    Counted from the allocator's own events, so the result repeats exactly. Scratch space inside a convolution
    library is not seen. None where the profiler of this torch records no memory.
    """
    work()  # caches fill
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
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
