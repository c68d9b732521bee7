"""The Triton kernels on this device: all compiled ahead in parallel, then each width's self-check."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training.bench.device.work import Skipped, Work
from training.kernels.triton import selfcheck
from training.kernels.triton.configs import architecture
from training.kernels.triton.launch import Started
from training.kernels.triton.optional import TRITON_INSTALLED, interpreted
from training.objectives import Objective

WIDTHS = (24, 16, 32, 64)  # those of the recipes first
_ON_CPU = 90  # what is compiled for where there is no device


class Call(NamedTuple):
    """A launch, as it is sent to the process that compiles it: all that the just-in-time compiler looks at."""

    module: str
    kernel: str
    arguments: tuple[Argument | int, ...]
    named: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Argument:
    """A tensor of a launch. Whether its address is a multiple of 16 bytes decides how it is read."""

    dtype: torch.dtype
    offset: int  # bytes from the begin of its memory, which torch aligns

    def data_ptr(self) -> int:
        return self.offset


def calls(launches: Sequence[Started]) -> list[Call]:
    """Each launch that is compiled by itself, once."""
    found: dict[str, Call] = {}
    for started in launches:
        arguments = tuple(
            Argument(value.dtype, int(value.storage_offset()) * value.element_size() % 16)
            if isinstance(value, torch.Tensor)
            else value
            for value in started.arguments.values()
        )
        function = started.kernel.fn
        named = (*started.constexprs.items(), *started.options.items())
        fixed = {parameter.name for parameter in started.kernel.params if not parameter.do_not_specialize}
        types = [  # integers that the compiler does not look at make no other kernel
            value if isinstance(value, Argument) or name in fixed else "integer"
            for name, value in zip(started.arguments, arguments, strict=True)
        ]
        call = Call(function.__module__, function.__name__, arguments, named)
        found.setdefault(repr((call.module, call.kernel, types, named)), call)
    return list(found.values())


def compile_call(call: Call, arch: int) -> float:
    """Compiles a launch into Triton's cache exactly as launching it on such a device would; seconds that it took.

    No device is needed, and none is touched: sixteen processes with a context each would fill its memory.
    """
    from triton.runtime.driver import driver

    begun = time.perf_counter()
    driver.set_active(_Absent(arch))
    kernel = getattr(importlib.import_module(call.module), call.kernel)
    kernel.warmup(*call.arguments, grid=(1,), **dict(call.named))
    return time.perf_counter() - begun


class _Absent:
    """What Triton asks a driver before it compiles."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)


def cache_entries() -> int:
    """Of Triton's cache: one for each kernel that was compiled, and few others."""
    home = os.environ.get("TRITON_HOME") or Path.home()
    folder = os.environ.get("TRITON_CACHE_DIR") or Path(home) / ".triton" / "cache"
    return sum(1 for _ in Path(folder).glob("*"))


def compile_all(work: Work) -> None:
    if not TRITON_INSTALLED or interpreted():
        raise Skipped("needs Triton, and TRITON_INTERPRET unset")
    from training.kernels.triton.loss_variants import loss_launches
    from training.kernels.triton.variants import launches_on

    arch = _ON_CPU if work.small else architecture(work.device)
    begun = time.perf_counter()
    wanted = calls([*launches_on(arch), *loss_launches()])
    if work.small:
        wanted = wanted[:2]
    processes = min(len(wanted), len(os.sched_getaffinity(0)))
    row: dict[str, Any] = {"architecture": arch, "kernels": len(wanted), "processes": processes}
    seconds, errors = [], {}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(compile_call, call, arch): call for call in wanted}
        for done in as_completed(waiting):
            try:
                seconds.append(done.result())
            except Exception as error:
                errors[f"{waiting[done].kernel} {dict(waiting[done].named)}"] = f"{type(error).__name__}: {error}"
    row |= {"seconds": time.perf_counter() - begun, "seconds_of_all_processes": sum(seconds), "compiled": len(seconds)}
    row |= {"slowest": max(seconds, default=None), "in_the_cache": cache_entries()}
    work.add(**row, failed=len(errors), errors=dict(list(errors.items())[:5]))
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(wanted)} kernels do not compile")


def check(work: Work) -> None:
    """Each width of critic, by each objective, against the reference in float64."""
    for width in (8,) if work.small else WIDTHS:
        for objective in (Objective("wgan-gp"), Objective("hinge", spectral_norm=True)):
            begun, before = time.perf_counter(), cache_entries()
            with work.noted(width=width, objective=objective.kind) as row:
                if work.small:  # the kernels need a device: what is compared here is the reference itself
                    case = selfcheck.by_reference, work.device, width, objective, selfcheck._CASES[:1]
                    row["complaint"] = selfcheck.disagreement(*case)
                else:
                    row["complaint"] = selfcheck.check(work.device, (width,), objective)
                work.errors += row["complaint"] is not None
                row["seconds"] = time.perf_counter() - begun
                row["compiled_though_compiled_ahead"] = cache_entries() - before


PARTS = {"compile": compile_all, "selfcheck": check}
