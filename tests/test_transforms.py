"""Every way that torch runs, differentiates, captures or moves the loss: the cases that make docs/transforms.md's table.

Each case compares with the truth: the same loss in float64, by plain operations (which a target that requires grad asks
for) and ``torch.autograd.grad``, nothing else.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from task_losses import JPEGLoss, TaskLoss
from task_losses.discriminator import SLOPE, Architecture
from task_losses.weights import serialize_weights, tensor_shapes

DOCS = Path(__file__).parents[1] / "docs" / "transforms.md"
FORM = Architecture(channels=(3, 4, 5), taps=(0, 1, 4, 5), image_exponent=1.5)  # an image's own term, narrow scales


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in tensor_shapes(FORM).items()}
    for name, tensor in tensors.items():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(tensor, a=SLOPE, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    path.write_bytes(serialize_weights(tensors, FORM, {"task": "jpeg"}))
    return path


@dataclass
class Setting:
    """A loss, two images, and what is true of them."""

    file: Path
    loss: TaskLoss
    pred: Tensor
    target: Tensor

    @classmethod
    def make(cls, file: Path, *shape: int, **options: Any) -> Setting:
        generator = torch.Generator().manual_seed(7)
        pred, target = (torch.rand(shape, generator=generator) for _ in range(2))
        return cls(file, TaskLoss(file, **options), pred, target)

    def small(self) -> Setting:
        """For whole Jacobians: the finest level alone of 11 x 12 pixels."""
        return Setting.make(self.file, 1, 1, 12, 11)

    def of(self, pred: Tensor) -> Tensor:
        return self.loss(pred, self.target)

    def leaf(self) -> Tensor:
        return self.pred.clone().requires_grad_()

    def _truth(self, pred: Tensor) -> Tensor:
        loss = copy.deepcopy(self.loss).double()
        return loss(pred, self.target.double().requires_grad_())

    def value(self) -> Tensor:
        return self._truth(self.pred.double()).detach()

    def gradient(self) -> Tensor:
        pred = self.pred.double().requires_grad_()
        return torch.autograd.grad(self._truth(pred), pred)[0]

    def by_target(self) -> Tensor:
        return replace(self, pred=self.target, target=self.pred).gradient()  # the distance is symmetric

    def second(self, direction: Tensor) -> Tensor:
        """The second derivative times a direction."""
        pred = self.pred.double().requires_grad_()
        (first,) = torch.autograd.grad(self._truth(pred), pred, create_graph=True)
        return torch.autograd.grad(first, pred, direction.double())[0]

    def hessian(self) -> Tensor:
        rows = [self.second(row.view_as(self.pred)) for row in torch.eye(self.pred.numel())]
        return torch.stack(rows).view(self.pred.shape * 2)


def same(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32, rounding: float = 1e-5) -> None:
    """Equal up to rounding, relative to the largest number."""
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= rounding * expected.abs().max()


@pytest.fixture
def s(file: Path) -> Setting:
    return Setting.make(file, 2, 3, 24, 20)


Check = Callable[[Setting], None]
CASES: dict[str, tuple[str, Check]] = {}
SLOW = {"torch.compile, inductor"}


def case(name: str, remark: str = "") -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        CASES[name] = (remark, check)
        return check

    return add


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES] or [""])
def test_placeholder(name: str) -> None: ...
