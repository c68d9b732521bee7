"""How far a training is: a bar in a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

try:
    from tqdm import tqdm
except ModuleNotFoundError:  # a machine that trains needs no bar
    tqdm = None


class Progress:
    """Of steps whose time grows with the pixels of their scale, so that "left" is honest.

    Args:
        pixels: of each scale's level.
        steps: of each scale.
        scale, step: where the training goes on.
        shown: False for silence.
    """

    def __init__(self, pixels: Sequence[int], steps: int, scale: int, step: int, shown: bool) -> None:
        self._pixels = pixels
        if tqdm is None:
            self._bar = None
            return
        self._bar = tqdm(
            total=steps * sum(pixels),
            initial=steps * sum(pixels[:scale]) + step * sum(pixels[scale : scale + 1]),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
            mininterval=0.5 if sys.stderr.isatty() else 20,  # a log file wants few lines
            disable=not shown,
        )

    def begin(self, scale: int) -> None:
        if self._bar is not None:
            self._bar.set_description(f"scale {scale + 1}/{len(self._pixels)}")

    def step(self, scale: int) -> None:
        if self._bar is None:
            return
        rate = self._bar.format_dict.get("rate") or 0
        self._bar.set_postfix_str(f"{rate / self._pixels[scale]:.1f} steps/s", refresh=False)
        self._bar.update(self._pixels[scale])

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
