"""Counts what really trains: steps of torch's optimizers that found gradients and changed their parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Steps:
    """A context. ``count`` is the number of steps; one without effect is an AssertionError."""

    def __enter__(self) -> Steps:
        self.count = 0
        self._before: list[Tensor] = []
        self._handles = (register_optimizer_step_pre_hook(self._pre), register_optimizer_step_post_hook(self._post))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _parameters(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def _pre(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._before = [p.detach().clone() for p in self._parameters(optimizer)]

    def _post(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # Not before the step: a closure may make the gradients in it.
        gradients = [p.grad for p in self._parameters(optimizer) if p.grad is not None]
        assert gradients, "a step without gradients"
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients), "gradients are all zero"
        pairs = zip(self._before, self._parameters(optimizer), strict=True)
        assert any(not torch.equal(before, now) for before, now in pairs), "a step that changed nothing"
        self.count += 1
