"""The kernels against the plain path on this very device, before anything is trained with them.

What the kernels become is decided by a compiler and a device that no test has seen. So each device shows once in a
process, for each form of discriminator and rounding of products, that its results are those of the plain path in
float64. That takes about a second, and the first time as long as the compiler needs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from task_losses.discriminator import FrozenDiscriminator
from task_losses.fused import configs, step
from task_losses.fused.compared import compared
from task_losses.fused.configs import Level, Way, width_of

_IMAGES, _SIDES, _RATIO = 2, (70, 67), 0.75  # several tiles and windows in each level, odd sides
# Of the distances and of the gradient, the largest relative errors by Euclidean norm. A few activations may cross
# LeakyReLU's kink and a few differences their sign: in TF32, that rounds to 1 in 2000, more of them do.
_BOUNDS = {"ieee": (1e-4, 1e-2), "tf32": (1e-2, 0.15)}

_checked: dict[tuple[object, ...], str | None] = {}


class SmallLevel(NamedTuple):
    """A level of the problem; see :class:`task_losses.distance.Level`."""

    scale: int
    size: tuple[int, int]
    discriminator: FrozenDiscriminator


def check(device: torch.device, levels: Sequence[Level], plain: Way) -> str | None:
    """Why the kernels must not be used on a CUDA device for such levels, in words, or None."""
    precision, known = configs.precision(), compared(levels)
    assert known is not None, "the caller asks task_losses.fused.obstacle first"
    key = (device, width_of(levels[-1]), levels[-1].discriminator.depth, known.form, precision)
    if key in _checked:
        return _checked[key]
    if torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured before the kernels have run once; call the loss once before"
    _checked[key] = disagreement(device, levels, plain, step.distance_and_gradient, precision)
    return _checked[key]


def disagreement(
    device: torch.device, levels: Sequence[Level], plain: Way, way: Any, precision: str, small: bool = False
) -> str | None:
    """Where a way in float32 differs from the plain one in float64 by more than rounding, or None.

    Args:
        way: :func:`task_losses.fused.step.distance_and_gradient`, or what takes its place.
        small: a smaller problem, for the interpreter.
    """
    bounds = dict(zip(("distance", "gradient"), _BOUNDS[precision], strict=True))
    pred, target, chosen, exact = problem(device, levels, small)
    with torch.no_grad():
        right = plain(pred.double(), target.double(), exact)
        for together in (2**29, 0):  # all levels at once, and as large images are computed
            try:
                result = way(pred, target, chosen, together=together, precision=precision)
                errors = [_relative(a, b) for a, b in zip(result, right, strict=True)]
            except Exception as problem_there:  # a compiler, driver or launch that fails is a reason like any other
                return f"the kernels do not run here: {type(problem_there).__name__}: {problem_there}"
            for (name, bound), error in zip(bounds.items(), errors, strict=True):
                if not error <= bound:
                    return (
                        f"the kernels are wrong here: the {name} differs from plain torch's by {error:.1e} of its "
                        f"size, allowed {bound:.0e} ({precision}, {len(levels)} levels)"
                    )
    return None


def problem(
    device: torch.device, levels: Sequence[Level], small: bool
) -> tuple[Tensor, Tensor, list[SmallLevel], list[SmallLevel]]:
    """Images in float32, and the levels' discriminators with small sizes, as they are and in float64."""
    draws = torch.Generator().manual_seed(0)
    field = 2 * levels[-1].discriminator.depth + 1
    height, width = (21, 18) if small else _SIDES
    pred, target = (
        torch.rand(_IMAGES, 3, height, width, generator=draws, dtype=torch.float32, device="cpu").to(device)
        for _ in range(2)
    )
    chosen: list[SmallLevel] = []
    for up, level in enumerate(reversed(levels)):
        size = max(field, int(height * _RATIO**up)), max(field, int(width * _RATIO**up))
        chosen.insert(0, SmallLevel(-up, size, level.discriminator))
    exact = [level._replace(discriminator=copy.deepcopy(level.discriminator).double()) for level in chosen]
    return pred, target, chosen, exact


def _relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b))
