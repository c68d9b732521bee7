"""The operations of the critic's step in C, compiled on the user's machine: the fast path on the CPU.

``critic.h`` says what there is: ``winograd.c`` and ``thin.c`` hold the convolutions, ``norm.c`` BatchNorm and LeakyReLU
with all their passes, ``spectral.c`` spectral normalisation, ``pool.c`` the threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses.architecture import SLOPE
from training.kernels import reference
from training.kernels.cpu.compiler import Unavailable, compiled
from training.kernels.operations import EPS, Activation, Block, Operations, Passed, Trace, Unit
from training.kernels.reference import CriticGradients
from training.objectives import Objective

SUMS = 3  # as in critic.h
THIN = 3  # the most channels that thin.c takes
NUMBERS_A_THREAD = 1 << 15  # of a map; with fewer, waking a thread takes longer than its share of the work
TOLERANCE = 1e-4  # of an operation's largest value; Winograd's rounding is near 1e-5

Call = Callable[..., None]
# The types of critic.h.
Floats = Doubles = ctypes.c_void_p
Int, Long, Float, Double = ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_double


class Layer(ctypes.Structure):
    """``layer`` of critic.h."""

    _fields_ = (
        *((name, Floats) for name in ("raw", "output", "mean", "rstd", "scale")),
        ("rows", Long),
        ("slope", Float),
    )


class Thin(ctypes.Structure):
    """``thin`` of critic.h."""

    _fields_ = (
        ("data", Floats),
        *((name, Int) for name in ("images", "channels", "height", "width")),
        *((name, Long) for name in ("image_step", "channel_step", "row_step", "pixel_step")),
    )


class Library:
    """The functions of critic.h, in its order.

    Raises:
        Unavailable: the file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        try:
            c = ctypes.CDLL(str(path))
        except OSError as error:
            raise Unavailable(f"{path} cannot be loaded: {error}") from error
        a_layer, a_thin = ctypes.POINTER(Layer), ctypes.POINTER(Thin)
        self.convolve = declared(c.convolve, Floats, Int, Int, Int, Int, Floats, Floats, Int)
        self.convolve_weights = declared(c.convolve_weights, Floats, Floats, Int, Int, Int, Floats, Int)
        self.widen = declared(c.widen, a_thin, Int, Floats, Floats, Int)
        self.widen_weights = declared(c.widen_weights, a_thin, Int, Floats, Floats, Int)
        self.narrow = declared(c.narrow, Floats, Int, Int, Int, Int, Int, Floats, Floats, Int)
        self.normalise = declared(
            c.normalise, Floats, Long, Floats, Floats, Double, Float, Floats, Floats, Floats, Floats, Int
        )
        self.back = declared(c.back, a_layer, Floats, Doubles, Floats, Int)
        self.along = declared(c.along, a_layer, Floats, Floats, Doubles, Floats, Int)
        self.back_twice = declared(
            c.back_twice, a_layer, Floats, Floats, Doubles, Floats, Doubles, Floats, Floats, Floats, Int
        )
        self.unit = declared(c.unit, Floats, Int, Int, Floats, Floats, Floats)


def declared(function: Any, *arguments: Any) -> Call:
    """A function of a library that returns nothing, with the types of its arguments."""
    function.argtypes, function.restype = arguments, None
    call: Call = function
    return call


class NativeOperations(Operations):
    """For networks of one width, on channels-last float32 maps on the CPU; torch's convolutions for other shapes.

    Args:
        width: number of channels of the hidden layers, a multiple of 8, at most 128.

    Attributes:
        threads: the most that work on a map; small maps have fewer.

    Raises:
        Unavailable: the width is another, there is no compiler, or it failed.
    """

    memory_format = torch.channels_last

    def __init__(self, width: int) -> None:
        self.width, self.threads = width, torch.get_num_threads()
        self.library = Library(compiled(width))

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._convolve(x, weight, weight.shape[1], weight.shape[0], backwards=False)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return self._convolve(gradient, weight, weight.shape[0], weight.shape[1], backwards=True)

    def weight_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        result = torch.empty(gradient.shape[1], x.shape[1], 3, 3)
        threads = self._threads(x if x.shape[1] > THIN else gradient)
        if (x.shape[1], gradient.shape[1]) == (self.width, self.width):
            x, gradient = _packed(x), _packed(gradient)
            pointers = x.data_ptr(), gradient.data_ptr()
            self.library.convolve_weights(*pointers, *_size(x), result.data_ptr(), threads)
        elif x.shape[1] <= THIN and gradient.shape[1] == self.width:
            gradient = _packed(gradient)
            self.library.widen_weights(_thin(x), False, gradient.data_ptr(), result.data_ptr(), threads)
        elif x.shape[1] == self.width and gradient.shape[1] <= THIN:
            x, padded = _packed(x), F.pad(gradient, (2, 2, 2, 2))
            self.library.widen_weights(_thin(padded), True, x.data_ptr(), result.data_ptr(), threads)
        else:
            return super().weight_gradient(x, gradient)
        return result

    def units(self, weights: Sequence[Tensor]) -> list[Unit]:
        return [self._unit(weight.contiguous()) for weight in weights]

    def normalise(self, raw: Tensor, block: Block) -> Activation:
        raw, scale, shift = _packed(raw), block.scale.contiguous(), block.shift.contiguous()
        mean, variance, rstd = torch.empty(3, self.width).unbind()
        output = torch.empty_like(raw)
        given = raw.data_ptr(), raw.numel() // self.width, scale.data_ptr(), shift.data_ptr(), EPS, SLOPE
        made = mean.data_ptr(), variance.data_ptr(), rstd.data_ptr(), output.data_ptr()
        self.library.normalise(*given, *made, self._threads(raw))
        return Activation(raw, scale, mean, variance, rstd, output)

    def back(self, gradient: Tensor, activation: Activation) -> Passed:
        gradient = _packed(gradient)
        sums, result = self._new_sums(), torch.empty_like(gradient)
        pointers = gradient.data_ptr(), sums.data_ptr(), result.data_ptr()
        self.library.back(self._layer(activation), *pointers, self._threads(gradient))
        return Passed(gradient, sums[:2], result)

    def along(self, tangent: Tensor, activation: Activation, adjoint: Tensor) -> Passed:
        tangent, adjoint = _packed(tangent), _packed(adjoint)
        sums, result = self._new_sums(), torch.empty_like(tangent)
        pointers = tangent.data_ptr(), adjoint.data_ptr(), sums.data_ptr(), result.data_ptr()
        self.library.along(self._layer(activation), *pointers, self._threads(tangent))
        return Passed(tangent, sums, result)

    def back_twice(self, gradient: Tensor, activation: Activation, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        gradient, adjoint, tangent = _packed(gradient), _packed(trace.adjoint), _packed(trace.tangent)
        by_scale, by_shift = torch.empty(2, self.width).unbind()
        result = torch.empty_like(gradient)
        traced = adjoint, trace.adjoint_sums, tangent, trace.tangent_sums
        pointers = (x.data_ptr() for x in (gradient, *traced, result, by_scale, by_shift))
        self.library.back_twice(self._layer(activation), *pointers, self._threads(gradient))
        return result, by_scale, by_shift

    def _convolve(self, x: Tensor, weight: Tensor, inputs: int, outputs: int, backwards: bool) -> Tensor:
        narrow, wide = outputs <= THIN and inputs == self.width, outputs == self.width
        if not narrow and not (wide and (inputs == self.width or inputs <= THIN)):
            return super().input_gradient(x, weight) if backwards else super().convolve(x, weight)
        weight, threads = weight.contiguous(), self._threads(x)
        images, height, width = _size(x)
        size = (height + 2, width + 2) if backwards else (height - 2, width - 2)
        out = torch.empty((images, outputs, *size), memory_format=torch.channels_last)
        pointers = weight.data_ptr(), out.data_ptr(), threads
        if inputs <= THIN:
            x = F.pad(x, (2, 2, 2, 2)) if backwards else x
            self.library.widen(_thin(x), backwards, *pointers)
            return out
        x = _packed(x)
        if wide:
            self.library.convolve(x.data_ptr(), images, height, width, backwards, *pointers)
        else:
            self.library.narrow(x.data_ptr(), images, height, width, outputs, backwards, *pointers)
        return out

    def _threads(self, x: Tensor) -> int:
        images, _, height, width = x.shape
        return min(self.threads, 1 + images * height * width * self.width // NUMBERS_A_THREAD)

    def _unit(self, weight: Tensor) -> Unit:
        quotient, norm, direction = torch.empty_like(weight), weight.new_empty(()), torch.empty_like(weight)
        pointers = quotient.data_ptr(), norm.data_ptr(), direction.data_ptr()
        self.library.unit(weight.data_ptr(), len(weight), weight[0].numel(), *pointers)
        return Unit(quotient, norm, direction)

    def _new_sums(self) -> Tensor:
        return torch.empty(SUMS, self.width, dtype=torch.float64)

    def _layer(self, activation: Activation) -> Layer:
        raw, scale, mean, _, rstd, output = activation
        if not all(x.is_contiguous(memory_format=torch.channels_last) for x in (raw, output)):
            raise ValueError("an activation's maps must be channels last, as normalise makes them")
        pointers = (x.data_ptr() for x in (raw, output, mean, rstd, scale))
        return Layer(*pointers, raw.numel() // self.width, SLOPE)


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
    chosen.threads = torch.get_num_threads()
    # Torch's own operations between are small, and its threads wait for each other at each of them.
    torch.set_num_threads(1)
    try:
        return reference.critic_gradients_of_runs(parameters, real, fake, mix, objective, chosen)
    finally:
        torch.set_num_threads(chosen.threads)


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

    def packed(*maps: Tensor) -> list[Tensor]:
        return [_packed(x) if x.dim() == 4 else x for x in maps]

    images, small, weight = random(2, width, 15, 22), random(2, width, 13, 20), random(width, width, 3, 3)
    image, score, first, last = (
        random(2, 3, 15, 22),
        random(2, 1, 13, 20),
        random(width, 3, 3, 3),
        random(1, width, 3, 3),
    )
    block = Block(weight, random(width), random(width))
    activation = Activation(*packed(*plain.normalise(small, block)))
    adjoint, second = plain.back(random(*small.shape), activation), random(*small.shape)
    along = plain.along(second, activation, adjoint.before)
    trace = Trace(adjoint.before, adjoint.sums, along.before, along.sums, weight)
    double = trace._replace(adjoint_sums=adjoint.sums.double(), tangent_sums=along.sums.double())
    gradient, rank_one = random(*small.shape), random(width, 1, 1, 1) * random(1, width, 3, 3)
    pairs: dict[str, tuple[Sequence[Tensor], Sequence[Tensor]]] = {
        "normalisation": (native.normalise(small, block), activation),
        "backward pass": (native.back(gradient.clone(), activation), plain.back(gradient.clone(), activation)),
        "tangent pass": (native.along(second, activation, adjoint.before), along),
        "second-order pass": (
            native.back_twice(gradient.clone(), activation, double),
            plain.back_twice(gradient.clone(), activation, trace),
        ),
    }
    for x, y, taps in (images, small, weight), (image, small, first), (images, score, last):
        of = f"{len(taps[0])} to {len(taps)} channels"
        pairs[f"convolution of {of}"] = [native.convolve(x, taps)], [plain.convolve(x, taps)]
        pairs[f"input gradient of {of}"] = [native.input_gradient(y, taps)], [plain.input_gradient(y, taps)]
        pairs[f"weight gradient of {of}"] = [native.weight_gradient(x, y)], [plain.weight_gradient(x, y)]
    for ours, theirs in zip(*(o.units([first, weight, rank_one, last]) for o in (native, plain)), strict=True):
        pairs[f"spectral norm {len(pairs)}"] = ours, theirs

    def error(found: Tensor, expected: Tensor) -> Tensor:
        return (found - expected).abs().max() / expected.abs().max()

    # Python's max would drop what is not a number; torch's keeps it.
    return {
        name: torch.stack([error(*pair) for pair in zip(*both, strict=True)]).max().item()
        for name, both in pairs.items()
    }


def _packed(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _size(x: Tensor) -> tuple[int, int, int]:
    images, _, height, width = x.shape
    return images, height, width


def _thin(x: Tensor) -> Thin:
    images, channels, height, width = x.shape
    return Thin(x.data_ptr(), images, channels, height, width, *x.stride())
