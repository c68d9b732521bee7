"""Figures, crops, times and loss weights, from made-up studies."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from study_results import write_cell

from task_losses.pyramid import resize
from training.bench.ablation import loss_weights
from training.bench.ablation.recognition import PHOTOGRAPHS, photographs
from training.bench.report import crops, figures, visible
from training.bench.report.rows import Row, read_rows
from training.bench.study import times
from training.bench.study.conditions import Conditions, add_condition_flags, conditions_of
from training.bench.study.data import Picture
from training.bench.study.data import test_pair as make_test_pair
from training.bench.study.restoration import Recipe, save_network
from training.bench.study.restorers import NETWORKS, make_restorer
from training.images import open_image

SMALL = Recipe(width=4, depth=2)
FLAGS = ["--width", "4", "--depth", "2"]


def written(text: str) -> str:
    """A picture's text, whatever its tags."""
    return re.sub(r"<[^>]*>|\s+", " ", text)


def test_figures_show_every_loss(tmp_path: Path) -> None:
    for loss, sharper in (("l1", 0.0), ("vgg", -0.03), ("random", -0.01), ("ours", -0.02)):
        write_cell(tmp_path, "sr", loss, stlpips=sharper)
    write_cell(tmp_path, "sr", "ours", ratio=1.0, stlpips=-0.01)
    assert figures.main([str(tmp_path), "--images", str(tmp_path)]) == 0
    for name in ("cost", "fronts", "curves"):
        picture = (tmp_path / f"{name}.svg").read_text()
        assert len(picture) < 100_000
        text = written(picture)
        for word in ("sr", "l1", "vgg", "random", "ours", "ST-LPIPS"):
            assert f" {word} " in text, f"{word} is missing in {name}.svg"


def test_the_dial_is_drawn_where_it_was_turned(tmp_path: Path) -> None:
    for loss in ("l1", "vgg", "ours"):
        write_cell(tmp_path, "sr", loss)
    assert figures.main([str(tmp_path), "--images", str(tmp_path)]) == 0
    assert not (tmp_path / "dial.svg").exists()
    for setting in (0, 1, 2):
        write_cell(tmp_path, "sr", f"ours~{setting}", stlpips=-0.01 * setting)
    assert figures.main([str(tmp_path), "--images", str(tmp_path)]) == 0
    text = written((tmp_path / "dial.svg").read_text())
    for word in ("texture", "ours", "l1", "ST-LPIPS", "PSNR", "CVVDP"):
        assert f" {word} " in text, word


def test_the_cost_of_a_loss_is_told_in_times_of_vgg(tmp_path: Path) -> None:
    for loss in ("l1", "vgg", "ours"):
        write_cell(tmp_path, "sr", loss)
    rows = read_rows(tmp_path, conditions_of(figures_options()))
    noted = {row.label: time for row, time in figures._cost_points(rows["sr"], "ours", None)}
    assert noted == pytest.approx({"l1": 0.001 / 0.9, "vgg": 1.0, "ours": 0.2 / 0.9})
    measured = {row.label: time for row, time in figures._cost_points(rows["sr"], "ours", {"vgg": 2.0, "ours": 0.5})}
    assert measured == {"vgg": 1.0, "ours": 0.25}


def figures_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_condition_flags(parser)
    return parser.parse_args([])


def test_without_vgg_the_cost_is_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(tmp_path, "sr", "ours")
    assert figures.main([str(tmp_path), "--images", str(tmp_path)]) == 1
    assert "--losses vgg" in capsys.readouterr().err
    assert (tmp_path / "fronts.svg").is_file()
    assert not (tmp_path / "cost.svg").exists()


def test_crops_show_what_the_saved_networks_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for loss in ("l1", "ours"):
        path = write_cell(tmp_path, "sr", loss, recipe=SMALL)
        network = make_restorer("sr", 4, 2, seed=0)  # adds nothing yet to the bicubic upscaling of its input
        if loss == "ours":
            torch.nn.init.constant_(network.get_parameter("tail.bias"), -0.25)
        save_network(network, path.with_suffix(".safetensors"))
    assert crops.main([str(tmp_path), "--images", str(tmp_path), *FLAGS]) == 0
    assert "vgg is left out" in capsys.readouterr().err
    path = tmp_path / "crops-sr.png"
    assert path.stat().st_size < 400_000
    sheet = np.asarray(Image.open(path))[..., :3].astype(float) / 255
    side = crops.SIDE * crops.MAGNIFICATION
    given, plain, ours, reference = (sheet[:side, i * (side + crops.GAP) :][:, :side] for i in range(4))
    assert given.shape == (side, side, 3)
    assert np.array_equal(given, plain)
    inside = given > 0.3
    assert np.abs((given - ours)[inside] - 0.25).max() < 0.01
    # Under each, what differs from L1's: nothing, and a quarter too dark four times as strong.
    below = side + 2 * crops.LINE
    of_plain, of_ours = (sheet[below : below + side, i * (side + crops.GAP) :][:, :side] for i in (1, 2))
    assert np.abs(of_plain - 0.5).max() < 0.01
    assert of_ours[inside].max() < 0.01
    row = read_rows(tmp_path, Conditions(SMALL))["sr"]["l1"]
    example = crops.least_texture(row, "sr", 4)
    photograph = open_image(example.photograph)[0][0, :, example.top, example.left].numpy()
    assert np.abs(reference[0, 0] - photograph).max() < 0.01


@pytest.mark.parametrize("at", [(0, 0), (300, 200)])
def test_the_square_is_where_most_texture_is_lacking(at: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.full((1, 3, 512, 512), 0.5)
    square = image[..., at[0] : at[0] + crops.SIDE, at[1] : at[1] + crops.SIDE]
    square += 0.2 * torch.randn(square.shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(
        crops, "open_image", lambda name: (image if "coffee" in name else image.mean() * image**0, None)
    )
    monkeypatch.setattr(crops, "restored_by", lambda row, task, degraded: resize(degraded, (512, 512)))
    example = crops.least_texture(Row("l1", "l1", None), "sr", 4)
    assert example.photograph == "skimage:coffee"
    assert (example.top, example.left) == at


def test_a_network_that_is_gone_is_explained(tmp_path: Path) -> None:
    write_cell(tmp_path, "sr", "l1", recipe=SMALL)
    with pytest.raises(FileNotFoundError, match="must lie beside its result file as 'sr-l1"):
        crops.main([str(tmp_path), "--images", str(tmp_path), *FLAGS])


def test_the_weight_of_equal_pull_makes_the_gradients_equally_long() -> None:
    found = loss_weights.weights_of_equal_pull(torch.nn.functional.mse_loss, "sr", resize, side=48)
    assert len(found) == len(PHOTOGRAPHS)
    image = Picture("skimage:astronaut", photographs(48)[0])
    degraded, reference = make_test_pair("sr", image, crop=48, level=4)
    restored = resize(degraded, (48, 48))
    # By hand: L1's gradient has length 1 / sqrt(n), that of the mean square 2 |error| / n.
    n, error = restored.numel(), (restored - reference).norm().item()
    assert found[0] == pytest.approx(n**0.5 / (2 * error), rel=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_loss_weights_are_told_for_each_restoration(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cell(tmp_path, "sr", "l1", recipe=replace(SMALL, network=kind))
    arguments = [str(tmp_path), "--losses", "l1", "--side", "48", *FLAGS, "--network", kind]
    with pytest.raises(FileNotFoundError, match="no start network"):
        loss_weights.main(arguments)
    (tmp_path / "starts").mkdir()
    save_network(make_restorer("sr", 4, 2, seed=0, kind=kind), tmp_path / "starts" / "sr-0.safetensors")
    assert loss_weights.main(arguments) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[2] for line in lines] == ["the input", "L1-trained"]
    assert all(line[3:6] == ["0.1", "1", "10"] for line in lines), "L1 needs weight 1 to pull as L1 does"


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_study_s_network_is_read_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    recipe = replace(SMALL, network=kind)
    network = make_restorer("sr", 4, 2, seed=3, kind=kind)
    torch.nn.init.normal_(network.get_parameter("tail.weight"))
    path = write_cell(tmp_path, "sr", "ours", recipe=recipe).with_suffix(".safetensors")
    save_network(network, path)
    degraded = torch.rand(1, 3, 12, 8)
    row = read_rows(tmp_path, Conditions(recipe))["sr"]["ours"]
    assert torch.equal(crops.restored_by(row, "sr", degraded), network(degraded).clamp(0, 1))


def test_what_one_sees_is_measured_of_both_rows_in_the_middle_enlarged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loss, darker in (("l1", 0.0), ("ours~1", 0.25)):
        path = write_cell(tmp_path / "study", "sr", loss, recipe=SMALL)
        network = make_restorer("sr", 4, 2, seed=0)
        torch.nn.init.constant_(network.get_parameter("tail.bias"), -darker)
        save_network(network, path.with_suffix(".safetensors"))
    (tmp_path / "images").mkdir()
    pixels = np.full((256, 256, 3), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "flat.png")
    seen: list[torch.Size] = []

    def mean_difference(image: torch.Tensor, reference: torch.Tensor) -> float:
        seen.append(image.shape)
        return (reference - image).mean().item()

    monkeypatch.setattr(visible, "load_metrics", lambda names: dict.fromkeys(names, mean_difference))
    out = tmp_path / "visible.json"
    arguments = [str(tmp_path / "study"), "--test-images", str(tmp_path / "images"), "--json", str(out), *FLAGS]
    assert visible.main(arguments) == 0
    (found,) = json.loads(out.read_text())["sr"].values()
    assert found == pytest.approx(0.25, abs=0.005)
    assert seen == [(1, 3, visible.SIDE * visible.ENLARGED, visible.SIDE * visible.ENLARGED)]


def test_the_middle_of_an_image_is_what_is_enlarged() -> None:
    image = torch.zeros(1, 3, visible.SIDE + 2, visible.SIDE)
    image[..., 1, 0] = 1  # the first pixel of the middle
    enlarged = visible.enlarged(image)
    assert enlarged.shape[2:] == (visible.SIDE * visible.ENLARGED,) * 2
    assert (enlarged[..., : visible.ENLARGED, : visible.ENLARGED] == 1).all()
    assert enlarged.sum() == 3 * visible.ENLARGED**2


def test_times_are_kept_by_task_and_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "times.json"
    flags = ["--losses", "l1", "random", "--tasks", "sr", "jpeg", "--rounds", "1", "--threads", "1"]
    assert times.main([*flags, "--json", str(path)]) == 0
    kept = json.loads(path.read_text())
    assert list(kept["seconds"]) == ["sr", "jpeg"]
    assert all(list(of_task) == ["l1", "random"] for of_task in kept["seconds"].values())
    assert kept["machine"]["torch"] == torch.__version__
    assert "`random`" in capsys.readouterr().out
