"""What chance decides, step by step: distorted levels and the places of the gradient penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from training.distortions import Distortion, uniform


class Drawn(NamedTuple):
    """What one step needs.

    Attributes:
        distorted: (1, 3, H, W) in [0, 1], on the CPU.
        mixes: of each update of the critic, where the penalty is taken: 0 at the fake, 1 at the real level.
        state: of the source of randomness after this step, for a checkpoint.
    """

    distorted: Tensor
    mixes: list[float]
    state: Tensor


def drawn(
    distort: Distortion, start: Tensor, source: torch.Generator, updates: Sequence[int], ahead: bool
) -> Iterator[Drawn]:
    """One :class:`Drawn` for each number of updates, in the order that a resumed run repeats.

    Args:
        start: what is distorted, (1, 3, H, W) in [0, 1].
        updates: of the critic, for each step.
        ahead: make each in a thread of its own while the one before is used, in memory that a CUDA device can read
            without the host's help. Otherwise each is made when it is asked for.
    """

    def draw(count: int) -> Drawn:
        distorted = distort(start, source)
        mixes = [uniform(0, 1, source) for _ in range(count)]
        return Drawn(distorted.pin_memory() if ahead else distorted, mixes, source.get_state())

    return _ahead(draw, updates) if ahead else map(draw, updates)


def _ahead(draw: Callable[[int], Drawn], updates: Sequence[int]) -> Iterator[Drawn]:
    with ThreadPoolExecutor(1, thread_name_prefix="distortion") as thread:
        waiting = thread.submit(draw, updates[0])
        for count in updates[1:]:
            ready = waiting.result()
            waiting = thread.submit(draw, count)
            yield ready
        yield waiting.result()
