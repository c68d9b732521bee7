"""What the critic's step launches, for the ahead-of-time check: found by going through steps on no device at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from training.kernels.triton.configs import ARCHITECTURES
from training.kernels.triton.launch import Started, watch
from training.kernels.triton.optional import tl
from training.kernels.triton.parameters import Layout
from training.kernels.triton.step import launch_step
from training.kernels.triton.sums import Running
from training.objectives import Objective

_DEPTH = 5
_WGAN_GP, _HINGE = Objective("wgan-gp"), Objective("hinge", spectral_norm=True)
_CASES = [  # channels, precision, objective
    *((channels, "ieee", objective) for channels in (8, 16, 24, 32, 48, 64) for objective in (_WGAN_GP, _HINGE)),
    *((channels, precision, _WGAN_GP) for channels in (32, 64) for precision in ("tf32", "bf16")),
    *((32, precision, _HINGE) for precision in ("tf32", "bf16")),
    *((32, "tf32", replace(objective, shared_norm=False)) for objective in (_WGAN_GP, _HINGE)),
    (32, "ieee", replace(_HINGE, spectral_norm=False)),
]
_TELLING = ("CHANNELS", "KINDS", "GRADIENTS", "SECOND", "STILL", "DIVIDE", "PENALTY")  # of kernels without products
_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}
# One or two of each file: those that use most registers and shared memory stand for the others in the default tests.
_REPRESENTATIVE = (
    "conv3x3 adjoint>masked 32>32 tf32",
    "conv3x3 adjoint>masked 24>24 ieee",  # what training takes, and a width whose channels are masked
    "wgrad activation*adjoint 32>32 tf32",
    "wgrad activation*gradient 64>64 ieee",
    "fold_sums channels 32 kinds 1 gradients True second True",
    "penalty still 2",
    "pack channels 32 divide True",
    "units channels 32",
)


@dataclass(frozen=True)
class Variant:
    """One kernel with all that decides its machine code.

    Attributes:
        name: unique, short and readable, such as ``conv3x3_forward c32 tf32``.
        kernel: the ``@jit`` function.
        signature: Triton types of the other parameters, by name: ``*fp32``, ``*bf16``, ``i32``, ``fp32``.
        constexprs: values of the ``tl.constexpr`` parameters, by name.
        warps: warps of a program.
        stages: depth of software pipelining.
        registers: of a thread, at most (``maxnreg``); None leaves it to the assembler.
        tensor_core: whether the variant claims to use tensor cores; the check demands their instructions then.
        architectures: those that it is meant for.
        representative: compiled in the default tests too, not only in the full check. One or two per kernel.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    warps: int = 4
    stages: int = 2
    registers: int | None = None
    tensor_core: bool = False
    architectures: tuple[int, ...] = ARCHITECTURES
    representative: bool = False


def variants() -> list[Variant]:
    """All launches of steps of ``_CASES``, each once, with the architectures that compile it so."""
    found: dict[str, Variant] = {}
    for arch in ARCHITECTURES:
        for channels, precision, objective in _CASES:
            for started in _launches(channels, precision, objective, arch):
                variant = _variant(started, precision, arch)
                known = found.setdefault(variant.name, variant)
                if arch not in known.architectures:
                    found[variant.name] = replace(known, architectures=(*known.architectures, arch))
    return list(found.values())


def _launches(channels: int, precision: str, objective: Objective, arch: int) -> list[Started]:
    layout, seen = Layout(channels, _DEPTH), list[Started]()
    empty = torch.device("meta")
    image = torch.empty(1, 1, 3, 40, 50, device=empty)
    statistics = torch.empty(1, channels, device=empty)
    running = [Running(statistics, statistics, torch.empty(1, dtype=torch.int64, device=empty))] * (_DEPTH - 1)
    with watch(seen.append):
        launch_step(
            torch.empty(1, layout.total, device=empty), layout, image, image, torch.empty(1, 2, device=empty),
            objective, precision, running, arch,
        )  # fmt: skip
    return seen


def _variant(started: Started, precision: str, arch: int) -> Variant:
    constexprs = started.constexprs
    name, tile = _name(started, precision), ""
    if "BLOCK_HEIGHT" in constexprs:
        tile = f" {constexprs['BLOCK_HEIGHT']}x{constexprs['BLOCK_WIDTH']} w{started.options['num_warps']}"
    return Variant(
        name=name + tile,
        kernel=started.kernel,
        signature={
            name: _TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
            for name, value in started.arguments.items()
        },
        constexprs=constexprs,
        warps=started.options["num_warps"],
        registers=started.options.get("maxnreg"),
        stages=constexprs.get("STAGES", 1),
        tensor_core=constexprs.get("PRECISION") in ("tf32", "tf32x3") or constexprs.get("OPERAND") == tl.bfloat16,
        architectures=(arch,),
        representative=name in _REPRESENTATIVE,
    )


def _name(started: Started, precision: str) -> str:
    """The kernel, and of its constants those that tell its launches apart."""
    values = started.constexprs
    kernel = str(started.kernel.__name__).removesuffix("_kernel")
    if kernel == "conv3x3":
        kernel += f" {values['READ']}>{values['WRITE']} {values['INPUTS']}>{values['OUTPUTS']} {precision}"
    elif kernel == "wgrad":
        kernel += f" {values['READ']}*{values['GRADIENT']} {values['INPUTS']}>{values['OUTPUTS']} {precision}"
    else:
        kernel += "".join(f" {name.lower()} {values[name]}" for name in _TELLING if name in values)
    return kernel


def launches_on(arch: int) -> list[Started]:
    """Every launch of those steps, with its arguments on no device: to be compiled as the launch itself would be."""
    return [started for case in _CASES for started in _launches(*case, arch)]
