"""A warning, once a process, for images in another range than a loss was told."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

FAR = 10  # ranges above the range: more than highlights of an HDR image, less than 8-bit values in [0, 1]
_warned: set[str] = set()


def can_be_read(image: Tensor) -> bool:
    """Whether a look at the values waits for no device, and leaves nothing in what is traced or transformed."""
    return (
        not torch.compiler.is_compiling()
        and image.device.type == "cpu"
        and type(image) in (Tensor, nn.Parameter)
        and image.numel() > 0
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def warn_if_far_outside(image: Tensor, low: float, high: float) -> None:
    """Reads one number of an image for which :func:`can_be_read` holds."""
    largest = image.detach().float().amax().item()  # float8 has no largest value of its own
    if largest > high + FAR * (high - low) and "range" not in _warned:
        _warned.add("range")
        warnings.warn(
            f"images reach {largest:g}, but the loss was made for [{low:g}, {high:g}]: pass data_range=255 for 8-bit "
            "values, 65535 for 16-bit ones, or (low, high). This is said once; nothing is clipped",
            stacklevel=2,
        )
