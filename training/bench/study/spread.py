"""A study's cells on Ray: they are independent, and each is a file that is made once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from training.bench.study.cells import Cell, Study
from training.bench.study.peers import WITHOUT_TRAINING
from training.on_ray import connect

SKIPPED = (ImportError, FloatingPointError)  # what a cell may end in, without ending the study


def one_by_one(study: Study, cells: Sequence[Cell]) -> Iterator[tuple[Cell, str | None]]:
    """Makes cells here; gives each with why it was skipped, or None."""
    for cell in cells:
        try:
            study.run(cell)
            yield cell, None
        except SKIPPED as error:
            yield cell, str(error)


def on_ray(study: Study, cells: Sequence[Cell], address: str | None, threads: int) -> Iterator[tuple[Cell, str | None]]:
    """As :func:`one_by_one`, in the order in which they are done, each in a process of its own.

    A cell whose node dies is made elsewhere. First comes one cell of each task, which trains the network that all
    others of the task start from.

    Args:
        address: of a cluster all of whose nodes see the study's folder; None for this machine alone.
        threads: of each cell.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    import ray

    connect(address)

    @ray.remote(num_cpus=threads, max_retries=3, max_calls=1)  # type: ignore[untyped-decorator, unused-ignore]
    def make(folder: Path, study: Study, cell: Cell) -> str | None:
        os.chdir(folder)  # relative paths mean the same everywhere
        torch.set_num_threads(threads)
        ((_, reason),) = one_by_one(study, [cell])
        return reason

    first: dict[str, Cell] = {}
    for cell in cells:
        if cell.loss not in WITHOUT_TRAINING:
            first.setdefault(cell.task, cell)
    try:
        shared = ray.put(study)
        for wave in (list(first.values()), [cell for cell in cells if cell not in first.values()]):
            waiting = {make.remote(Path.cwd(), shared, cell): cell for cell in wave}
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting))
                yield waiting.pop(ready), ray.get(ready)
    finally:
        ray.shutdown()
