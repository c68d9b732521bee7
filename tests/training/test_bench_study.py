"""The quality benchmark: its statistics, its data, and a whole study in small, on made-up images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from task_losses import DenoiseLoss, TaskLoss
from task_losses.discriminator import FrozenDiscriminator
from task_losses.pyramid import resize
from task_losses.weights import random_weights, serialize_weights
from training.bench.cost.memory import peak_memory
from training.bench.report import __main__ as report
from training.bench.study import metrics, quality, quick
from training.bench.study.data import Picture, read_folders, training_batches
from training.bench.study.data import test_pair as make_test_pair
from training.bench.study.ours import recipe_of
from training.bench.study.peers import Sources, find_peer
from training.bench.study.restoration import Recipe, mixed_with_l1, train
from training.bench.study.restorers import NETWORKS, make_restorer
from training.bench.study.strengths import ImageTexture, TrunkContrast, TrunkGram
from training.provenance import ROOT
from training.scaling import distances

NUMBERS = {"width": 4, "depth": 2, "batch": 1, "patch": 80, "start-steps": 4, "steps": 2, "crop": 48}
TINY = [text for name, number in NUMBERS.items() for text in (f"--{name}", str(number))]


def picture(name: str, height: int = 96, width: int = 112, seed: int = 0) -> Picture:
    """Smooth blobs with some grain: enough structure for a network to learn from."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 6, 7), generator=generator)
    image = F.interpolate(coarse, size=(height, width), mode="bicubic")
    return Picture(name, (image + 0.05 * torch.randn(image.shape, generator=generator)).clamp(0, 1))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Training and test images."""
    for folder, count in (("train", 3), ("test", 2)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            pixels = (255 * picture("", seed=index).image[0]).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    return tmp_path / "train", tmp_path / "test"


def run(folders: tuple[Path, Path], out: Path, *more: str) -> int:
    train_images, test_images = map(str, folders)
    arguments = ["--train-images", train_images, "--test-images", test_images, "--out", str(out), "--threads", "1"]
    return quality.main([*arguments, *TINY, "--metrics", "psnr", *more])


def results(out: Path) -> dict[str, dict[str, Any]]:
    files = sorted((out / "cells").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in files}


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".json", ".safetensors")}


def test_a_study_is_made_once_and_then_extended(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    losses = ["--tasks", "denoise", "--losses", "input", "start", "l1", "random"]
    assert run(folders, out, *losses) == 0
    first = stamps(out)
    assert len(results(out)) == 4

    assert run(folders, out, *losses) == 0
    assert stamps(out) == first, "a finished cell was made again"

    assert run(folders, out, *losses, "--seeds", "0", "1") == 0
    second = stamps(out)
    assert {name: second[name] for name in first} == first
    assert len(results(out)) == 8

    # Another metric is measured on the networks that are there.
    assert run(folders, out, *losses, "--metrics", "psnr", "ssim") == 0
    third = stamps(out)
    networks = [name for name in second if name.endswith(".safetensors")]
    assert networks
    assert {name: third[name] for name in networks} == {name: second[name] for name in networks}
    scores = next(iter(results(out).values()))["evaluations"]["crop48"]["25"]
    assert all(set(of_image) == {"psnr", "ssim"} for of_image in scores.values())
    assert len(scores) == 2


def test_a_changed_setting_or_weight_file_is_another_cell(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out, weights = tmp_path / "out", tmp_path / "mine.safetensors"
    made = random_weights("sr")
    weights.write_bytes(serialize_weights(made.tensors, made.architecture, {"task": "sr"}))
    losses = ["--tasks", "sr", "--losses", f"file:{weights}"]
    run(folders, out, *losses)
    run(folders, out, *losses, "--lr", "1e-5")
    assert len(results(out)) == 2
    weights.write_bytes(changed(weights.read_bytes()))
    run(folders, out, *losses)
    assert len(results(out)) == 3
    assert len(list((out / "starts").glob("*.safetensors"))) == 1, "the start does not depend on the loss or its rate"


def changed(data: bytes) -> bytes:
    """The same weight file with one number's lowest bit turned over."""
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


def test_an_interrupted_cell_is_made_anew(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folders, out, "--tasks", "jpeg", "--losses", "l1")
    (result,) = (out / "cells").glob("*.json")
    complete = json.loads(result.read_text())
    # What a kill leaves: the network written, the result not, or half a file under another name.
    result.rename(result.with_suffix(".json.1.unfinished"))
    assert run(folders, out, "--tasks", "jpeg", "--losses", "l1") == 0
    again = json.loads(result.read_text())
    assert again["evaluations"] == complete["evaluations"], "equal seeds must give equal results"


def test_the_tables_hold_every_row_and_difference(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    losses = ["--losses", "input", "l1", "random", "ours", "--ratios", "alone", "0.5"]
    run(folders, out, "--tasks", "jpeg", *losses, "--metrics", "psnr", "ssim")
    assert report.main([str(out), *TINY, "--metrics", "psnr", "ssim"]) == 0
    text = (out / "tables.md").read_text()
    for label in ("`input`", "`l1`", "`random`", "`random + L1, 0.5`", "`ours`", "`ours + L1, 0.5`"):
        assert label in text
    for heading in ("Difference to `l1`", "Difference to `random`", "At equal PSNR", "less those of `random`"):
        assert heading in text
    for result in results(out).values():
        if result["config"]["ratio"] is not None:
            assert result["weight"] > 0
        if result["config"]["loss"] not in ("input", "start"):
            assert result["loss_seconds"] <= result["seconds"]
            assert result["loss_memory_mb"] < result["memory_mb"]
            assert [point["step"] for point in result["curve"]] == [0, 1, 2]


def test_a_missing_package_leaves_a_column_or_a_row_out(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("pycvvdp", "pytorch_msssim"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    metrics._load.cache_clear()
    out = tmp_path / "out"
    failures = run(folders, out, "--tasks", "jpeg", "--losses", "msssim-l1", "l1", "--metrics", "psnr", "cvvdp")
    metrics._load.cache_clear()
    said = capsys.readouterr().err
    assert failures == 1
    assert "pip install cvvdp" in said
    assert "pytorch_msssim" in said
    assert len(results(out)) == 1
    assert report.main([str(out), *TINY, "--metrics", "psnr", "cvvdp"]) == 0
    assert "CVVDP" in (out / "tables.md").read_text()


def test_a_seed_means_the_same_patches_in_the_same_order() -> None:
    pictures = [picture("a"), picture("b", seed=1)]
    options = {"patch": 80, "batch": 2, "steps": 3}

    def references(task: str, seed: int) -> torch.Tensor:
        return torch.stack([pair for _, pair in training_batches(task, pictures, seed=seed, **options)])

    for task in ("sr", "denoise", "jpeg"):
        assert torch.equal(references(task, 0), references(task, 0))
        assert not torch.equal(references(task, 0), references(task, 1))
    degraded, reference = next(training_batches("sr", pictures, seed=0, **options))
    assert (degraded.shape, reference.shape) == ((2, 3, 20, 20), (2, 3, 80, 80))


def test_a_test_pair_does_not_depend_on_its_neighbours() -> None:
    image = picture("a", height=50, width=61)
    degraded, reference = make_test_pair("denoise", image, crop=0, level=25)
    assert reference.shape == (1, 3, 48, 60)
    assert torch.equal(degraded, make_test_pair("denoise", image, crop=0, level=25)[0])
    assert not torch.equal(degraded, make_test_pair("denoise", Picture("b", image.image), crop=0, level=25)[0])
    assert (degraded - reference).std().item() == pytest.approx(25 / 255, rel=0.03)
    small, reference = make_test_pair("sr", image, crop=32, level=4)
    assert (small.shape, reference.shape) == ((1, 3, 8, 8), (1, 3, 32, 32))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images in"):
        read_folders([tmp_path])


@pytest.mark.parametrize("task", ["sr", "denoise"])
def test_training_takes_the_steps_that_autograd_would(task: str) -> None:
    pictures = [picture("a")]
    batches = list(training_batches(task, pictures, patch=80, batch=1, steps=3, seed=0))
    network, plain = (make_restorer(task, 4, 2, seed=0) for _ in range(2))
    for _ in train(network, F.mse_loss, batches, steps=10**9, lr=1e-3):
        pass
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for degraded, reference in batches:
        optimizer.zero_grad()
        F.mse_loss(plain(degraded), reference).backward()
        optimizer.step()
    for trained, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-6)


def test_a_mix_has_the_ratio_of_gradients_that_was_asked_for() -> None:
    network = make_restorer("denoise", 4, 2, seed=0)
    ((degraded, reference),) = training_batches("denoise", [picture("a")], patch=80, batch=1, steps=1, seed=0)
    mixed, weight = mixed_with_l1(F.mse_loss, 0.5, network, [(degraded, reference)])
    restored = network(degraded).detach().requires_grad_()

    def gradient(value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor
        (found,) = torch.autograd.grad(value, restored)
        return found

    of_l1, of_mse = gradient(F.l1_loss(restored, reference)), gradient(F.mse_loss(restored, reference))
    assert (weight * of_mse).norm().item() == pytest.approx(0.5 * of_l1.norm().item(), rel=1e-5)
    torch.testing.assert_close(gradient(mixed(restored, reference)), of_l1 + weight * of_mse)


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    megabyte = 250_000  # float32 numbers
    assert peak_memory(lambda: torch.rand(4 * megabyte)) == pytest.approx(4, rel=0.01)
    # One after the other, so two never live together.
    assert peak_memory(lambda: [torch.rand(4 * megabyte).sum() for _ in range(3)]) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lpips", "no loss of the name"),
        ("l1@full", "no resolution to choose"),
        ("random@half", "unknown resolution"),
        ("authors", "--authors FOLDER"),
        ("vgg-gram", "--vgg FILE"),
        ("file:nowhere.safetensors", "a file that exists"),
    ],
)
def test_a_loss_that_cannot_be_had_is_explained(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_peer(name, "sr", Sources())


def test_a_crossed_loss_is_named_by_its_task_and_is_no_other_loss_on_its_own() -> None:
    own, named, crossed = (find_peer(name, "sr", Sources()) for name in ("ours", "ours:sr", "ours:jpeg@full"))
    assert (own.label, own.identity) == (named.label, named.identity)
    assert crossed.label == "ours:jpeg@full"
    first, second = picture("a").image, picture("b", seed=1).image
    value = crossed.build(0)(first, second).item()
    assert value == find_peer("ours@full", "jpeg", Sources()).build(0)(first, second).item()


def test_the_random_control_follows_the_seed_and_the_resolution() -> None:
    first, second = picture("a").image, picture("b", seed=1).image
    pyramid, full = find_peer("random", "sr", Sources()), find_peer("random@full", "sr", Sources())
    assert pyramid.label != full.label
    values = [peer.build(seed)(first, second).item() for peer, seed in ((pyramid, 0), (pyramid, 1), (full, 0))]
    assert len(set(values)) == 3
    assert values[0] == pyramid.build(0)(first, second).item()


def test_the_random_control_gives_the_image_the_share_that_the_released_loss_gives_it() -> None:
    loss = find_peer("random", "denoise", Sources()).build(0)
    assert isinstance(loss, TaskLoss)
    assert 0 in loss.architecture.taps
    config = recipe_of(DenoiseLoss())
    found = list(distances([cast(FrozenDiscriminator, part).layers() for part in loss.discriminators], config))
    of_image = sum(image for scale, image, _ in found if scale == config.scales - 1)
    of_features = sum(features for _, _, features in found)
    assert of_image / (of_image + of_features) == pytest.approx(config.image_share, rel=1e-3)


def test_the_dial_of_the_texture_term_is_part_of_a_name() -> None:
    first, second = torch.rand(2, 3, 96, 96), torch.rand(2, 3, 96, 96)
    values = {}
    for name in ("ours", "ours~0", "ours~1", "ours~2.5", "ours:jpeg~2.5@full", "random~1", "random"):
        peer = find_peer(name, "jpeg", Sources())
        values[name] = peer.build(0)(first, second).item()
        assert peer.label == name.replace(":jpeg", "")
    assert values["ours~0"] < values["ours~1"] == values["ours"] < values["ours~2.5"]
    assert values["random~1"] == values["random"]
    identities = {find_peer(name, "jpeg", Sources()).identity for name in ("ours", "ours~0", "ours~1")}
    assert len(identities) == 3


def test_a_pattern_is_seen_and_its_absence_too() -> None:
    image = torch.rand(1, 3, 70, 130, generator=torch.Generator().manual_seed(0))
    grid = torch.zeros_like(image)
    grid[..., ::4, ::4] = 1.0
    assert 0.7 < metrics.pattern(image) < 1.4
    assert metrics.pattern(image + grid) > 10
    with pytest.raises(ValueError, match="needs 64 on the shorter side"):
        metrics.pattern(image[..., :40])


def test_dots_of_changing_sign_are_seen_where_a_pattern_is_not() -> None:
    draws = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 128, 128, generator=draws) / 10
    dots = torch.zeros(1, 1, 128, 128)
    dots[..., ::4, ::4] = 0.2 * torch.randn(1, 1, 32, 32, generator=draws).sign()
    assert metrics.pattern(image + dots) < 1.6
    assert metrics.METRICS["dots"].load()(image, image) < 1.4
    assert metrics.METRICS["dots"].load()(image + dots, image) > 5


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("task", ["sr", "denoise"])
def test_every_network_begins_with_its_input_and_learns(kind: str, task: str) -> None:
    network = make_restorer(task, 8, 2, 0, kind)
    small = torch.rand(2, 3, 13, 18)
    expected = resize(small, (52, 72)) if task == "sr" else small
    torch.testing.assert_close(network(small), expected)
    (network(small) - 0.5).square().mean().backward()
    gradient = dict(network.named_parameters())["tail.weight"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_results_of_before_there_were_several_networks_keep_their_names() -> None:
    assert "network" not in Recipe().settings
    assert Recipe(network="unet").settings["network"] == "unet"
    keys = {Recipe(network=kind).start_key("sr", []) for kind in NETWORKS}
    assert len(keys) == len(NETWORKS)
    with pytest.raises(ValueError, match="network must be"):
        Recipe(network="resnet")


def test_the_quick_mode_is_a_metric_of_a_weight_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "QUICK", Recipe(width=4, depth=2, batch=1, patch=80, start_steps=4, steps=2))
    for run_name in ("one", "two"):
        (tmp_path / run_name).mkdir()
        weights = Path(next(iter((ROOT / "task_losses" / "weights").glob("jpeg-*.safetensors"))))
        (tmp_path / run_name / "jpeg.safetensors").write_bytes(weights.read_bytes())
    first, second = (quick.psnr(tmp_path / name / "jpeg.safetensors") for name in ("one", "two"))
    assert first == second
    assert 20 < first < 40
    assert len(list((tmp_path / "quick" / "starts").glob("*.safetensors"))) == 1
    own = tmp_path / "one" / "rain.safetensors"
    form = DenoiseLoss()
    own.write_bytes(serialize_weights(form._weights.tensors, form.architecture, {"task": "rain"}))
    with pytest.raises(ValueError, match="'rain', the study has"):
        quick.psnr(own)


def test_losses_of_texture_alone_ask_how_strong_it_is_and_not_where() -> None:
    image = picture("", 64, 64).image
    moved = image.roll((8, 8), (2, 3))  # by whole windows
    blurred = resize(resize(image, (32, 32)), (64, 64))
    trunk = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.ReLU()])
    for loss in (ImageTexture(), TrunkContrast(trunk), TrunkGram(trunk)):
        assert loss(image, image) == 0
        assert loss(blurred, image) > 0
    # A Gram matrix forgets all places, the strength of a window those within it and its own level.
    assert TrunkGram(trunk)(moved, image) < 1e-3 * TrunkGram(trunk)(blurred, image)
    assert TrunkContrast(trunk[:1])(image + 0.1, image) < 1e-6 * TrunkContrast(trunk[:1])(blurred, image)
    assert ImageTexture()(image + 0.1, image) < 1e-6 * ImageTexture()(blurred, image)
