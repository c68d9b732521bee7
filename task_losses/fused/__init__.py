"""A loss's distances and gradient in 10 to 17 kernels on a CUDA device, by Triton kernels; off unless it is asked for.

``TASK_LOSSES_KERNELS=fused`` in the environment turns it on. Triton comes with torch's CUDA builds and is imported when
it is first needed. Before the kernels are used, they must agree with the plain path on this very device; where they
cannot run, the plain path takes over with one warning that says why.
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
    """Whether the kernels are asked for and can run; where they cannot, one warning says why.

    Args:
        plain: the same in plain torch, with which the kernels must agree on this device.

    Raises:
        ValueError: the environment asks for kernels that there are not.
    """
    if not wanted():
        return False
    reason = obstacle(pred, levels, plain)
    if reason is not None and reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"{SWITCH}=fused cannot be followed, plain torch is used: {reason}", stacklevel=2)
    return reason is None


def wanted() -> bool:
    """Whether the environment asks for the fused path."""
    value = os.environ.get(SWITCH, "")
    if value not in ("", "plain", "fused"):
        raise ValueError(f"{SWITCH} must be 'fused' or 'plain', or be unset, got {value!r}")
    return value == "fused"


def distance_and_gradient(pred: Tensor, target: Tensor, levels: Sequence[Level]) -> tuple[Tensor, Tensor]:
    """As :func:`task_losses.distance.distance_and_gradient`, by the kernels, for what they can take."""
    from task_losses.fused import step

    return step.distance_and_gradient(pred, target, levels)


def obstacle(pred: Tensor, levels: Sequence[Level], plain: Way) -> str | None:
    """Why the kernels cannot take this, in words, or None. On ``meta`` they need nothing but Triton."""
    if pred.device.type not in ("cuda", "meta"):
        return f"the images are on {pred.device}, not on a CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch's CUDA builds, or from `pip install triton`"
    if type(pred) not in (Tensor, nn.Parameter):
        return f"the images are of {type(pred).__name__}, which a kernel cannot read"
    if pred.dtype != torch.float32:
        return f"the loss is in {str(pred.dtype).removeprefix('torch.')}, the kernels are in float32"
    if len(pred) > _MOST_IMAGES or pred.shape[2] * pred.shape[3] > _MOST_PIXELS:
        return f"the kernels take {_MOST_IMAGES} images of {_MOST_PIXELS} pixels at most, got {tuple(pred.shape)}"
    return _obstacle_of(levels) or (_obstacle_here(pred.device, levels, plain) if pred.is_cuda else None)


def _obstacle_of(levels: Sequence[Level]) -> str | None:
    """Of the discriminators."""
    widths = {width_of(level) for level in levels}
    width = max(widths)
    if len(widths) > 1 or width % 8 or width > configs.MOST_CHANNELS:
        wanted_widths = ", ".join(map(str, range(8, configs.MOST_CHANNELS + 1, 8)))
        return f"all scales must have the same width, one of {wanted_widths} channels, got {sorted(widths)}"
    if configs.tiles(width).inner < configs.least_inner():
        return f"with this Triton the kernels take 16 channels, got {width}: from Triton 3.8 on they take others"
    if len(levels) > configs.MOST_LEVELS:
        return f"the kernels take {configs.MOST_LEVELS} levels at most, got {len(levels)}"
    if compared(levels) is None:
        return (
            "the kernels take one difference and one texture of each layer, alike in exponent and at all scales, of "
            "the last layer's single output no texture, and of the image itself differences and periods"
        )
    return None


def _obstacle_here(device: torch.device, levels: Sequence[Level], plain: Way) -> str | None:
    from task_losses.fused import selfcheck

    return selfcheck.check(device, levels, plain)
