"""The losses' own kernels on this device: how far from float64 they are, and what a step costs by them.

Beside the same of plain torch, in ``values`` and ``losses``: right and faster here is what they need to become the
default. A fall-back to plain torch is an error.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from task_losses.fused import SWITCH
from training.bench.cost.kernels import captured
from training.bench.cost.memory import peak_memory
from training.bench.cost.timing import launches, median_milliseconds
from training.bench.device import losses, values
from training.bench.device.work import Skipped, Work
from training.kernels.triton.optional import TRITON_INSTALLED


@contextmanager
def kernels(work: Work) -> Iterator[None]:
    """Inside, the losses use their kernels.

    Raises:
        Skipped: they cannot run here.
    """
    work.need_cuda()
    if not TRITON_INSTALLED:
        raise Skipped("needs Triton")
    with mock.patch.dict(os.environ, {SWITCH: "fused"}), warnings.catch_warnings():
        warnings.filterwarnings("error", message=SWITCH)
        yield


def errors(work: Work) -> None:
    with kernels(work):
        values.errors(work)


def times(work: Work) -> None:
    """Each loss's first step, which waits for the compiler and the self-check, and its later ones."""
    with kernels(work):
        for case, loss, shape in losses.cases(work, "fused", losses.OURS):
            with work.noted(**case) as row:
                step, before = losses.step_of(loss, shape, work.device), work.left()
                step()
                row["seconds_of_the_first_step"] = before - work.left()
                row["ms"] = median_milliseconds(step, work.device)
                row["megabytes"] = peak_memory(step, work.device)
                row["ms_in_a_graph"] = median_milliseconds(captured(step, work.device).update, work.device)


def counts(work: Work) -> None:
    with kernels(work):
        for case, loss, shape in losses.cases(work, "fused", losses.OURS):
            if shape == losses.SHAPES[0] and not case["tf32"]:
                with work.noted(**case) as row:
                    row["launches"] = dict(launches(losses.step_of(loss, shape, work.device), work.device))


PARTS = {"errors": errors, "times": times, "launches": counts}
