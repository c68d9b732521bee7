"""A loss's distances and gradient in 10 to 17 kernels, by Triton: the way on a CUDA device, wherever they can run.

Triton comes with torch's CUDA builds and is imported when it is first needed. Before the kernels are used, they must
agree with the plain path on this very device. Where they cannot run, the plain path takes over: in silence if they were
not made for such images or weights, with one warning if they fail.

``TASK_LOSSES_KERNELS`` in the environment is ``plain`` for the plain path everywhere, or ``fused`` for a warning
wherever the kernels are not used.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from task_losses.fused import configs
from task_losses.fused.compared import compared
from task_losses.fused.configs import Level, Way, width_of

SWITCH = "TASK_LOSSES_KERNELS"
_MOST_IMAGES = 65535 // 6  # of a batch, by the largest grid
_MOST_PIXELS = 2**26  # of an image, so that places in a map are 32-bit integers


_warned: set[str] = set()


def takes(pred: Tensor, levels: Sequence[Level], plain: Way) -> bool:
    """Whether the kernels compute this. Where they fail, or are asked for and cannot, one warning says why.

    Args:
        plain: the same in plain torch, with which the kernels must agree on this device.

    Raises:
        ValueError: the environment asks for kernels that there are not.
    """
    asked = os.environ.get(SWITCH, "")
    if asked not in ("", "plain", "fused"):
        raise ValueError(f"{SWITCH} must be 'fused' or 'plain', or be unset, got {asked!r}")
    if asked == "plain" or not (pred.is_cuda or asked):
        return False
    reason = obstacle(pred, levels)
    if reason is not None:
        if asked:
            _warn(f"{SWITCH}=fused cannot be followed, plain torch is used: {reason}")
        return False
    failure = _failure(pred.device, levels, plain) if pred.is_cuda else None
    if failure is not None:
        _warn(f"plain torch is used on {pred.device}, {SWITCH}=plain asks for it without this warning: {failure}")
    return failure is None


def _warn(text: str) -> None:
    """Once in a process."""
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, stacklevel=3)


def distance_and_gradient(pred: Tensor, target: Tensor, levels: Sequence[Level]) -> tuple[Tensor, Tensor]:
    """As :func:`task_losses.distance.distance_and_gradient`, by the kernels, for what they can take."""
    from task_losses.fused import step

    return step.distance_and_gradient(pred, target, levels)


def all_at_once(pred: Tensor, levels: Sequence[Level]) -> bool:
    """Whether all maps of a pass take no more than :data:`task_losses.fused.configs.TOGETHER`, for what they take."""
    from task_losses.fused import step

    return step.bytes_of_maps(pred, levels) <= configs.TOGETHER


def obstacle(pred: Tensor, levels: Sequence[Level]) -> str | None:
    """Why the kernels were not made for this, in words, or None. On ``meta`` they need nothing but Triton."""
    if pred.device.type not in ("cuda", "meta"):
        return f"the images are on {pred.device}, not on a CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch's CUDA builds, or from `pip install triton`"
    if configs.triton_version() < configs.OLDEST_TRITON:
        oldest, here = (".".join(map(str, version)) for version in (configs.OLDEST_TRITON, configs.triton_version()))
        return f"Triton {oldest} or newer is needed, which torch 2.9 brings; this is {here}"
    if type(pred) not in (Tensor, nn.Parameter):
        return f"the images are of {type(pred).__name__}, which a kernel cannot read"
    if pred.dtype != torch.float32:
        return f"the loss is in {str(pred.dtype).removeprefix('torch.')}, the kernels are in float32"
    if len(pred) > _MOST_IMAGES or pred.shape[2] * pred.shape[3] > _MOST_PIXELS:
        return f"the kernels take {_MOST_IMAGES} images of {_MOST_PIXELS} pixels at most, got {tuple(pred.shape)}"
    return _obstacle_of(levels) or (_obstacle_here(pred.device) if pred.is_cuda else None)


def _obstacle_of(levels: Sequence[Level]) -> str | None:
    """Of the discriminators."""
    widths = {width_of(level) for level in levels}
    width = max(widths)
    if len(widths) > 1 or width % 8 or width > configs.MOST_CHANNELS:
        wanted_widths = ", ".join(map(str, range(8, configs.MOST_CHANNELS + 1, 8)))
        return f"all scales must have the same width, one of {wanted_widths} channels, got {sorted(widths)}"
    if configs.tiles(width, configs.precision()).inner < configs.least_inner():
        return f"with this Triton the kernels take 16 channels, got {width}: from Triton 3.8 on they take others"
    if len(levels) > configs.MOST_LEVELS:
        return f"the kernels take {configs.MOST_LEVELS} levels at most, got {len(levels)}"
    if compared(levels) is None:
        return (
            "the kernels take one difference and one texture of each layer, alike in exponent and at all scales, of "
            "the last layer's single output no texture, and of the image itself differences and periods"
        )
    return None


def _obstacle_here(device: torch.device) -> str | None:
    """Of the device, and of what watches it."""
    if torch._C._len_torch_dispatch_stack():  # make_fx, counters of operations
        return "a dispatch mode is active, which sees operations and would not see kernels"
    if torch.version.hip is not None:
        return "the kernels were made for CUDA, this torch is for ROCm"
    capability = torch.cuda.get_device_capability(device)
    if capability < configs.OLDEST:
        return f"compute capability {'.'.join(map(str, capability))} is too old: 8.0 or later is needed"
    return None


def _failure(device: torch.device, levels: Sequence[Level], plain: Way) -> str | None:
    """What went wrong when they were tried on this device, or None."""
    from task_losses.fused import selfcheck

    return selfcheck.check(device, levels, plain)
