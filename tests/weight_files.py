"""Weight files for tests: small random ones, and the released ones in another form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from task_losses.architecture import SLOPE, Architecture
from task_losses.weights import parse_weights, serialize_weights, tensor_shapes

# Narrow scales, so that float64 and second derivatives take no time.
DIFFERENCES = Architecture(channels=(3, 4, 5))
# Every kind of term; images of 24 x 20 pixels hold windows of all of them.
EVERY_TERM = Architecture(
    channels=(3, 4, 5),
    taps=(0, 1, 4, 5),
    image_exponent=1.5,
    texture_taps=(1, 4),
    texture_weight=2.0,
    periods=(2,),
    periodic_weight=0.5,
)
# Absolute differences, and a finest scale without texture.
ABSOLUTE = Architecture(
    channels=(3, 4, 5),
    taps=(0, 2),
    distance="absolute",
    image_exponent=1.0,
    texture_taps=(2,),
    texture_weight=1.0,
    texture_skips=1,
)


def random_file(form: Architecture, seed: int = 3) -> bytes:
    """Random weights for the task jpeg, with features of about one magnitude in all layers."""
    draws = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=draws) * 0.1 for name, shape in tensor_shapes(form).items()}
    for name, tensor in tensors.items():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(tensor, a=SLOPE, generator=draws)
    return serialize_weights(tensors, form, {"task": "jpeg"})


def differences_alone(data: bytes) -> bytes:
    """A weight file without its texture term and without that of errors that repeat."""
    weights = parse_weights(data, "a weight file")
    form = replace(weights.architecture, texture_taps=(), texture_weight=0.0, periods=(), periodic_weight=0.0)
    return serialize_weights(weights.tensors, form, weights.info)


def released(pattern: str) -> bytes:
    """The bytes of the one file of the package whose name fits a pattern."""
    (path,) = (Path(__file__).parents[1] / "task_losses" / "weights").glob(pattern)
    return path.read_bytes()
