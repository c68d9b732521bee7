"""What do the losses react to? Each task's artefacts against neutral errors of the same size.

    python -m training.bench.reaction            # released weights and random ones
    python -m training.bench.reaction FILE ...   # and weight files of yours

A loss's reaction to an artefact is its value for an image with that artefact, over its (geometric) mean value for
errors that no restoration network is trained against: a shift of brightness, contrast, colour or gamma. All errors are
scaled to one mean squared error, so that L2 reacts to everything with 1. Measured on photographs that no released
weight was trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss
from task_losses.pyramid import resize
from training.distortions import gaussian_noise, jpeg
from training.images import open_image

TASKS = ("sr", "denoise", "jpeg")
PHOTOGRAPHS = ("skimage:astronaut", "skimage:coffee", "skimage:rocket")
MEAN_SQUARED_ERROR = 1e-3


def photographs(side: int = 256) -> list[Tensor]:
    """Central crops (1, 3, side, side)."""
    images = [open_image(name)[0] for name in PHOTOGRAPHS]
    corners = [((x.shape[2] - side) // 2, (x.shape[3] - side) // 2) for x in images]
    return [x[..., t : t + side, u : u + side] for x, (t, u) in zip(images, corners, strict=True)]


def artefacts(image: Tensor) -> dict[str, Tensor]:
    """An image with the artefacts of each task."""
    small = resize(image, (image.shape[2] // 4, image.shape[3] // 4))
    return {
        "sr": resize(small, (image.shape[2], image.shape[3])),
        "denoise": gaussian_noise(image, 25 / 255, torch.Generator().manual_seed(0)),
        "jpeg": jpeg(image, 10),
    }


def neutral_errors(image: Tensor) -> list[Tensor]:
    tint = torch.tensor([1.0, -0.4, -0.6]).view(1, 3, 1, 1)
    return [image + 0.05, image.mean() + 1.1 * (image - image.mean()), image + 0.05 * tint, image**1.15]


def at_one_size(image: Tensor, changed: Tensor) -> Tensor:
    error = changed - image
    return image + error * (MEAN_SQUARED_ERROR / error.square().mean()).sqrt()


@torch.no_grad()
def reactions(loss: TaskLoss, images: Sequence[Tensor]) -> dict[str, float]:
    """Reaction of a loss to the artefacts of each task, a (geometric) mean over images."""
    logs = {task: 0.0 for task in TASKS}
    for image in images:
        neutral = [loss(at_one_size(image, changed), image).log() for changed in neutral_errors(image)]
        usual = torch.stack(neutral).mean()
        for task, changed in artefacts(image).items():
            logs[task] += (loss(at_one_size(image, changed), image).log() - usual).item() / len(images)
    return {task: float(torch.tensor(value).exp()) for task, value in logs.items()}


def random_losses(count: int) -> list[TaskLoss]:
    """Losses of the released architecture with random weights."""
    losses = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(count):
            torch.manual_seed(seed)
            losses.append(TaskLoss(pretrained=False))
    return losses


def main() -> None:
    images = photographs()
    print("| reaction of | " + " | ".join(f"to {task} artefacts" for task in TASKS) + " |")
    print("|---" * (len(TASKS) + 1) + "|")
    rows = [reactions(loss, images) for loss in random_losses(8)]
    spread = [sorted(row[task] for row in rows) for task in TASKS]
    print("| random weights, 8 seeds | " + " | ".join(f"{s[0]:.2f} to {s[-1]:.2f}" for s in spread) + " |")
    named: list[tuple[str, TaskLoss]] = [(kind.__name__, kind()) for kind in (SRLoss, DenoiseLoss, JPEGLoss)]
    named += [(path, TaskLoss(path)) for path in sys.argv[1:]]
    for name, loss in named:
        row = reactions(loss, images)
        print(f"| {name} | " + " | ".join(f"{row[task]:.2f}" for task in TASKS) + " |")


if __name__ == "__main__":
    main()
