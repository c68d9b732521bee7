"""How many threads a training takes: not more than the processors that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch


def use_threads(count: int | None = None) -> int:
    """Sets torch's number of threads, which the compiled operations take too.

    Args:
        count: None: torch's own (the cores, or OMP_NUM_THREADS), at most :func:`available`.

    Returns:
        The number.

    Raises:
        ValueError: a number below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"threads must be at least 1, got {count}; leave it out for as many as there are processors")
    chosen = count or min(torch.get_num_threads(), available())
    torch.set_num_threads(chosen)
    return chosen


def available(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that this process may use, by its affinity and by the quotas of its control groups.

    A quota of one and a half processors counts as two: one thread would leave a third of it.

    Args:
        cgroups: where control groups are mounted, of version 1 or 2.
        own: names those of this process.
    """
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        affinity = os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """In processors: of the groups of this process and of all above them, each of which limits it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers  # version 2 has one tree and names no controllers
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == mount or mount in folder.parents:
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()  # "max 100000" is no limit
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        if quota != "max" and int(quota) > 0:  # version 1 says -1
            yield int(quota) / int(period)
    except (OSError, ValueError):  # a group of the machine around a container is not seen inside
        return
