"""Times of several pieces of work that take turns, so that whatever else the machine does hits them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def take_turns(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of each step."""
    for step in steps.values():  # warm up: thread pools, kernel selection
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds
