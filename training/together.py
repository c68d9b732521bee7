"""Runs side by side: whatever their critics ask for at the same time is updated in the same launches.

A run is a generator that yields a :class:`training.updates.Request` and is sent the losses: see
:func:`training.train.train`, which reads as if it were alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from training.updates import Judged, Request, Update

Training = Generator[Request, Judged | None, None]


def train_together(runs: Sequence[Training], update: Update) -> None:
    """Drives runs until the last has ended; each ends with the same weights as by itself.

    Args:
        update: makes the updates that are asked for, all of a round in one call.
    """
    answers: dict[int, Judged | None] = dict.fromkeys(range(len(runs)))  # a run begins with None
    try:
        while answers:
            requests: dict[int, Request] = {}
            for index, judged in answers.items():
                with contextlib.suppress(StopIteration):  # this one has ended
                    requests[index] = runs[index].send(judged)
            answers = dict(zip(requests, update(list(requests.values())), strict=True))
    finally:
        for run in runs:
            run.close()  # where one failed, the others leave their threads and files in order
