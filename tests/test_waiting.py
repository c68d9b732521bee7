"""A training step never waits for a GPU: no number of a tensor there is read. Shown without one, on the meta device.

Tensors there have no numbers. What would read one raises: ``.item()``, a tensor as a condition, ``nonzero``, a copy to
the CPU. Small levels are joined as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from task_losses.losses import LOSSES


class OfMeta(TorchDispatchMode):
    """Notes operations that take tensors of the meta device and give others, and how many stay there."""

    def __init__(self) -> None:
        super().__init__()
        self.away: list[str] = []
        self.there = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken, given = ({x.is_meta for x in tree_leaves(part) if isinstance(x, Tensor)} for part in (args, result))
        self.there += True in given
        if True in taken and False in given:
            self.away.append(str(func))
        return result


@pytest.mark.parametrize(("task", "masked"), [("sr", False), ("denoise", False), ("jpeg", False), ("jpeg", True)])
def test_no_number_of_the_device_is_read(task: str, masked: bool) -> None:
    loss = LOSSES[task]().to("meta")
    pred, target = (torch.empty(2, 3, 96, 80, device="meta") for _ in range(2))
    mask = torch.empty(2, 1, 96, 80, device="meta", dtype=torch.bool) if masked else None
    with OfMeta() as noted:
        loss(pred.requires_grad_(), target, mask).backward()
        loss(pred, target.clone().requires_grad_(), mask).backward()
        loss.distance_map(pred, target, mask)
    assert noted.away == []
    assert noted.there > 500


X = torch.empty(3, device="meta")


@pytest.mark.parametrize(
    "read",
    [
        lambda: X.sum().item(),
        lambda: bool(X[0] > 0),
        lambda: X.tolist(),
        lambda: X[X > 0],
        lambda: X.nonzero(),
        lambda: X.unique(),
        lambda: X.cpu(),
        lambda: torch.empty(3).copy_(X),
    ],
    ids=["item", "condition", "tolist", "mask", "nonzero", "unique", "cpu", "copy"],
)
def test_a_wait_would_be_seen(read: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        read()
