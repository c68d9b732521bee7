"""The demo: what it trains, prints and draws, after too few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from training import demo
from training.demo import Restored, sheet, table, what_to_look_at

NAMES = ("bicubic", "L1", "MSE", "random, texture 2", "SRLoss, texture 0.5", "SRLoss, texture 2")


def made_up(gain: float, difference: float) -> dict[str, Restored]:
    """L1's image is ``gain`` dB above the input, and ours ``difference`` grey levels brighter than L1's."""
    found = {}
    for number, name in enumerate(NAMES):
        image = torch.full((1, 3, 96, 96), 0.4 + (difference / 255 if number == len(NAMES) - 1 else 0.0))
        scores = {"psnr": 20.0 + (gain if number else 0.0), "ssim": 0.5, "gmsd": 0.1, "texture": 0.8}
        found[name] = Restored(image, scores)
    return found


def test_a_short_training_is_said_to_be_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "picture.png"
    assert demo.main(["--steps", "1", "--texture", "0.5", "2", "--out", str(path)]) == 0
    said = capsys.readouterr().out
    for name in NAMES:
        assert f"\n{name}  " in said
    assert "PSNR up" in said
    assert "Too short" in said
    assert f"picture: {path}" in said
    side = demo.SIDE * demo.ZOOM
    assert Image.open(path).size == (4 * (side + demo.GAP) - demo.GAP, 3 * (side + demo.LINE + demo.GAP))


@pytest.mark.parametrize(
    ("gain", "difference", "warnings"), [(2.0, 3.0, 0), (0.1, 3.0, 1), (2.0, 0.1, 1), (0.1, 0.1, 2)]
)
def test_each_sign_of_a_short_training_has_its_warning(gain: float, difference: float, warnings: int) -> None:
    said = what_to_look_at(made_up(gain, difference), (8, 16))
    assert said.count("Too short") == warnings
    assert "row 8, column 16" in said


def test_the_table_names_the_direction_of_each_measure() -> None:
    head, *lines = table(made_up(2.0, 3.0)).splitlines()
    assert "PSNR up" in head
    assert "GMSD down" in head
    assert len(lines) == len(NAMES)
    assert all(line.endswith("80%") for line in lines)


def test_the_picture_shows_the_enlarged_square_and_what_changed() -> None:
    found = made_up(2.0, 10.0)
    whole = sheet(found, torch.full((1, 3, 96, 96), 0.4), "sr", (8, 16))
    side = demo.SIDE * demo.ZOOM

    def colour(index: int) -> int:
        x, y = index % 4 * (side + demo.GAP), index // 4 * (side + demo.LINE + demo.GAP)
        pixel = whole.getpixel((x + side // 2, y + demo.LINE + side // 2))
        assert isinstance(pixel, tuple)
        return int(pixel[0])

    assert [colour(index) for index in (1, 5, 6)] == [102, 112, 102], "L1, ours, original"
    assert colour(7) == pytest.approx(128 + 4 * 10, abs=1)
    assert [colour(8), colour(9)] == [pytest.approx(128, abs=1), pytest.approx(128 + 4 * 10, abs=1)]


def test_steps_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--steps", "0"])
    assert "--steps must be 1 or more" in capsys.readouterr().err
