"""How the released losses respond: to their own distortion by level, to turns and shifts, in workers, for long."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from task_losses import JPEGLoss
from task_losses.losses import LOSSES
from task_losses.pyramid import resize
from training.builtin.codecs import jpeg
from training.builtin.noise import gaussian_noise

ROOT = Path(__file__).resolve().parents[1]
# Photographs that scikit-image brings along. None is the one that the losses were trained on but chelsea.
NAMES = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "immunohistochemistry",
    "camera",
    "coins",
    "moon",
    "brick",
    "grass",
)
LEVELS = 20
# What flips, turns and rolls may change. The pull of JPEGLoss's texture term knows more of directions.
TURNS = {"sr": 0.02, "denoise": 0.03, "jpeg": 0.06}


def photograph(name: str) -> Tensor:
    """(1, 3, 128, 128) in [0, 1], from the middle."""
    pixels = np.atleast_3d(getattr(skimage.data, name)())[..., :3]
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    top, left = ((side - 128) // 2 for side in image.shape[2:])
    return image[:, :, top : top + 128, left : left + 128].expand(-1, 3, -1, -1)


def smaller(image: Tensor, level: int) -> Tensor:
    """Made 1.25 to 6 times smaller, and large again."""
    side = round(128 / (1 + 0.25 * (level + 1)))
    return resize(resize(image, (side, side)), (128, 128))


def noisy(image: Tensor, level: int) -> Tensor:
    """Sigma 2.5 to 50 of 255, the same noise at every level."""
    return gaussian_noise(image, (level + 1) * 2.5 / 255, torch.Generator().manual_seed(0))


def compressed(image: Tensor, level: int) -> Tensor:
    """Quality 95 down to 10."""
    return jpeg(image, 95 - round(4.5 * level))


OWN: dict[str, Callable[[Tensor, int], Tensor]] = {"sr": smaller, "denoise": noisy, "jpeg": compressed}


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize(
    ("names", "levels"),
    [
        pytest.param(NAMES[:2], range(0, LEVELS, 5), id="2 photographs"),
        pytest.param(NAMES, range(LEVELS), id="10 photographs", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_a_loss_grows_with_its_own_distortion(task: str, names: tuple[str, ...], levels: range) -> None:
    """Strictly for noise and JPEG. Resampling to a slightly smaller size may happen to suit a picture: 10 %."""
    loss, images = LOSSES[task](), torch.cat([photograph(name) for name in names])
    loss.reduction = "none"
    values = torch.stack([loss(OWN[task](images, level), images) for level in levels])
    growth = values[1:] / values[:-1]
    assert growth.min() > (0.9 if task == "sr" else 1.0)
    assert (values[-1] > 3 * values[0]).all()


@torch.no_grad()
def changes(task: str, texture: float | None = None) -> dict[str, float]:
    """By how much a loss of two photographs and their distortions changes, relative, with what should not matter."""
    loss = LOSSES[task](texture=texture)
    images = torch.cat([photograph(name) for name in NAMES[:2]])
    changed = OWN[task](images, 10)
    value = loss(changed, images)

    def largest(others: Iterable[Tensor]) -> float:
        return max(abs(float(other / value) - 1) for other in others)

    turns = (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.rot90(1, (2, 3)), lambda x: x.roll(7, 3))
    windows = [(..., slice(at, at + 112), slice(at, at + 112)) for at in (0, 1, 5)]
    shifted = [float(loss(changed[window], images[window])) for window in windows]
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    by_threads = loss(changed, images)
    torch.set_num_threads(threads)
    return {
        "turns": largest(loss(turn(changed), turn(images)) for turn in turns),
        "shifts": max(shifted) / min(shifted) - 1,
        "exchange": largest([loss(images, changed)]),
        "batch": largest([torch.stack([loss(changed[k : k + 1], images[k : k + 1]) for k in range(2)]).mean()]),
        "threads": largest([by_threads]),
    }


@pytest.mark.parametrize(
    ("task", "texture", "turns"), [*((task, None, TURNS[task]) for task in LOSSES), ("jpeg", 0, 0.01)]
)
def test_what_should_not_matter_hardly_does(task: str, texture: float | None, turns: float) -> None:
    """The critics know up from down, but the distortion looks the same from all sides; 10 % for what a shift by a few
    pixels brings into view. The rest is the order of sums."""
    bounds = {"turns": turns, "shifts": 0.1, "exchange": 1e-5, "batch": 1e-5, "threads": 1e-5}
    found = changes(task, texture)
    assert {name for name in bounds if found[name] > bounds[name]} == set()


class Losses(Dataset[float]):
    """Losses of pairs, computed by whoever asks for them."""

    def __init__(self) -> None:
        self.loss = JPEGLoss()

    def __len__(self) -> int:
        return 4

    @torch.no_grad()
    def __getitem__(self, index: int) -> float:
        draws = torch.Generator().manual_seed(index)
        pair = torch.rand(2, 1, 3, 40, 40, generator=draws)
        return float(self.loss(pair[0], pair[1]))


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("fork", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")),
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_compute_what_their_parent_does(method: str) -> None:
    here = Losses()
    expected = torch.tensor([here[index] for index in range(len(here))], dtype=torch.float64)
    there = DataLoader(here, batch_size=4, num_workers=2, multiprocessing_context=method)
    torch.testing.assert_close(next(iter(there)), expected, rtol=1e-6, atol=0)  # threads differ, and sums with them


LOOP = """
import resource, torch
from task_losses import DenoiseLoss, JPEGLoss, SRLoss
losses, image = [SRLoss(), DenoiseLoss(), JPEGLoss()], torch.rand(2, 3, 24, 24)
restored = torch.rand(2, 3, 24, 24, requires_grad=True)
optimizer = torch.optim.SGD([restored], lr=1e-3)
def memory():
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * resource.getpagesize()
for step in range(5000):
    optimizer.zero_grad()
    losses[step % 3](restored, image).backward()
    optimizer.step()
    if step == 500: before = memory()
print(memory() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's own account of memory")
def test_5000_steps_take_no_more_memory_than_500() -> None:
    child = subprocess.run([sys.executable, "-c", LOOP], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(child.stdout) < 4 * 2**20


if __name__ == "__main__":  # the figures of docs/reliability.md
    for name in LOSSES:
        sys.stdout.write(f"{name:8} " + "  ".join(f"{k} {v:.1e}" for k, v in changes(name).items()) + "\n")
