"""Autocast, on devices that have it and on those that have not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

# Asked here, since torch.compile cannot ask it in every torch: up to 2.11 at least, the graph would break.
_WITHOUT = frozenset(kind for kind in ("meta", "mps", "mtia") if not torch.amp.is_autocast_available(kind))


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Inside, autocast does nothing. A device that has none, like meta, needs no switching off."""
    return nullcontext() if device.type in _WITHOUT else torch.autocast(device.type, enabled=False)


def is_on(device: torch.device) -> bool:
    """Whether autocast is on for such a device."""
    return device.type not in _WITHOUT and torch.is_autocast_enabled(device.type)
