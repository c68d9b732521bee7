"""Which weight beside L1? Gradient norms of the losses against L1's, at typical restorations.

    python -m training.bench.ablation.loss_weights RESULTS [--losses ours file:mine.safetensors] [--side 96]

The weight w in L1 + w x loss decides how strongly each of the two pulls at the image. It is told here by the norms of
their gradients by the image: the table gives the w for which the loss's is 0.1, 1 and 10 times L1's. Images are
central crops of scikit-image's photographs at all test levels of a task, restored in two ways: not at all (the input,
as when a training begins) and by the L1-trained network with which the study in RESULTS started. L1 is the mean of
absolute differences and images are in [0, 1]: in [0, 255] the same pull needs 255 times the weight, since L1 grows by
that factor and a loss with ``data_range=255`` does not.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import torch.nn.functional as F
from torch import Tensor, nn

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses.pyramid import resize
from training.bench.ablation.recognition import PHOTOGRAPHS, photographs
from training.bench.markdown import table
from training.bench.report.rows import Rows, read_rows
from training.bench.study import peers
from training.bench.study.cells import restore
from training.bench.study.conditions import add_condition_flags, conditions_of
from training.bench.study.data import LEVELS, TASKS, Picture, test_pair
from training.bench.study.restoration import Loss, loss_and_gradient, read_network

PULLS = (0.1, 1.0, 10.0)  # the loss's gradient norm over L1's

Restoration = Callable[[Tensor, tuple[int, int]], Tensor]  # degraded, (height, width) of the result


def start_network(task: str, rows: Rows, folder: Path) -> nn.Module:
    """The L1-trained network with which a study's trainings began.

    Raises:
        FileNotFoundError: the study's folder lacks it.
    """
    config = next(iter(rows.values())).results[0]["config"]
    path = folder / "starts" / f"{task}-{config['start']}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no start network {str(path)!r}: copy the whole folder of the study, starts too")
    return read_network(path, task, config["recipe"])


def restorations(network: nn.Module) -> dict[str, Restoration]:
    return {"the input": resize, "L1-trained": lambda degraded, size: restore(network, degraded)}


def weights_of_equal_pull(loss: Loss, task: str, restoration: Restoration, side: int) -> list[float]:
    """For each photograph and level the w with which ``w x loss`` has a gradient of the norm of L1's."""
    found = []
    for name, image in zip(PHOTOGRAPHS, photographs(side), strict=True):
        for level in LEVELS[task]:
            degraded, reference = test_pair(task, Picture(name, image), crop=side, level=level)
            restored = restoration(degraded, (reference.shape[-2], reference.shape[-1]))
            norms = [loss_and_gradient(each, restored, reference)[1].norm().item() for each in (F.l1_loss, loss)]
            found.append(norms[0] / norms[1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.ablation.loss_weights",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("results", type=Path, help="folder of a study, of training.bench.study.quality --out")
    add("--losses", nargs="+", default=["ours"], help=(peers.__doc__ or "").replace("%", "%%"))
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--side", type=int, default=96, help="of the crops, in pixels [96]")
    peers.add_source_flags(parser)
    add_condition_flags(parser)
    options = parser.parse_args(arguments)
    rows_of_tasks = read_rows(options.results, conditions_of(options))
    lines = []
    for task in (task for task in options.tasks if task in rows_of_tasks):
        network = start_network(task, rows_of_tasks[task], options.results)
        for name in options.losses:
            peer = peers.find_peer(name, task, peers.sources_of(options))
            for how, restoration in restorations(network).items():
                found = weights_of_equal_pull(peer.build(0), task, restoration, options.side)
                usual = math.exp(mean(map(math.log, found)))
                pulls = [f"{pull * usual:.2g}" for pull in PULLS]
                lines.append([task, f"`{peer.label}`", how, *pulls, f"{min(found):.2g} to {max(found):.2g}"])
    head = ["task", "loss", "restored image", *(f"weight for {pull:g} x L1's pull" for pull in PULLS)]
    print(table([*head, "for 1 x: smallest to largest"], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
