"""Time of the two passes of each loss of the quality benchmark, on patches as in its trainings.

    python -m training.bench.study.times --losses l1 vgg stlpips-alex authors@full random ours --json times.json \
        --vgg FILE.h5 --authors FOLDER

The losses take turns in one process, so that whatever else the machine does hits them alike: the seconds that the
benchmark's cells note were taken in hours of different load. ``training.bench.report.figures --times`` draws these.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.cost.turns import take_turns
from training.bench.markdown import table
from training.bench.study import peers
from training.bench.study.data import TASKS
from training.bench.study.restoration import Recipe, loss_and_gradient
from training.provenance import machine


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.study.times", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--losses", nargs="+", required=True, help=(peers.__doc__ or "").replace("%", "%%"))
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="whose weights are taken [all]")
    add("--rounds", type=int, default=9, help="timed steps per loss [9]")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--json", type=Path, help="also write the figures to this file")
    peers.add_source_flags(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = Recipe()
    shape = (recipe.batch, 3, recipe.patch, recipe.patch)
    seconds: dict[str, dict[str, float]] = {}
    for task in options.tasks:
        steps = dict(_step(name, task, peers.sources_of(options), shape) for name in options.losses)
        seconds[task] = {label: median(times) for label, times in take_turns(steps, options.rounds).items()}
    lines = [
        [task, f"`{label}`", f"{1e3 * time:.0f}", f"{time / of_task['vgg']:.2f}" if "vgg" in of_task else ""]
        for task, of_task in seconds.items()
        for label, time in of_task.items()
    ]
    print(table(["task", "loss", f"ms, {'x'.join(map(str, shape))}", "vgg = 1"], lines))
    if options.json:
        content = {"machine": machine(), "shape": shape, "rounds": options.rounds, "seconds": seconds}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def _step(name: str, task: str, sources: peers.Sources, shape: tuple[int, ...]) -> tuple[str, Callable[[], object]]:
    peer = peers.find_peer(name, task, sources)
    generator = torch.Generator().manual_seed(0)
    restored, reference = (torch.rand(shape, generator=generator) for _ in range(2))
    return peer.label, partial(loss_and_gradient, peer.build(0), restored, reference)


if __name__ == "__main__":
    sys.exit(main())
