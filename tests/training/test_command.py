"""A shell command as a distortion: what it is given, and every way in which it may go wrong."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from task_losses import TaskLoss
from training import export, train
from training.config import Config
from training.distortions import make_distortion
from training.images import open_image, resize_clipped
from training.run_folder import RunFolder

PYTHON = f'"{sys.executable}"' if sys.platform == "win32" else sys.executable
SAVE = "import sys; from PIL import Image; Image.open(sys.argv[1]){}.save(sys.argv[2], {})"


def program(what: str = "", how: str = "'PNG'") -> str:
    return f'{PYTHON} -c "{SAVE.format(what, how)}" {{in}} {{out}}'


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    return resize_clipped(open_image("skimage:chelsea")[0], (40, 60))


def distort(command: str, image: Tensor, seed: int = 0, seconds: float = 60) -> Tensor:
    config = Config(task="mine", distortion=command, command_seconds=seconds)
    return make_distortion(config)(image, torch.Generator().manual_seed(seed))


def test_it_is_given_an_8_bit_picture_and_its_result_is_read(photograph: Tensor) -> None:
    torch.testing.assert_close(distort("cp {in} {out}", photograph), (photograph * 255).round() / 255)


@pytest.mark.parametrize("how", ["'WEBP', quality=5", "'JPEG', quality=5", "'PPM'"])
def test_it_may_write_any_format(photograph: Tensor, how: str) -> None:
    result = distort(program(how=how), photograph)
    assert result.shape == photograph.shape
    assert (result - photograph).abs().mean() < 0.1


def test_a_suffix_of_its_own(photograph: Tensor) -> None:
    assert distort("cp {in} {out}.png", photograph).shape == photograph.shape


def test_it_draws_its_chance_from_the_seed(photograph: Tensor, tmp_path: Path) -> None:
    log = tmp_path / "seeds"
    command = f"cp {{in}} {{out}} && echo {{seed}} >> {log}"
    for seed in (1, 1, 2):
        distort(command, photograph, seed)
    first, second, third = map(int, log.read_text().split())
    assert first == second != third


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo it hurts >&2; exit 3 # {in} {out}", "failed with code 3 and said: it hurts"),
        ("no-such-program {in} {out}", "failed with code 127.*no-such-program"),
        ("true {in} {out}", "wrote nothing to {out}"),
        ("cp {in} {out}.png; cp {in} {out}.jpg", "wrote out.jpg, out.png to {out}, expected one"),
        ("echo text > {out} # {in}", "cannot be used: .*no picture"),
        (program(".resize((30, 40))"), "picture of 30 x 40 pixels, expected 60 x 40"),
        (program(".convert('CMYK')", "'TIFF'"), "cannot be used: .*CMYK"),
    ],
)
def test_what_goes_wrong_is_told(photograph: Tensor, command: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        distort(command, photograph)
    assert repr(command) in str(caught.value)


def test_a_command_that_hangs_is_stopped_with_all_that_it_started(photograph: Tensor, tmp_path: Path) -> None:
    command = f"(sleep 1.5; touch {tmp_path}/late) & sleep 30; cp {{in}} {{out}}"
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"took more than 0\.2 s.*--command-seconds"):
        distort(command, photograph, seconds=0.2)
    assert time.monotonic() - begun < 1.4
    time.sleep(1.6)
    assert not (tmp_path / "late").exists()


def test_it_trains_a_loss_whose_file_tells_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--scales", "1", "--longest-side", "24", "--channels", "4", "--steps", "2"]
    command = "cp {in} {out} # {seed}"
    assert train.main([*small, "--task", "mine", "--distortion", command, "blur", "--out", str(tmp_path)]) == 2
    assert "no built-in one" in capsys.readouterr().err
    assert train.main([*small, "--task", "mine", "--distortion", command, "defocus", "--out", str(tmp_path)]) == 0
    loss = TaskLoss(export.export(RunFolder(tmp_path)))
    assert loss.weights_info["config"]["distortion"] == [command, "defocus"]
    entry = (tmp_path / "manifest_entry.json").read_text()
    assert re.search(r"--distortion 'cp {in} {out} # {seed}' defocus", entry)
