"""What a kernel is compiled for, as far as the ahead-of-time check needs to know it.

Each file of kernels has a function ``variants() -> list[Variant]`` that lists what its launcher may ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The architectures that are compiled for: A100, A10 and RTX 30, L4 and RTX 40, H100, B200, RTX 50.
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


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
