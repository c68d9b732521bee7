"""How far a training is: one line that changes in a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

import torch
from torch import Tensor

from training.distortions import Distortion

OVERHEAD = 1000  # pixels that take as long as what a step costs at any size
SETTLED = 1.0  # seconds after which an estimate is worth reading


def seconds_of(
    distort: Distortion, levels: Sequence[Tensor], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """What a distortion takes of each level, from the coarsest and the finest: a program takes as long for any size."""
    found = []
    for level in (levels[0], levels[0], levels[-1]):  # the first call also imports and looks for programs
        begun = clock()
        distort(level, torch.Generator().manual_seed(0))
        found.append(clock() - begun)
    _, least, most = found
    pixels = [level[0, 0].numel() for level in levels]
    slope = max(0.0, most - least) / max(1, pixels[-1] - pixels[0])
    return [least + slope * (count - pixels[0]) for count in pixels]


class Progress:
    """Of steps whose time grows with the pixels of their scale, so that "left" is honest.

    The first step is left out of the estimate: it also loads and compiles.

    Args:
        pixels: of each scale's level.
        steps: of each scale.
        scale, step: where the training goes on.
        shown: False for silence.
        file: where to; None for standard error.
        clock: seconds.
        apart: seconds of a step of each scale that do not follow this rule: those of the distortion. None: no such.
    """

    def __init__(
        self,
        pixels: Sequence[int],
        steps: int,
        scale: int,
        step: int,
        shown: bool,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        apart: Sequence[float] | None = None,
    ) -> None:
        self._work = [OVERHEAD + count for count in pixels]
        self._apart = list(apart or [0.0] * len(pixels))
        self._all = steps * sum(self._work), steps * sum(self._apart)
        self._left = [0] * scale + [steps] * (len(pixels) - scale)  # steps of each scale
        if step:
            self._left[scale] -= step
        self._shown, self._file, self._clock = shown, file or sys.stderr, clock
        self._live = self._file.isatty()
        self._begun = self._told = clock()
        self._measured: tuple[float, tuple[float, float]] | None = None  # when the first step was made; what was left
        self._width = 0  # of the line that stands in the terminal

    def begin(self, scale: int) -> None:
        if self._live and self._shown:
            self._tell(scale)

    def step(self, scale: int) -> None:
        self._left[scale] -= 1
        now = self._clock()
        if self._measured is None:
            self._measured = now, self._to_do()
        if self._shown and now - self._told >= (0.2 if self._live else 20):
            self._tell(scale)

    def _to_do(self) -> tuple[float, float]:
        """What takes time in proportion, and the seconds beside it."""
        work, apart = (
            sum(n * of_step for n, of_step in zip(self._left, each, strict=True)) for each in (self._work, self._apart)
        )
        return work, apart

    def _tell(self, scale: int) -> None:
        now = self._told = self._clock()
        work, apart = self._to_do()
        since, (work_then, apart_then) = self._measured or (now, (work, apart))
        share, rest = 1 - work / self._all[0], ""
        if now - since >= SETTLED and work < work_then:
            pace = max(0.0, now - since - (apart_then - apart)) / (work_then - work)
            left, whole = pace * work + apart, pace * self._all[0] + self._all[1]
            share = 1 - left / whole
            rest = f", {_time(left)} left, {1 / (pace * self._work[scale] + self._apart[scale]):.1f} steps/s"
        line = f"scale {scale + 1}/{len(self._work)}  {share:4.0%}  {_time(now - self._begun)} gone{rest}"
        if self._live:
            self._file.write(f"\r{line:{self._width}}")
            self._width = len(line)
        else:
            self._file.write(f"{line}\n")
        self._file.flush()

    def close(self) -> None:
        """Ends the line, so that what is said next has one of its own."""
        if self._width:
            self._file.write("\n")
            self._width = 0


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
