"""A step of a network's training, as far as the loss goes: forward, and backward to the prediction.

Ours beside trunks of VGG16 and AlexNet. Random weights cost what trained ones cost.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss
from task_losses.distance import distance_and_gradient
from task_losses.fused import SWITCH
from training.bench.cost.kernels import captured
from training.bench.cost.memory import peak_memory
from training.bench.cost.timing import Step, launches, median_milliseconds, tf32
from training.bench.device import tiles
from training.bench.device.work import Skipped, Work
from training.bench.trunks import TrunkLoss, alexnet, vgg16
from training.kernels.triton.optional import TRITON_INSTALLED

SHAPES = ((8, 3, 96, 96), (16, 3, 128, 128), (1, 3, 512, 512), (1, 3, 1024, 1024))
SMALL = ((1, 3, 64, 72),)


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "JPEGLoss": lambda: JPEGLoss(pretrained=False),
    "SRLoss": lambda: SRLoss(pretrained=False),
    "VGG16, 4 blocks": lambda: TrunkLoss(vgg16()),
    "DenoiseLoss": lambda: DenoiseLoss(pretrained=False),
    "AlexNet": lambda: TrunkLoss(alexnet()),
}
OURS = ("JPEGLoss", "SRLoss", "DenoiseLoss")


def step_of(loss: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], device: torch.device) -> Step:
    """What does a step's work; on a device it waits for nothing."""
    draws = torch.Generator().manual_seed(0)
    pred, target = (torch.rand(shape, generator=draws).to(device) for _ in range(2))
    pred.requires_grad_()

    def step() -> None:
        pred.grad = None
        loss(pred, target).backward()

    return step


def cases(
    work: Work, mode: str, names: Sequence[str] = tuple(LOSSES)
) -> Iterator[tuple[dict[str, Any], nn.Module, tuple[int, ...]]]:
    """What identifies each case, its loss and its shape; TF32 is set. Without time left a row says so, and no more.

    Args:
        names: of the losses.
    """
    names = [name for name in ("JPEGLoss", "AlexNet") if name in names] if work.small else names
    for allowed in (False,) if work.small else (False, True):
        with tf32(allowed):
            for shape in SMALL if work.small else SHAPES:
                for name in names:
                    case = {"mode": mode, "loss": name, "shape": shape, "tf32": allowed}
                    if work.left() < 1.5:
                        work.add(**case, skipped="no time was left for this and those behind it")
                        return
                    torch.manual_seed(0)
                    yield case, LOSSES[name]().to(work.device), shape


@contextmanager
def by_kernels(work: Work) -> Iterator[None]:
    """Inside, the losses use their own kernels, and a fall-back to plain torch is an error.

    Raises:
        Skipped: the kernels cannot run here.
    """
    work.need_cuda()
    if not TRITON_INSTALLED:
        raise Skipped("needs Triton")
    with mock.patch.dict(os.environ, {SWITCH: "fused"}), warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{SWITCH}")
        yield


def by_plain_torch() -> AbstractContextManager[object]:
    """Inside, the losses use operations of torch alone, as without Triton."""
    return mock.patch.dict(os.environ, {SWITCH: "plain"})


def eager(work: Work) -> None:
    with by_plain_torch():
        for case, loss, shape in cases(work, "eager"):
            with work.noted(**case) as row:
                step = step_of(loss, shape, work.device)
                row["ms"] = median_milliseconds(step, work.device)
                row["megabytes"] = peak_memory(step, work.device)


def graph(work: Work) -> None:
    work.need_cuda()
    with by_plain_torch():
        _graphs(work)


def _graphs(work: Work) -> None:
    for case, loss, shape in cases(work, "CUDA graph"):
        with work.noted(**case) as row:
            way = captured(step_of(loss, shape, work.device), work.device)
            row["ms"] = median_milliseconds(way.update, work.device)
            assert way.held is not None
            row["megabytes"], row["megabytes_of_the_pool"] = way.held


def joined(work: Work) -> None:
    """Small levels as one network, or one by one: what ``task_losses.joined.WORTH_OF_A_GROUP`` estimates."""
    for case, loss, shape in cases(work, "plain", ("JPEGLoss",)):
        pred, target = (torch.rand(shape, device=work.device) for _ in range(2))
        assert isinstance(loss, TaskLoss)
        levels = loss._levels_for(pred, target)
        for join in (True, False):

            def step(pred: Tensor = pred, target: Tensor = target, levels: Any = levels, join: bool = join) -> None:
                distance_and_gradient(pred, target, levels, join=join)

            with torch.no_grad(), work.noted(**case, joined=join) as row:
                row["ms"] = median_milliseconds(step, work.device)
                if not work.small:
                    row["ms_in_a_graph"] = median_milliseconds(captured(step, work.device).update, work.device)


def fused(work: Work) -> None:
    """What a user gets: our losses by their own kernels, which are the default, beside the trunks."""
    with by_kernels(work):
        for case, loss, shape in cases(work, "default"):
            with work.noted(**case) as row:
                step, before = step_of(loss, shape, work.device), work.left()
                step()  # waits for the compiler and for the self-check
                row["seconds_of_the_first_step"] = before - work.left()
                row["ms"] = median_milliseconds(step, work.device)
                row["megabytes"] = peak_memory(step, work.device)
                row["ms_in_a_graph"] = median_milliseconds(captured(step, work.device).update, work.device)


def compiled(work: Work) -> None:
    """By torch.compile, each shape by itself; ours with the kernels where they can run."""
    options: dict[str, Any] = {"backend": "eager"} if work.small else {}
    for case, loss, shape in cases(work, "torch.compile"):
        with work.noted(**case, **options) as row:
            torch.compiler.reset()
            step = step_of(torch.compile(loss, dynamic=False, fullgraph=True, **options), shape, work.device)
            before = work.left()
            step()
            row["seconds_to_compile"] = before - work.left()
            row["ms"] = median_milliseconds(step, work.device)
            row["megabytes"] = peak_memory(step, work.device)


def counts(work: Work) -> None:
    for case, loss, shape in cases(work, "eager"):
        if case["tf32"] or (shape != SMALL[0] and shape not in (SHAPES[0], SHAPES[-1])):
            continue  # TF32 changes no count, and the shape only how many levels are large enough
        with work.noted(**case) as row, by_plain_torch():
            found = launches(step_of(loss, shape, work.device), work.device)
            row["launches"] = found.total()
            row["most"] = dict(found.most_common(5))


def fused_counts(work: Work) -> None:
    with by_kernels(work):
        for case, loss, shape in cases(work, "fused", OURS):
            if shape == SHAPES[0] and not case["tf32"]:
                with work.noted(**case) as row:
                    row["launches"] = dict(launches(step_of(loss, shape, work.device), work.device))


PARTS = {
    "eager": eager,
    "graph": graph,
    "fused": fused,
    "joined": joined,
    "tiles": tiles.sweep,
    "compile": compiled,
    "launches": counts,
    "fused_launches": fused_counts,
}
