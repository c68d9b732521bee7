"""The operations of the critic's step in C, compiled on the user's machine: the fast path on the CPU.

``winograd.c`` holds the convolutions, ``norm.c`` BatchNorm and LeakyReLU with all their passes. Compiled once for each
width of the network, in a second or two, and kept in the user's cache. No headers of Python or torch are needed, just
a C compiler that knows GCC's vectors (gcc, clang).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from task_losses.discriminator import SLOPE
from training.kernels import reference
from training.kernels.operations import EPS, Activation, Block, Operations, Passed, Trace
from training.kernels.reference import CriticGradients
from training.objectives import Objective
from training.provenance import processor

SOURCES = tuple(Path(__file__).with_name(name) for name in ("winograd.c", "norm.c"))
HEADERS = (Path(__file__).with_name("lanes.h"),)
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
SUMS = 3  # as in norm.c
TILES_A_CHUNK = 48
MOST_CHUNKS = 16
MOST_CHANNELS = 128  # winograd.c keeps its blocks of tiles on the stack
TOLERANCE = 1e-4  # of an operation's largest value; Winograd's rounding is near 1e-5

# The transform of a kernel's three taps to Winograd's points 0, 1, -1, 2, -2 and infinity; in two dimensions 36 x 9.
TAPS_TO_POINTS = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6] * 3,
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
KERNEL_TO_POINTS = torch.kron(TAPS_TO_POINTS, TAPS_TO_POINTS)


class Unavailable(RuntimeError):
    """The compiled operations cannot be had on this machine; the message says why."""


class _Layer(ctypes.Structure):
    """``layer`` of norm.c."""

    kept: tuple[Tensor, ...]
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("raw", "output", "mean", "rstd", "scale")),
        ("rows", ctypes.c_long),
        ("slope", ctypes.c_double),
    )


class NativeOperations(Operations):
    """For networks of one width, on channels-last float32 maps on the CPU; torch's convolutions for other shapes.

    Args:
        width: number of channels of the hidden layers, a multiple of 8, at most 128.

    Raises:
        Unavailable: the width is another, there is no compiler, or it failed.
    """

    memory_format = torch.channels_last

    def __init__(self, width: int) -> None:
        self.width = width
        path = compiled(width)
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise Unavailable(f"{path} cannot be loaded: {error}") from error

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        if tuple(weight.shape[:2]) != (self.width, self.width):
            return super().convolve(x, weight)
        return self._convolve(x, weight.permute(2, 3, 1, 0), padding=0)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        if tuple(weight.shape[:2]) != (self.width, self.width):
            return super().input_gradient(gradient, weight)
        return self._convolve(gradient, weight.flip(2, 3).permute(2, 3, 0, 1), padding=2)

    def weight_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        if (x.shape[1], gradient.shape[1]) != (self.width, self.width):
            return super().weight_gradient(x, gradient)
        x, gradient = _packed(x), _packed(gradient)
        images, _, height, width = x.shape
        tiles = images * -(-(height - 2) // 4) * -(-(width - 2) // 4)
        chunks = max(1, min(MOST_CHUNKS, tiles // TILES_A_CHUNK))
        sums = torch.empty(chunks, len(KERNEL_TO_POINTS), self.width**2)
        self._call("correlate", x, gradient, images, height, width, sums, chunks)
        points = sums.sum(0, dtype=torch.float64)
        kernel = (KERNEL_TO_POINTS.t() @ points).float().view(3, 3, self.width, self.width)
        return kernel.permute(3, 2, 0, 1).contiguous()

    def normalise(self, raw: Tensor, block: Block) -> Activation:
        raw, scale, shift = _packed(raw), block.scale.contiguous(), block.shift.contiguous()
        mean, variance, rstd = torch.empty(3, self.width)
        output = torch.empty_like(raw)
        rows = raw.numel() // self.width
        arguments = (raw, ctypes.c_long(rows), scale, shift, ctypes.c_double(EPS), ctypes.c_double(SLOPE))
        self._call("normalise", *arguments, mean, variance, rstd, output)
        return Activation(raw, scale, mean, variance, rstd, output)

    def back(self, gradient: Tensor, activation: Activation) -> Passed:
        gradient = _packed(gradient)
        sums, result = self._new_sums(), torch.empty_like(gradient)
        self._call("back", self._layer(activation), gradient, sums, result)
        return Passed(gradient, sums[:2], result)

    def along(self, tangent: Tensor, activation: Activation, adjoint: Tensor) -> Passed:
        tangent = _packed(tangent)
        sums, result = self._new_sums(), torch.empty_like(tangent)
        self._call("along", self._layer(activation), tangent, _packed(adjoint), sums, result)
        return Passed(tangent, sums, result)

    def back_twice(self, gradient: Tensor, activation: Activation, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        gradient = _packed(gradient)
        by_scale, by_shift = torch.empty(2, self.width)
        result = torch.empty_like(gradient)
        traced = _packed(trace.adjoint), trace.adjoint_sums, _packed(trace.tangent), trace.tangent_sums
        self._call("back_twice", self._layer(activation), gradient, *traced, result, by_scale, by_shift)
        return result, by_scale, by_shift

    def _convolve(self, x: Tensor, kernel: Tensor, padding: int) -> Tensor:
        """kernel: (3, 3, inputs, outputs)."""
        x = _packed(x)
        images, _, height, width = x.shape
        points = (KERNEL_TO_POINTS @ kernel.reshape(9, -1).double()).float()
        shape = (images, self.width, height + 2 * padding - 2, width + 2 * padding - 2)
        out = torch.empty(shape, memory_format=torch.channels_last)
        self._call("convolve", x, images, height, width, padding, points, out)
        return out

    def _new_sums(self) -> Tensor:
        return torch.empty(SUMS, self.width, dtype=torch.float64)

    def _layer(self, activation: Activation) -> _Layer:
        kept = (*map(_packed, (activation.raw, activation.output)), activation.mean, activation.rstd, activation.scale)
        layer = _Layer(*(x.data_ptr() for x in kept), kept[0].numel() // self.width, SLOPE)
        layer.kept = kept  # the structure holds addresses only
        return layer

    def _call(self, name: str, *arguments: Tensor | int | ctypes.c_long | ctypes.c_double | _Layer) -> None:
        """Calls a function of the library; tensors go as pointers, structures by reference."""

        def passed(argument: Any) -> Any:
            if isinstance(argument, Tensor):
                return ctypes.c_void_p(argument.data_ptr())
            return ctypes.byref(argument) if isinstance(argument, _Layer) else argument

        getattr(self._library, name)(*map(passed, arguments), torch.get_num_threads())


@torch.no_grad()
def critic_gradients_of_runs(
    parameters: Sequence[Sequence[Tensor]],
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    mix: Sequence[float],
    objective: Objective,
) -> list[CriticGradients]:
    """As :func:`training.kernels.reference.critic_gradients_of_runs`, for float32 on the CPU.

    Raises:
        ValueError: other numbers, or another device.
        Unavailable: see :class:`NativeOperations`.
    """
    for tensor in (*(parameter for run in parameters for parameter in run), *real, *fake):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(
                f"the compiled operations compute in float32 on the CPU, got {tensor.dtype} on {tensor.device}; "
                "use the reference for other numbers and devices"
            )
    chosen = operations(len(parameters[0][1]))
    return reference.critic_gradients_of_runs(parameters, real, fake, mix, objective, chosen)


@functools.cache
def operations(width: int) -> NativeOperations:
    """The operations for a width, after a check against plain torch.

    Raises:
        Unavailable: see :class:`NativeOperations`; or the check failed.
    """
    native = NativeOperations(width)
    for name, error in errors(native).items():
        if not error <= TOLERANCE:
            raise Unavailable(
                f"compiled {name} differs from torch's by {error:.1e} of its range, allowed are {TOLERANCE}"
            )
    return native


def errors(native: NativeOperations) -> dict[str, float]:
    """Largest difference of each operation's result from plain torch's, relative to the largest value."""
    plain, width = Operations(), native.width
    draws = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    images, small, weight = random(2, width, 15, 22), random(2, width, 13, 20), random(width, width, 3, 3)
    block = Block(weight, random(width), random(width))
    activation = plain.normalise(small, block)
    first, second = plain.back(random(*small.shape), activation), random(*small.shape)
    along = plain.along(second, activation, first.before)
    trace = Trace(first.before, first.sums, along.before, along.sums, weight)
    double = trace._replace(adjoint_sums=first.sums.double(), tangent_sums=along.sums.double())
    gradient = random(*small.shape)
    pairs: dict[str, tuple[Sequence[Tensor], Sequence[Tensor]]] = {
        "convolution": ([native.convolve(images, weight)], [plain.convolve(images, weight)]),
        "input gradient": ([native.input_gradient(small, weight)], [plain.input_gradient(small, weight)]),
        "weight gradient": ([native.weight_gradient(images, small)], [plain.weight_gradient(images, small)]),
        "normalisation": (native.normalise(small, block), activation),
        "backward pass": (native.back(gradient.clone(), activation), plain.back(gradient, activation)),
        "tangent pass": (native.along(second, activation, first.before), along),
        "second-order pass": (
            native.back_twice(gradient.clone(), activation, double),
            plain.back_twice(gradient, activation, trace),
        ),
    }
    return {
        name: max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True))
        for name, (found, expected) in pairs.items()
    }


def compiled(width: int) -> Path:
    """The library for a width, from the cache or fresh from the compiler.

    Raises:
        Unavailable: as the class says.
    """
    if width % 8 or not 0 < width <= MOST_CHANNELS:
        raise Unavailable(
            f"the compiled operations take multiples of 8 channels up to {MOST_CHANNELS}, the network has {width}"
        )
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("there is no C compiler: install gcc or clang, or name yours in the variable CC")
    # The same OpenMP library as torch's, or two pools of threads would fight for the cores.
    openmp = [str(path) for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))][:1]
    flags = [*FLAGS, f"-DWIDTH={width}", *(["-fopenmp"] if openmp else [])]
    try:
        version = _run([compiler, "--version"])
        sources = [path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS)]
        made_of = [*sources, version, *flags, *openmp, platform.machine(), processor(), _instruction_sets()]
        name = f"critic-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
        path = _cache() / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a kill leaves no half library
                objects = [str(Path(folder) / f"{source.stem}.o") for source in SOURCES]
                library = str(Path(folder) / name)
                for source, target in zip(SOURCES, objects, strict=True):
                    _run([compiler, *flags, "-c", str(source), "-o", target])
                _run([compiler, "-shared", *objects, *openmp, "-lm", "-o", library])
                os.replace(library, path)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise Unavailable(f"compiling with {compiler} failed: {error} {said[-500:]}".strip()) from error
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _instruction_sets() -> str:
    """Those that Linux names: "native" code of one machine may crash another whose processor has the same name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "task-losses" / "kernels"


def _packed(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
