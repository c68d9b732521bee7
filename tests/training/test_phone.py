"""A person with a photograph from a phone and a function of their own: from the picture to the verdict."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

from task_losses import TaskLoss
from training.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
ORIENTATION = 0x0112  # of EXIF: 6 is a phone that was held upright
MINUTES = 10  # of processor time, for the three commands together
GRAIN = """
import torch

def grain(image, generator):
    strength = 0.02 + 0.08 * torch.rand((), generator=generator).item()
    noise = torch.randn((1, 1, *image.shape[-2:]), generator=generator)
    image += strength * torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3
    return image
"""
COMMANDS = """
-m training.train --task grain --distortion my_grain:grain --image phone.jpg
-m training.export runs/grain
-m training.judge runs/grain
"""


def take_photograph(path: Path) -> None:
    """12 megapixels on their side, in the container of a phone with two lenses."""
    halves = [Image.fromarray(picture).resize((2000, 3000)) for picture in (data.chelsea(), data.coffee())]
    whole = Image.new("RGB", (4000, 3000))
    for number, half in enumerate(halves):
        whole.paste(half, (2000 * number, 0))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    second = whole.resize((400, 300))
    whole.save(path, format="MPO", quality=92, exif=exif, save_all=True, append_images=[second])


@pytest.mark.slow  # minutes: trains a loss and small networks
def test_a_phones_photograph_becomes_a_loss_and_the_truth_about_it_in_minutes(tmp_path: Path) -> None:
    take_photograph(tmp_path / "phone.jpg")
    (tmp_path / "my_grain.py").write_text(GRAIN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in COMMANDS.strip().splitlines():
        words = [sys.executable, *shlex.split(command)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60 * MINUTES

    run = tmp_path / "runs" / "grain"
    finest = read_checkpoint(run / "checkpoint.pt")["material"]["levels"][-1]
    assert finest.shape[-2:] == (200, 150)  # upright, as it was taken
    info = TaskLoss(run).weights_info
    assert info["image"]["name"] == "phone.jpg"
    assert info["weight_beside_l1"]["weight"] > 0
    restored = torch.rand(1, 3, 96, 96, requires_grad=True)
    TaskLoss(run)(restored, torch.rand(1, 3, 96, 96)).backward()
    assert restored.grad is not None
    figures = json.loads((run / "judge" / "judge.json").read_text(encoding="utf-8"))
    assert figures["recognition"]["share"]["low"] > 0.5
    assert max(figures["recognition"]["random"]) < figures["recognition"]["share"]["mean"]
    assert figures["restored_by_l1"]["low"] > 0
    assert re.match("Worth using|Not worth using|No case for using it", figures["verdict"])
