"""How far a training is: one line that changes in a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

OVERHEAD = 1000  # pixels that take as long as what a step costs at any size
SETTLED = 1.0  # seconds after which an estimate is worth reading


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
    ) -> None:
        self._work = [OVERHEAD + count for count in pixels]
        self._all = steps * sum(self._work)
        self._done = steps * sum(self._work[:scale]) + step * sum(self._work[scale : scale + 1])
        self._shown, self._file, self._clock = shown, file or sys.stderr, clock
        self._live = self._file.isatty()
        self._begun = self._told = clock()
        self._measured: tuple[float, int] | None = None  # when the first step was made, and what was done by then
        self._width = 0  # of the line that stands in the terminal

    def begin(self, scale: int) -> None:
        if self._live and self._shown:
            self._tell(scale)

    def step(self, scale: int) -> None:
        self._done += self._work[scale]
        now = self._clock()
        if self._measured is None:
            self._measured = now, self._done
        if self._shown and now - self._told >= (0.2 if self._live else 20):
            self._tell(scale)

    def _tell(self, scale: int) -> None:
        now = self._told = self._clock()
        line = f"scale {scale + 1}/{len(self._work)}  {self._done / self._all:4.0%}  {_time(now - self._begun)} gone"
        since, before = self._measured or (now, self._done)
        if now - since >= SETTLED and self._done > before:
            rate = (self._done - before) / (now - since)
            line += f", {_time((self._all - self._done) / rate)} left, {rate / self._work[scale]:.1f} steps/s"
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
