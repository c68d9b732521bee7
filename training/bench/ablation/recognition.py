"""Do the critics know their distortion on photographs that they never saw?

    python -m training.bench.ablation.recognition            # released weights and random ones
    python -m training.bench.ablation.recognition FILE ...   # and weight files of yours

At every scale a critic scores a photograph's level and what the training's adversary makes of it: distorted, and
restored by the Wiener filter where the recipe has one. Shown is the share of pairs in which the true level scores
higher; by chance it is one half.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses import JPEGLoss, TaskLoss
from task_losses.architecture import differences
from task_losses.discriminator import FrozenDiscriminator
from task_losses.losses import LOSSES
from training.bench.markdown import table
from training.bench.study.ours import recipe_of
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


class Challenge(NamedTuple):
    """What a critic is asked about.

    Attributes:
        down: levels below the finest one.
        true, false: a level, and what an adversary made of it, (1, 3, H, W) in [0, 1].
    """

    down: int
    true: Tensor
    false: Tensor


@torch.no_grad()
def recognition(loss: TaskLoss, config: Config, images: Sequence[Tensor]) -> float:
    """Share of true levels that score higher than what the adversary of ``config`` makes of them, 0 to 1.

    Args:
        images: (1, 3, H, W) in [0, 1].
    """
    return share_recognised(loss, [challenge for image in images for challenge in challenges(config, image)])


def challenges(config: Config, image: Tensor) -> Iterator[Challenge]:
    """Those of all scales, ``DRAWS`` each; the same whenever they are made."""
    adversary, draws = make_adversary(config), torch.Generator().manual_seed(config.seed)
    for scale, (start, level) in enumerate(starts_and_levels(image, config)):
        for _ in range(DRAWS):
            yield Challenge(config.scales - 1 - scale, level, adversary(start, level, draws))


@torch.no_grad()
def share_recognised(loss: TaskLoss, asked: Sequence[Challenge]) -> float:
    """Share of challenges in which the true level scores higher. Critics of fewer scales are asked less."""
    known: list[bool] = []
    for down, *pair in asked:
        if down < len(loss.discriminators):
            layers = loss.discriminators[len(loss.discriminators) - 1 - down].layers()  # type: ignore[operator]
            critic = FrozenDiscriminator(layers, differences((len(layers),)))
            true, false = (critic(image)[0].mean().item() for image in pair)
            known.append(true > false)
    return sum(known) / len(known)


def random_losses(count: int) -> list[TaskLoss]:
    """Losses of the released architecture with random weights."""
    losses: list[TaskLoss] = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(count):
            torch.manual_seed(seed)
            losses.append(JPEGLoss(pretrained=False))
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.ablation.recognition",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="weight files to try besides the released ones")
    files = parser.parse_args(arguments).files
    images = [open_image(name)[0] for name in PHOTOGRAPHS]
    released = {task: kind() for task, kind in LOSSES.items()}

    def shares(loss: TaskLoss) -> list[float]:
        return [recognition(loss, recipe_of(of_task), images) for of_task in released.values()]

    by_random = zip(*map(shares, random_losses(8)), strict=True)
    rows = [["random weights, 8 seeds", *(f"{min(each):.2f} to {max(each):.2f}" for each in by_random)]]
    named = [(type(loss).__name__, loss) for loss in released.values()] + [(path, TaskLoss(path)) for path in files]
    rows += [[name, *(f"{share:.2f}" for share in shares(loss))] for name, loss in named]
    print(table(["recognised by", *(f"{task}'s adversary" for task in released)], rows))


if __name__ == "__main__":
    main()
