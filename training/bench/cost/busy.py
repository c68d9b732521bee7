"""What a busy machine makes of a training: whole small trainings, with loops beside them that keep cores busy.

    python -m training.bench.cost.busy                    # alone, and beside two busy loops
    python -m training.bench.cost.busy --json training/bench/results/busy-cpu.json

Each training is a process of its own, from its start on, of the hinge recipe with few steps. All take turns; the
fastest round of each counts, by the clock and in CPU seconds of all its threads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.provenance import ROOT, machine

BACK_ENDS = ("native", "autograd")
THREADS = (1, 2)
RECIPE = ("--task", "denoise", "--steps")


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that each keep a core busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def training(kernels: str, threads: int, steps: int) -> tuple[float, float]:
    """Seconds of a training by the clock, and of all its threads."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "training.train", *RECIPE, str(steps), "--kernels", kernels, "--out", folder]
        before, start = spent(), time.perf_counter()
        command += ["--threads", str(threads)]
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start, spent() - before


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.cost.busy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 2], help="busy loops beside (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each training (%(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="per scale (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    results: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds, "steps": arguments.steps}
    for loops in arguments.loops:
        cases = [(kernels, threads) for kernels in BACK_ENDS for threads in THREADS]
        seconds: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in cases}
        for _ in range(arguments.rounds):
            for case in cases:
                with busy_loops(loops):
                    seconds[case].append(training(*case, arguments.steps))
        for (kernels, threads), rounds in seconds.items():
            wall, cpu = map(min, zip(*rounds, strict=True))
            results[f"{kernels}, {threads} threads, {loops} loops"] = {"wall": round(wall, 2), "cpu": round(cpu, 2)}
            print(f"{loops} loops, {kernels:<9} {threads} threads: {wall:6.2f} s, {cpu:6.2f} s of CPU", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
