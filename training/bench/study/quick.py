"""The study's quick mode as a number for a weight file, as a sweep's metric: ``training.bench.study.quick:stlpips``.

Small networks start from L1 and go on with the loss, on scikit-image's photographs; what they restore is measured on
one that nothing was trained on. It is for the built-in tasks sr, denoise and jpeg, takes a few minutes for the first
file of a folder and less for the next, and tells large differences alone: for more, run the study.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from task_losses import TaskLoss
from training.bench.study.cells import Cell, Study, Test
from training.bench.study.conditions import FIRST_LEVELS
from training.bench.study.data import TASKS, Picture
from training.bench.study.peers import Sources
from training.bench.study.restoration import QUICK
from training.images import open_image

TRAINING = ("skimage:chelsea", "skimage:coffee", "skimage:rocket")
UNSEEN = ("skimage:astronaut",)
CROP = 256


def psnr(weights: Path) -> float:
    """In dB; the higher the better."""
    return _restored(weights, "psnr")


def stlpips(weights: Path) -> float:
    """Shift-tolerant LPIPS; the lower the better. It needs the extra ``bench``."""
    return _restored(weights, "stlpips")


def cvvdp(weights: Path) -> float:
    """ColorVideoVDP in JOD; the higher the better. It needs the extra ``bench``."""
    return _restored(weights, "cvvdp")


def _restored(weights: Path, metric: str) -> float:
    """A metric of what a network restores that was fine-tuned with a loss.

    Raises:
        ValueError: the file is for a task that the study does not have.
        ImportError: the metric's package is missing.
    """
    task = TaskLoss(weights).weights_info["task"]
    if task not in TASKS:
        raise ValueError(
            f"{weights} is for the task {task!r}, the study has {', '.join(TASKS)}: "
            "name a function of your own, or run python -m training.judge"
        )
    training, unseen = ([Picture(name, open_image(name)[0]) for name in names] for names in (TRAINING, UNSEEN))
    test = Test(unseen, FIRST_LEVELS, CROP, [metric])
    # Beside the run's folder, so that all of a sweep share the network that they start from.
    study = Study(QUICK, training, test, Sources(), weights.resolve().parents[1] / "quick")
    evaluations = study.run(Cell(task, f"file:{weights}", None, 0))["evaluations"]
    scores = [scores for level in evaluations.values() for of in level.values() for scores in of.values()]
    if not all(metric in score for score in scores):
        raise ImportError(f"{metric} cannot be measured: its package is missing, pip install -e '.[bench]'")
    return float(mean(score[metric] for score in scores))
