"""Do the critics know their distortion on photographs that they never saw?

    python -m training.bench.ablation.recognition            # released weights and random ones
    python -m training.bench.ablation.recognition FILE ...   # and weight files of yours

At every scale a critic scores a photograph's level and what the training's adversary makes of it: distorted, and
restored by the Wiener filter where the recipe has one. Shown is the share of pairs in which the true level scores
higher; by chance it is one half.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from task_losses import JPEGLoss, TaskLoss
from task_losses.discriminator import FrozenDiscriminator
from task_losses.losses import LOSSES
from training.config import Config
from training.distortions import make_adversary
from training.images import open_image, starts_and_levels

PHOTOGRAPHS = ("skimage:astronaut", "skimage:coffee", "skimage:rocket")
DRAWS = 3  # of the distortion's strength, for each photograph and scale


def photographs(side: int = 256) -> list[Tensor]:
    """Central crops (1, 3, side, side)."""
    images = [open_image(name)[0] for name in PHOTOGRAPHS]
    corners = [((x.shape[2] - side) // 2, (x.shape[3] - side) // 2) for x in images]
    return [x[..., t : t + side, u : u + side] for x, (t, u) in zip(images, corners, strict=True)]


def recipe_of(loss: TaskLoss) -> Config:
    """The settings that a loss was trained with."""
    return Config.from_dict(loss.weights_info["config"])


@torch.no_grad()
def recognition(loss: TaskLoss, config: Config, images: Sequence[Tensor]) -> float:
    """Share of true levels that score higher than what the adversary of ``config`` makes of them, 0 to 1.

    Args:
        images: (1, 3, H, W) in [0, 1].
    """
    known = [scores[0] > scores[1] for image in images for scores in _scores(loss, config, image)]
    return sum(known) / len(known)


def _scores(loss: TaskLoss, config: Config, image: Tensor) -> Iterator[tuple[float, float]]:
    """(true, false) mean scores at every scale."""
    adversary, draws = make_adversary(config), torch.Generator().manual_seed(config.seed)
    for scale, (start, level) in enumerate(starts_and_levels(image, config)):
        layers = loss.discriminators[scale].layers()  # type: ignore[operator]
        critic = FrozenDiscriminator(layers, taps=(len(layers),))
        for _ in range(DRAWS):
            false = adversary(start, level, draws)
            yield critic(level)[0].mean().item(), critic(false)[0].mean().item()


def random_losses(count: int) -> list[TaskLoss]:
    """Losses of the released architecture with random weights."""
    losses: list[TaskLoss] = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(count):
            torch.manual_seed(seed)
            losses.append(JPEGLoss(pretrained=False))
    return losses


def main() -> None:
    images = [open_image(name)[0] for name in PHOTOGRAPHS]
    recipes = {task: recipe_of(kind()) for task, kind in LOSSES.items()}

    def row(loss: TaskLoss) -> list[float]:
        return [recognition(loss, config, images) for config in recipes.values()]

    print("| recognised by | " + " | ".join(f"{task}'s adversary" for task in recipes) + " |")
    print("|---" * (len(recipes) + 1) + "|")
    by_random = list(zip(*map(row, random_losses(8)), strict=True))
    print("| random weights, 8 seeds | " + " | ".join(f"{min(s):.2f} to {max(s):.2f}" for s in by_random) + " |")
    named: list[tuple[str, TaskLoss]] = [(kind.__name__, kind()) for kind in LOSSES.values()]
    named += [(path, TaskLoss(path)) for path in sys.argv[1:]]
    for name, loss in named:
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in row(loss)) + " |")


if __name__ == "__main__":
    main()
