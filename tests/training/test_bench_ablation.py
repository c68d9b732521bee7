"""Ablations: altered recipes, what no setting of a training says, and where the results go."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from weight_files import differences_alone

from task_losses import DenoiseLoss, TaskLoss
from task_losses.architecture import DISTANCES, differences
from task_losses.discriminator import FrozenDiscriminator
from task_losses.weights import embedded_weights
from training import export
from training.adam import adam
from training.bench.ablation import __main__ as ablations
from training.bench.ablation import questions
from training.bench.ablation.altered import Altered, released, weights_of
from training.bench.ablation.averaged import AveragedScale, averaged
from training.bench.study.cells import Cell
from training.bench.study.forms import UnitFeatures, reweighted, unit_feature_loss, with_gains
from training.bench.study.peers import Sources, find_peer
from training.config import Config
from training.networks import Discriminator
from training.objectives import Objective, hinge_loss
from training.run_folder import RunFolder
from training.train import Run, train_runs
from training.updates import Request, autograd_update

HINGE = Config(task="denoise", scales=2, longest_side=24, channels=(4,), steps=6, checkpoint_every=4)
SMALL = replace(HINGE, objective="wgan-gp", spectral_norm=False)


def trained(path: Path, config: Config = SMALL, average: float = 0.0) -> RunFolder:
    folder = RunFolder(path)
    folder.create(config)
    train_runs([Run(config, folder)], partial(AveragedScale, decay=average))
    return folder


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, 24, 24, generator=generator), torch.rand(1, 3, 24, 24, generator=generator)


def test_the_hinge_loss_stops_where_a_score_is_clear() -> None:
    real, fake = torch.tensor([2.0, 0.5], requires_grad=True), torch.tensor([-0.3, -2.0], requires_grad=True)
    loss = hinge_loss(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 0.5) / 2 + (0.7 + 0) / 2)
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == [0, -0.5]
    assert fake.grad.tolist() == [0.5, 0]


def test_a_spectrally_normalised_critic_does_not_feel_the_size_of_its_weights() -> None:
    torch.manual_seed(0)
    critic, larger = Discriminator(4), Discriminator(4)
    larger.load_state_dict({k: 3 * v if v.dim() == 4 else v for k, v in critic.state_dict().items()})
    image, other = pair()
    objective = Objective("hinge", spectral_norm=True)
    requests = [
        Request(network, adam(network.parameters(), 0.01, (0.5, 0.999)), image, other, 0.5, objective)
        for network in (critic, larger)
    ]
    weight = critic.last.weight.detach().clone()
    first, second = autograd_update(requests)
    torch.testing.assert_close(first.distance, second.distance)
    gradient, of_larger = critic.last.weight.grad, larger.last.weight.grad
    assert gradient is not None
    assert of_larger is not None
    torch.testing.assert_close(gradient, 3 * of_larger)
    assert abs((gradient * weight).sum()) < 1e-5 * gradient.norm()  # the size itself has no gradient
    assert not torch.equal(critic.last.weight, weight)  # Adam's step is part of the update


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_spectrally_normalised_run_exports_weights_of_norm_one(tmp_path: Path, average: float) -> None:
    folder = trained(tmp_path, HINGE, average)
    for discriminator in export.open_run(folder).discriminators:
        for name, weight in discriminator.named_parameters():
            if weight.dim() == 4:
                assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-5), name
    loss = TaskLoss(export.export(folder))  # which also compares its features with the trained networks'
    assert loss(*pair()) > 0


def test_the_average_is_the_weighted_mean_of_all_states() -> None:
    states = [torch.randn(3, dtype=torch.float64) for _ in range(5)]
    average: dict[str, Tensor] = {}
    for count, state in enumerate(states, start=1):
        average = averaged(average, {"x": state, "batches": torch.tensor(count)}, 0.9, count)
    factors = [0.9 ** (5 - t) for t in range(1, 6)]
    expected = sum(factor * state for factor, state in zip(factors, states, strict=True)) / sum(factors)
    torch.testing.assert_close(average["x"], expected)
    assert average["batches"] == 5


def test_without_decay_the_average_is_the_ordinary_training_and_with_it_another(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "ordinary")
    folder.create(SMALL)
    train_runs([Run(SMALL, folder)])  # by Scale itself
    ordinary = folder.load_checkpoint()["finished"]
    same = trained(tmp_path / "same").load_checkpoint()["finished"]
    other = trained(tmp_path / "other", average=0.9).load_checkpoint()["finished"]
    for a, b, c in zip(ordinary, same, other, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert not torch.equal(a["last.weight"], c["last.weight"])
        assert not torch.equal(a["blocks.0.norm.running_mean"], c["blocks.0.norm.running_mean"])


@pytest.mark.parametrize(("config", "average"), [(SMALL, 0.9), (HINGE, 0.0)])
def test_a_resumed_variant_equals_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Config, average: float
) -> None:
    whole = trained(tmp_path / "whole", config, average).load_checkpoint()["finished"]
    honest, saved = RunFolder.save_checkpoint, 0

    def dying(self: RunFolder, *arguments: Any) -> None:
        nonlocal saved
        honest(self, *arguments)
        saved += 1
        if saved == 1:  # in the middle of the first scale
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "broken", config, average)
    folder = RunFolder(tmp_path / "broken")
    checkpoint = folder.load_checkpoint()
    assert (checkpoint["scale"], checkpoint["step"]) == (0, 4)
    folder.resume_logs(config, 4)
    train_runs([Run(config, folder, checkpoint)], partial(AveragedScale, decay=average))
    for a, b in zip(whole, folder.load_checkpoint()["finished"], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("distance", "power"), [("squared", 0.5), ("absolute", 1.0)])
def test_a_gain_multiplies_the_part_of_its_layer(distance: str, power: float) -> None:
    layers = [(weight.double(), bias.double()) for weight, bias in embedded_weights("sr").layers(7)]
    x, y = (image.double() for image in pair())
    gained = with_gains(layers, [weight**power for weight in (3.0, 1.0, 1.0, 7.0, 1.0)])
    for tap, weight in ((1, 3.0), (3, 1.0), (4, 7.0), (5, 1.0)):
        before, after = (
            FrozenDiscriminator(of, differences((tap,), DISTANCES[distance])).distance(x, y).item()
            for of in (layers, gained)
        )
        assert after == pytest.approx(weight * before, rel=1e-9)


def released_bytes(task: str) -> bytes:
    return weights_of(Altered(released(task)), Path("unused")).read_bytes()


def loss_from(data: bytes, path: Path) -> TaskLoss:
    path.write_bytes(data)
    return TaskLoss(path)


def test_weights_of_scales_multiply_each_scale_s_features_and_no_image(tmp_path: Path) -> None:
    data = differences_alone(released_bytes("sr"))  # the least strength of a window does not grow along
    growing = loss_from(reweighted(data, scale_growth=2.0), tmp_path / "a.safetensors")
    image, other = torch.rand(1, 3, 96, 96), torch.rand(1, 3, 96, 96)
    before = loss_from(data, tmp_path / "before.safetensors").per_scale(image, other)
    after = growing.per_scale(image, other)
    factors = [(after[scale] / before[scale]).item() for scale in range(8)]
    assert [b / a for a, b in pairwise(factors)] == pytest.approx([2.0] * 7, rel=1e-4)
    assert "reweighted" in growing.weights_info
    same = loss_from(reweighted(released_bytes("denoise")), tmp_path / "b.safetensors")
    assert same(image, other).item() == pytest.approx(DenoiseLoss()(image, other).item(), rel=1e-4)


def test_equal_scales_have_equal_shares_on_the_training_image(tmp_path: Path) -> None:
    from training.scaling import distances

    loss = loss_from(reweighted(released_bytes("denoise"), equal_scales=True), tmp_path / "a.safetensors")
    energies = [0.0] * 8
    config = released("denoise")
    parts = [part for part in loss.discriminators if isinstance(part, FrozenDiscriminator)]
    for scale, _, features in distances([part.layers() for part in parts], config):
        energies[scale] += features
    assert energies == pytest.approx([energies[0]] * 8, rel=1e-3)


def test_taps_need_a_weight_each() -> None:
    with pytest.raises(ValueError, match="taps above the image are"):
        reweighted(released_bytes("denoise"), tap_weights=(1.0, 3.0))
    with pytest.raises(ValueError, match="tap weights are for"):
        Altered(released("denoise"), tap_weights=(1.0, 3.0))


def test_unit_features_agree_for_equal_images_and_do_not_feel_the_size_of_features() -> None:
    layers = embedded_weights("denoise").layers(7)
    unit = UnitFeatures(layers, differences((4,)))
    larger = UnitFeatures(with_gains(layers, [5.0] * 5), differences((4,)))
    image, other = pair()
    assert unit.distance(image, image).item() == 0
    torch.testing.assert_close(unit.distance(image, other), larger.distance(image, other))
    (features,) = unit(image)
    torch.testing.assert_close(features.norm(dim=1), torch.ones_like(features[:, 0]))
    with pytest.raises(ValueError, match="one channel"):
        UnitFeatures(layers, differences((4, 5)))


def test_the_image_is_compared_as_it_is_beside_unit_features() -> None:
    layers = embedded_weights("denoise").layers(7)
    image, other = pair()
    both, features = (UnitFeatures(layers, differences(taps)).distance(image, other) for taps in ((0, 4), (4,)))
    torch.testing.assert_close(both - features, (image - other).square().mean().reshape(1))


def test_the_loss_of_unit_features_is_a_peer_with_the_gradient_of_its_value() -> None:
    path = weights_of(Altered(released("denoise")), Path("unused"))
    peer = find_peer(f"unit:{path}", "denoise", Sources())
    assert peer.label != find_peer(f"file:{path}", "denoise", Sources()).label
    loss = peer.build(0)
    assert isinstance(loss, TaskLoss)
    loss.double()
    image, other = (image.double() for image in pair())
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image, other), image)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        step = 1e-6 * direction
        slope = (loss(image + step, other) - loss(image - step, other)) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)
    assert unit_feature_loss(path)(*pair()).item() == pytest.approx(
        loss(*(x.double() for x in pair())).item(), rel=1e-4
    )


def test_the_released_file_is_taken_where_the_critics_are_its_own(tmp_path: Path) -> None:
    recipe = released("jpeg")
    assert weights_of(Altered(recipe, resolution="full"), tmp_path).name.startswith("jpeg-v")
    assert not list(tmp_path.iterdir())
    weighed = weights_of(Altered(recipe, scale_growth=2.0), tmp_path)
    assert weighed.parent == tmp_path
    assert weighed == weights_of(Altered.of(recipe, {"scale_growth": 2.0}), tmp_path)
    assert weighed != weights_of(Altered(recipe, scale_growth=0.5), tmp_path)


def test_each_way_of_training_has_a_run_of_its_own(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"average": 0.9},
        {"objective": "hinge"},
        {"objective": "hinge", "spectral_norm": True},
    ]
    files = {weights_of(Altered.of(SMALL, change), tmp_path) for change in changes}
    assert len({path.parent for path in files}) == 4
    stamps = {path: path.stat().st_mtime_ns for path in files}
    weights_of(Altered.of(SMALL, changes[1]), tmp_path)
    weights_of(Altered.of(SMALL, {"taps": (0, 3)}), tmp_path)  # the same critics, compared otherwise
    assert {path: path.stat().st_mtime_ns for path in files} == stamps
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4


def test_every_alteration_of_every_question_fits_some_task() -> None:
    for question, of_question in questions.QUESTIONS.items():
        found = [changes for task in ("sr", "denoise", "jpeg") for changes, _ in questions.alterations(task, question)]
        assert all(changes in found for changes in of_question), question


def test_results_of_two_questions_stand_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(question: str) -> None:
        folder = Path(__file__).parent
        images = ["--train-images", str(folder), "--test-images", str(folder)]
        where = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(ablations, "read_folders", lambda folders: [])
        assert ablations.main([*images, *where, "--tasks", "sr", "--questions", question, "--metrics", "psnr"]) == 0

    class FakeStudy:
        """Scores that tell the losses apart; what a study does is tested with the quality benchmark."""

        def __init__(self, *arguments: object) -> None:
            pass

        def run(self, cell: Cell) -> dict[str, object]:
            worse = 0.0 if cell.loss == "ours" else 1.0
            return {"evaluations": {"crop": {"4": {str(key): {"psnr": 30 + key - worse} for key in range(3)}}}}

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(ablations, "Study", FakeStudy)
    run("weights")
    first = (tmp_path / "out" / "ablations-sr-weights.json").read_text()
    run("resolution")
    assert (tmp_path / "out" / "ablations-sr-weights.json").read_text() == first
    (entry,) = json.loads((tmp_path / "out" / "ablations-sr-resolution.json").read_text())
    assert entry["changes"] == {"resolution": "full"}
    assert entry["differences"]["psnr"]["mean"] == pytest.approx(-1)
    text = (tmp_path / "out" / "ablations.md").read_text()
    assert text.count("## sr") == 1
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith(("| weights", "| resolution"))]
    assert [row[0].strip("| ") for row in rows] == ["resolution", *["weights"] * 7]
    run("weights")  # nothing is left to do
    assert (tmp_path / "out" / "ablations-sr-weights.json").read_text() == first


def test_at_equal_psnr_a_setting_of_the_dial_is_no_gain() -> None:
    def measured(psnr: float, stlpips: float) -> dict[str, dict[tuple[int, str], float]]:
        hardness = {(0, str(key)): float(key) for key in range(3)}
        return {
            "psnr": {key: psnr - hard for key, hard in hardness.items()},
            "stlpips": {key: stlpips + hard / 100 for key, hard in hardness.items()},
        }

    dial = [measured(30.0, 0.3), measured(29.0, 0.2), measured(28.0, 0.15)]

    def read(psnr: float, stlpips: float, of: list[dict[str, dict[tuple[int, str], float]]]) -> list[float | None]:
        found = ablations.differences(measured(psnr, stlpips), dial[1], of)
        return [None if interval is None else round(interval.mean, 6) for interval in found.values()]

    assert read(28.5, 0.175, dial) == [-0.5, 0.0]
    assert read(28.5, 0.165, dial) == [-0.5, -0.01]
    assert read(27.0, 0.1, dial) == [-2.0, None]  # the dial does not reach so far
    assert read(28.5, 0.175, []) == [-0.5, -0.025]


def test_the_dial_needs_psnr(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [f"--{name}=." for name in ("train-images", "test-images", "out", "runs")]
    with pytest.raises(SystemExit):
        ablations.main([*folders, "--metrics", "stlpips", "--dial", "0", "1"])
    assert "psnr must be among --metrics" in capsys.readouterr().err
