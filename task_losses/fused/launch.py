"""How kernels are started: one place through which every launch goes, where it can be watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from task_losses.fused.optional import tl


class Started(NamedTuple):
    """A launch.

    Attributes:
        kernel, grid: what runs, and how many programs.
        arguments, constexprs: run-time and compile-time arguments by name.
        options: the compiler's: ``num_warps`` and perhaps ``maxnreg``.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constexprs: dict[str, Any]
    options: dict[str, int]


_watchers: list[Callable[[Started], None]] = []
_running = False


def running() -> bool:
    """Whether a kernel is running right now: Triton's interpreter computes with torch itself."""
    return _running


@contextmanager
def watch(watcher: Callable[[Started], None]) -> Iterator[None]:
    """Shows every launch to a function first. On ``meta`` tensors that is all that happens."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def launch_kernel(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, registers: int | None = None, **constexprs: Any
) -> None:
    """Launches a kernel.

    Args:
        arguments: tensors and integers, the kernel's first parameters.
        registers: of a thread, at most; without a number the assembler trades spills for occupancy.
        constexprs: the other parameters.
    """
    options = {"num_warps": warps} | ({} if registers is None else {"maxnreg": registers})
    if _watchers:
        names = [name for name in kernel.arg_names if name not in constexprs]
        started = Started(kernel, grid, dict(zip(names, arguments, strict=True)), constexprs, options)
        for watcher in _watchers:
            watcher(started)
    if not any(isinstance(value, torch.Tensor) and value.is_meta for value in arguments):
        _run(kernel, grid, arguments, constexprs | options)


def _run(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    global _running
    _running = True
    try:
        kernel[grid](*arguments, **named)
    finally:
        _running = False


def kernel_dtype(dtype: torch.dtype) -> Any:
    """Triton's name of a dtype."""
    return getattr(tl, str(dtype).removeprefix("torch."))


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def padded(channels: int) -> int:
    """Channels rounded up to what a matrix product takes: a power of 2, at least 16."""
    return max(16, 1 << (channels - 1).bit_length())
