"""The gallery and the page to play with: what their scripts make, and what is committed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from study_results import write_cell

from training.bench.report import explore, gallery
from training.bench.report.gallery import PHOTOGRAPHS, ROWS, SIZE, Photograph, Subject, in_words, worst_place
from training.bench.study.data import TASKS, Picture
from training.bench.study.data import test_pair as make_test_pair
from training.bench.study.restoration import Recipe, save_network
from training.bench.study.restorers import make_restorer
from training.bench.study.texture import kept_texture, local_contrast, textured_place
from training.images import open_image

DOCS = Path(__file__).parents[2] / "docs"
SMALL = Recipe(width=4, depth=2, network="plain")
FLAGS = ["--width", "4", "--depth", "2", "--network", "plain", "--metrics", "psnr", "--only", "sr"]
CAT = Photograph("cat", "scikit-image:chelsea.png", "CC0 1.0", "a cat")


def write_study(folder: Path, *losses: str) -> None:
    for loss in losses:
        path = write_cell(folder, "sr", loss, recipe=SMALL)
        network = make_restorer("sr", 4, 2, seed=0, kind="plain")  # adds nothing to the bicubic upscaling
        if loss.startswith("ours"):
            torch.nn.init.constant_(network.get_parameter("tail.bias"), 0.1)
        save_network(network, path.with_suffix(".safetensors"))


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_sheet_holds_what_each_network_restored_and_a_second_run_adds_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gallery, "PHOTOGRAPHS", (CAT,))
    study, out = tmp_path / "study", tmp_path / "out"
    write_study(study, "l1", "ours~1")
    out.mkdir()
    (out / "remarks.json").write_text(json.dumps({"sr-cat": "Ours is brighter."}))
    (out / "index.md").write_text("<!-- begin gallery --> <!-- end gallery -->")
    assert gallery.main([str(study), "--out", str(out), *FLAGS]) == 0
    said = capsys.readouterr().err
    assert "sr: vgg is left out" in said
    assert "no words about sr-worst" in said
    (task,) = json.loads((out / "gallery.json").read_text())["tasks"]
    entry, worst = task["entries"]
    assert [image["row"] for image in entry["images"]] == ["input", "l1", "ours~1"]
    assert entry["remark"] == "Ours is brighter."
    assert worst["case"] == "worst"
    assert "[cat](sr-cat.webp)" in (out / "index.md").read_text()

    given, plain, ours, reference = np.split(pixels(out / "sr-cat.webp"), 4)
    assert given.shape == (*SIZE, 3)
    assert np.array_equal(given, plain)
    inside = (given > 0) & (given < 225)
    assert np.abs((ours - given)[inside] - 25.5).max() <= 1
    top, left = entry["place"]
    _, whole = make_test_pair("sr", Picture("cat", CAT.image), crop=0, level=4)
    photograph = whole[0, :, top : top + SIZE[0], left : left + SIZE[1]].permute(1, 2, 0).numpy() * 255
    assert np.abs(reference - photograph).max() < 1
    assert len(pixels(out / "sr-cat-map.webp")) == 3 * SIZE[0], "the reference has no map"

    before = entry["images"][2]["scores"]
    entry["images"][2]["scores"]["psnr"] = 77.0  # measured anew, it would be told
    (out / "gallery.json").write_text(json.dumps({"tasks": [task]}))
    write_study(study, "l1", "ours~1", "mse")
    assert gallery.main([str(study), "--out", str(out), *FLAGS]) == 0
    (task,) = json.loads((out / "gallery.json").read_text())["tasks"]
    after = {image["row"]: image["scores"] for image in task["entries"][0]["images"]}
    assert list(after) == ["input", "l1", "mse", "ours~1"]
    assert after["ours~1"] == {**before, "psnr": 77.0}
    assert after["mse"] == after["l1"]


def test_the_worst_place_is_where_ours_loses_most_against_l1() -> None:
    reference = torch.full((1, 3, 300, 300), 0.5)
    plain, ours = reference + 0.1, reference.clone()
    ours[..., 152:264, 40:184] += 0.4
    lost, place = worst_place(Subject(CAT, {"l1": plain, "ours~1": ours}, reference, {}))
    assert place == (152, 40)
    assert lost == pytest.approx(0.4**2 - 0.1**2, rel=1e-3)


def test_the_most_textured_place_is_texture_and_not_one_hard_edge() -> None:
    image = torch.full((1, 3, 160, 160), 0.2)
    image[..., 80:] = 1.0  # an edge, stronger than all texture
    image[..., 96:144, 8:56] += 0.1 * torch.rand(48, 48, generator=torch.Generator().manual_seed(0))
    assert textured_place(image, (48, 48)) == (96, 8)
    assert local_contrast(image).shape == (1, 1, 160, 160)


def test_blur_loses_texture_and_noise_adds_it() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert kept_texture(image, image) == pytest.approx(1.0)
    assert kept_texture(F.avg_pool2d(image, 3, stride=1, padding=1), image) < 0.6
    assert kept_texture(image + 0.3 * torch.randn(1, 3, 64, 64), image) > 1.1


def test_a_loss_reacts_once_as_hard_to_noise_as_to_noise() -> None:
    reference = torch.full((1, 3, 64, 64), 0.5)
    image = reference + 0.1 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(5))
    found = explore.reactions(image, reference, {"mse": F.mse_loss, "l1": F.l1_loss})
    assert found["psnr"] == pytest.approx(20, abs=0.2)
    assert found["times"]["mse"] == pytest.approx(1.0, abs=1e-3)
    assert found["times"]["l1"] == pytest.approx(1.0, abs=0.02)
    assert explore.reactions(reference + 0.1, reference, {"l1": F.l1_loss})["times"]["l1"] == pytest.approx(
        1.25, abs=0.02
    )


@pytest.mark.parametrize("name", explore.DISTORTIONS)
def test_a_distortion_grows_along_its_slider(name: str) -> None:
    image = open_image("skimage:astronaut")[0][..., :112, :144]
    _, label, steps, distort = explore.DISTORTIONS[name]
    errors = [float(F.mse_loss(distort(image, step), image)) for step in steps]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert len({label.format(step) for step in steps}) == len(steps)


def test_gains_of_all_squares_are_all_of_l1_and_its_pull_leads_to_the_reference(tmp_path: Path) -> None:
    side = explore.ACROSS * explore.SQUARE
    draws = torch.Generator().manual_seed(0)
    restored, reference = torch.rand(2, 1, 3, side, side, generator=draws)
    found = explore.pulls("sr", restored, reference, {"l1": F.l1_loss}, tmp_path)
    shares = torch.tensor(found["shares"]["l1"])
    assert shares.shape == (explore.ACROSS, explore.ACROSS)
    assert float(shares.sum()) == pytest.approx(1.0, abs=0.01)
    first = (restored - reference).abs()[..., : explore.SQUARE, : explore.SQUARE].sum() / (
        restored - reference
    ).abs().sum()
    assert float(shares[0, 0]) == pytest.approx(float(first), abs=1e-3)
    _, _, pull = np.split(pixels(tmp_path / "pull-sr.webp"), 3)
    wanted = np.sign((reference - restored)[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.sign(pull - 127.5), wanted)


def committed(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / page / f"{page}.json").read_text())
    return found


def test_the_committed_gallery_is_whole() -> None:
    content = committed("gallery")
    assert [task["key"] for task in content["tasks"]] == list(TASKS)
    for task in content["tasks"]:
        names = [entry["photograph"] for entry in task["entries"] if entry["case"] == "texture"]
        assert names == [photograph.name for photograph in PHOTOGRAPHS]
        assert [entry["case"] for entry in task["entries"]].count("worst") == 1
        for entry in task["entries"]:
            rows = [image["row"] for image in entry["images"]]
            assert {"input", "l1", "mse", "msssim-l1", "random~1", "ours~0", "ours~1", "ours~2"} <= set(rows)
            assert set(rows) <= {"input", *ROWS}
            assert entry["remark"], f"no words about {entry['sheet']}"
            sheet = DOCS / "gallery" / entry["sheet"]
            assert b"VP8L" in sheet.read_bytes()[:32], "stored with loss"
            assert Image.open(sheet).size == (SIZE[1], SIZE[0] * (len(rows) + 1))
            assert Image.open(DOCS / "gallery" / entry["maps"]).size == (SIZE[1], SIZE[0] * len(rows))


def test_the_page_says_what_the_pictures_are() -> None:
    text = (DOCS / "gallery" / "index.md").read_text(encoding="utf-8")
    assert in_words(committed("gallery")) in text
    for photograph in PHOTOGRAPHS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {photograph.name} |")]
        assert photograph.licence.split(",")[0] in line


def test_the_committed_page_to_play_with_is_whole() -> None:
    content = committed("explore")
    assert [each["key"] for each in content["pulls"]] == list(TASKS)
    for shown in content["strengths"]:
        stops = [stop for distortion in shown["distortions"] for stop in distortion["stops"]]
        assert [stop["index"] for stop in stops] == list(range(len(stops)))
        assert Image.open(DOCS / "explore" / shown["sheet"]).size == (SIZE[1], SIZE[0] * (len(stops) + 1))


def test_the_pages_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for page in ("gallery", "explore") for path in (DOCS / page).iterdir()) < 10e6
