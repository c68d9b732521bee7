"""What the losses' fused path launches, for the ahead-of-time check: found by going through it on no device at all."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch

from task_losses.architecture import Architecture
from task_losses.discriminator import FrozenDiscriminator
from task_losses.fused.configs import least_inner, tiles
from task_losses.fused.launch import Started, watch
from training.kernels.triton.variants import Variant

_DEPTH = 5
_FORMS = (  # channels, taps, exponent of features and of images: those of released weights, and other widths
    (16, (0, 4), "squared", 1.5),
    (16, (0, 4), "squared", 2.0),
    (16, (1, 4), "absolute", 2.0),
    (24, (1, 4), "absolute", 2.0),
    (8, (0, 1, 4, 5), "squared", 1.0),
    (32, (0, 1, 4, 5), "squared", 2.0),
)
_TEXTURES = ((), (4,), (1, 4))  # of each
_PERIODS = (3, 8)
_TYPES = {torch.float32: "*fp32", torch.int32: "*i32"}
_TELLING = {
    "CHANNELS": "",
    "TAP": "tap",
    "LAST": "last",
    "SCORES": "scores",
    "TEXTURE": "texture",
    "ADD": "add",
    "EXPONENT": "^",
    "WINDOWS": "windows ",
}
# One of each file: those that use most registers stand for the others in the default tests, and one that every Triton
# compiles.
_REPRESENTATIVE = (
    "loss resample",
    "loss middle 24 tap last ^1.0 ieee",
    "loss middle 32 tap ^2.0 tf32",
    "loss middle 16 tap last ^2.0 ieee",
    "loss strength 16 ^2.0",
    "loss pattern windows 16",
)


class _Level(NamedTuple):
    """See :class:`task_losses.fused.configs.Level`."""

    size: tuple[int, int]
    discriminator: FrozenDiscriminator


def loss_variants() -> list[Variant]:
    """All launches of ``_FORMS``, each once; every architecture compiles the same."""
    found: dict[str, Variant] = {}
    for started in loss_launches():
        variant = _variant(started)
        found.setdefault(variant.name, variant)
    return list(found.values())


def loss_launches() -> list[Started]:
    """What each of ``_FORMS`` that the installed Triton can compile launches, with and without TF32."""
    seen = list[Started]()
    with watch(seen.append):
        for channels, taps, distance, image_exponent in _FORMS:
            if tiles(channels, "ieee").inner < least_inner():
                continue
            for textures, precision in product(_TEXTURES, ("ieee", "tf32")):
                form = Architecture(
                    (channels,) * 2, 0.75, _DEPTH, taps, distance, image_exponent,
                    texture_taps=textures, texture_weight=1.0, periods=_PERIODS, periodic_weight=1.0,
                )  # fmt: skip
                _launch(form, precision)
    return seen


def _launch(form: Architecture, precision: str) -> None:
    from task_losses.fused.step import distance_and_gradient

    levels = []
    for scale, size in enumerate(((54, 60), (72, 80))):
        layers = [
            (torch.empty(outputs, inputs, 3, 3, device="meta"), torch.empty(outputs, device="meta"))
            for inputs, outputs in form.layer_shapes(scale)
        ]
        levels.append(_Level(size, FrozenDiscriminator(layers, form.terms(scale))))
    image = torch.empty(2, 3, *levels[-1].size, device="meta")
    for together in (2**29, 0):  # all levels at once, and one after the other
        distance_and_gradient(image, image, levels, precision=precision, together=together)


def _variant(started: Started) -> Variant:
    constexprs = started.constexprs
    name = f"loss {started.kernel.__name__.removesuffix('_kernel')}"
    for key, shown in _TELLING.items():
        value = constexprs.get(key)
        if key == "EXPONENT" and not constexprs.get("TAP", True):
            continue  # no difference is
        if value is True:
            name += f" {shown}"
        elif value is not None and value is not False:
            name += f" {shown}{value}"
    height, width = constexprs.get("BLOCK_HEIGHT"), constexprs.get("BLOCK_WIDTH")
    if height != width:  # of TF32; what has no product of its own is cut as the products around it are
        name += f" {height}x{width}"
    precision = constexprs.get("PRECISION")
    return Variant(
        name=name if precision is None else f"{name} {precision}",
        kernel=started.kernel,
        signature={
            name: _TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
            for name, value in started.arguments.items()
        },
        constexprs=constexprs,
        warps=started.options["num_warps"],
        registers=started.options.get("maxnreg"),
        stages=constexprs.get("STAGES", 1),
        tensor_core=precision == "tf32",
        representative=f"{name} {precision}".removesuffix(" None") in _REPRESENTATIVE,
    )
