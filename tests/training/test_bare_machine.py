"""Training's own files need torch and numpy alone: what draws, shows progress or reads pictures may be missing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from training.images import open_image

ROOT = Path(__file__).parents[2]
MISSING = ("PIL", "skimage", "tqdm", "tensorboard", "matplotlib", "scipy")

SCRIPT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {missing!r} else found(name, *rest)
from pathlib import Path
import torch
from training.config import Config
from training.images import open_image
from training.run_folder import RunFolder

image, source = open_image("image.npy", "mine")
folder = RunFolder(Path("run"))
folder.create(Config())
for step in range(30):
    folder.log(step, 0, {{"critic_distance": torch.tensor(1.0)}})
folder.save_preview(0, {{"level": image}})
folder.save_curves()
folder.close()
print(source.licence, tuple(image.shape), image.max().item())
"""


def test_a_run_is_logged_without_what_is_missing(tmp_path):
    np.save(tmp_path / "image.npy", np.full((4, 5, 3), 255, dtype=np.uint8))
    command = [sys.executable, "-c", SCRIPT.format(missing=MISSING)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.stdout == "mine (1, 3, 4, 5) 1.0\n", ended.stderr
    assert len((tmp_path / "run" / "losses.csv").read_text().splitlines()) == 31
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "losses.csv", "run.lock"}
    assert "run goes without event files, losses.png, pictures of the scales" in ended.stderr


def test_numbers_are_read_as_the_picture_they_are(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", pixels)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert torch.equal(open_image(str(tmp_path / "image.npy"))[0], open_image(str(tmp_path / "image.png"))[0])
