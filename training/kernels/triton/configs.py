"""Fixed choices of the Triton kernels: tiles by channels and architecture, and the numbers they compute with.

There is no autotuning: equal inputs give equal launches, and so equal bits, on every machine of one architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# The architectures that are compiled for: A100, A10 and RTX 30, L4 and RTX 40, H100, B200, RTX 50.
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
PRECISIONS = ("ieee", "tf32", "bf16")
MOST_CHANNELS = 64  # beyond, nobody has seen whether the tiles fit the registers
# Of a thread, all that there are: with two programs of a few warps on a multiprocessor, none is left over for more.
MOST_REGISTERS = 255
_INTERPRETER = 0
_MULTIPROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}


@dataclass(frozen=True)
class Numerics:
    """What the maps are stored in and what the tensor cores are given; sums and coefficients stay in ``sums``.

    Attributes:
        storage: dtype of the raw maps of all blocks. Images and their gradients are kept in ``sums``.
        dot: ``ieee`` (no tensor cores), ``tf32`` or ``bf16``: how operands of a product are rounded.
        sums: dtype of accumulators, partial sums, coefficients and parameters.
    """

    storage: torch.dtype
    dot: str
    sums: torch.dtype


def numerics(precision: str, parameters: torch.dtype) -> Numerics:
    """The numerics that a name means.

    Args:
        precision: ``ieee``: float32 throughout. ``tf32``: float32 maps, products in TF32. ``bf16``: raw maps stored
            and multiplied in bfloat16, sums in float32. For float64 parameters (the interpreter's proofs) ``ieee`` is
            float64 throughout.

    Raises:
        ValueError: unknown name, or a dtype that it does not go with.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if parameters == torch.float64 and precision == "ieee":
        return Numerics(torch.float64, "ieee", torch.float64)
    if parameters != torch.float32:
        raise ValueError(
            f"the Triton step takes float32 parameters, got {parameters} with precision {precision!r}; "
            "convert them with .float()"
        )
    return Numerics(torch.bfloat16 if precision == "bf16" else torch.float32, precision, torch.float32)


@dataclass(frozen=True)
class Tiles:
    """How a kernel cuts its work.

    Attributes:
        height, width: pixels of the output that a program computes at once; both powers of 2.
        warps, stages: threads of a program in warps, and depth of the inner loop's pipeline.
        programs: programs per run over which the tiles are dealt; each leaves one row of partial sums.
    """

    height: int
    width: int
    warps: int
    stages: int
    programs: int


_INTERPRETER_TILES = Tiles(16, 32, 1, 1, 2)  # time there goes by the number of tiles more than by their size


def architecture(device: torch.device) -> int:
    """Compute capability as one number, 90 for 9.0; 0 for the CPU, where Triton's interpreter runs the kernels."""
    if device.type != "cuda":
        return _INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def supported(arch: int) -> bool:
    """Whether the tables hold for an architecture: those listed and later ones of the same generation."""
    return arch == _INTERPRETER or _nearest(arch) // 10 == arch // 10


def conv_tiles(channels: int, dot: str, arch: int) -> Tiles:
    """Tiles of conv3x3, small enough that no register spills.

    Args:
        channels: of the critic.
        dot: see :class:`Numerics`.
        arch: see :func:`architecture`.
    """
    if arch == _INTERPRETER:
        return _INTERPRETER_TILES
    nearest = _nearest(arch)
    if dot == "ieee":  # what is larger spills, and with few channels also what is smaller
        height, width = (4, 8) if channels <= 16 or (channels <= 32 and nearest < 90) else (2, 8)
    else:  # the tensor cores of data-centre GPUs since 9.0 multiply 64 rows at once
        height, width = (4, 16) if nearest in (90, 100) else (4, 8)
    return Tiles(height, width, 4 if channels <= 32 else 8, 2, 2 * _MULTIPROCESSORS[nearest])


def wgrad_tiles(channels: int, dot: str, arch: int) -> Tiles:
    """Tiles of wgrad, whose accumulators (3 taps, inputs by outputs) take most registers; arguments as above."""
    if arch == _INTERPRETER:
        return _INTERPRETER_TILES
    height, width = (2, 8) if dot == "ieee" else (4, 8) if channels > 32 else (4, 16)
    # One program for each of the kernel's 3 rows: a third of the multiprocessors per row fills the device once.
    return Tiles(height, width, 4 if channels <= 32 else 8, 1, _MULTIPROCESSORS[_nearest(arch)] // 3)


def _nearest(arch: int) -> int:
    """The listed architecture whose table an architecture uses."""
    return max((known for known in ARCHITECTURES if known <= arch), default=ARCHITECTURES[0])
