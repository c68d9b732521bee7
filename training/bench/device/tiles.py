"""How the losses' kernels could cut their work: each way is compiled in a process of its own, and timed alone.

What is faster here, and spills no register in the ahead-of-time table, may take its place in
:func:`task_losses.fused.configs.tiles`.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from task_losses import JPEGLoss
from task_losses.fused import configs, step
from task_losses.fused.configs import Tiles
from training.bench.cost.kernels import captured
from training.bench.cost.memory import peak_memory
from training.bench.cost.timing import median_milliseconds
from training.bench.device.work import Skipped, Work
from training.kernels.triton.optional import TRITON_INSTALLED

SHAPES = ((8, 3, 96, 96), (16, 3, 128, 128), (1, 3, 1024, 1024))
PRECISIONS = ("ieee", "tf32")
# height, width, inputs of a step, warps, depth of the pipeline.
TILES = (
    Tiles(8, 8, 16, 4, 2),
    Tiles(8, 8, 16, 4, 3),
    Tiles(8, 8, 16, 2, 2),
    Tiles(8, 16, 16, 4, 2),
    Tiles(16, 16, 16, 4, 2),
    Tiles(16, 16, 16, 8, 2),
    Tiles(8, 32, 16, 8, 2),
    Tiles(4, 16, 16, 2, 2),
)
TOGETHER = (configs.TOGETHER, 2**28, 2**27)

_alone: Any = None


def _begin(alone: Any) -> None:
    global _alone
    _alone = alone


def timed(tiles: Tiles, precision: str, together: int) -> list[dict[str, Any]]:
    """Milliseconds of a step in a CUDA graph, and its memory, for each shape; only while no other is timed."""
    device, rows = torch.device("cuda", 0), []
    loss = JPEGLoss(pretrained=False).to(device)

    def steps() -> Any:
        for shape in SHAPES:
            pred, target = (torch.rand(shape, device=device) for _ in range(2))
            levels, options = loss._levels_for(pred, target), {"tiles": tiles, "precision": precision}

            def once(pred: Any = pred, target: Any = target, levels: Any = levels, options: Any = options) -> None:
                step.distance_and_gradient(pred, target, levels, together=together, **options)

            yield shape, once

    with torch.no_grad():
        for _, once in steps():
            once()
        torch.cuda.synchronize(device)
        with _alone:
            for shape, once in steps():
                about = {"tiles": vars(tiles), "precision": precision, "together": together, "shape": shape}
                graph = captured(once, device)
                times = {
                    "ms": median_milliseconds(once, device),
                    "ms_in_a_graph": median_milliseconds(graph.update, device),
                }
                rows.append(about | times | {"megabytes": peak_memory(once, device)})
    return rows


def sweep(work: Work) -> None:
    work.need_cuda()
    if not TRITON_INSTALLED:
        raise Skipped("needs Triton")
    wanted = [(tiles, precision, configs.TOGETHER) for tiles in TILES for precision in PRECISIONS]
    wanted += [(TILES[0], "tf32", together) for together in TOGETHER[1:]]
    context = multiprocessing.get_context("spawn")
    processes = min(len(wanted), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(processes, context, _begin, (context.Lock(),)) as pool:
        waiting = {pool.submit(timed, *one): one for one in wanted}
        for done in as_completed(waiting):
            tiles, precision, together = waiting[done]
            try:
                for row in done.result():
                    work.add(**row)
            except Exception as error:
                work.failed(error, tiles=vars(tiles), precision=precision, together=together)
