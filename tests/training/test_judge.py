"""The judge: what it may run, what it asks, and that its sentence is what its figures say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own import own_run, write_image, write_module

from task_losses import JPEGLoss, TaskLoss
from task_losses.weights import serialize_weights
from training import export
from training.bench.ablation.recognition import challenges, share_recognised
from training.bench.report.bootstrap import Interval, Scores
from training.config import Config
from training.images import SKIMAGE_LICENCES, open_image
from training.judge.__main__ import main
from training.judge.photographs import DEFAULT, crops_to_restore, degraded, open_photographs, training_pairs
from training.judge.subject import open_subject
from training.judge.verdict import ALIKE, BETTER, TRADE, WORSE, Comparison, compare, sentence
from training.run_folder import RunFolder

QUICK = ["--seeds", "1", "--steps", "2", "--start-steps", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a distortion of one's own, and photographs, of which the first is the one it saw."""
    folder = tmp_path_factory.mktemp("judge")
    (folder / "photos").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, name in enumerate(["z_seen", "a", "b", "c"]):
            write_image(folder / "photos" / f"{name}.npy", 104, 112, seed=number)
        (folder / "photo.npy").write_bytes((folder / "photos" / "z_seen.npy").read_bytes())
        assert own_run(folder) == 0
        export.export(RunFolder(folder / "run"))
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def file_with(path: Path, **changes: object) -> Path:
    """The released JPEG loss, with other settings of its training."""
    weights = JPEGLoss()._weights
    info = {**weights.info, "random_scale": 0.2, "config": {**weights.info["config"], **changes}}
    path.write_bytes(serialize_weights(weights.tensors, weights.architecture, info))
    return path


class TestWhoseCodeIsRun:
    def test_no_command_of_a_weight_file_runs_unasked(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        mark = tmp_path / "ran"
        command = f"touch {mark}; cp {{in}} {{out}}"
        path = file_with(tmp_path / "theirs.safetensors", distortion=command)
        assert main([str(path), *QUICK]) == 2
        assert not mark.exists()
        assert "--trust" in capsys.readouterr().err
        open_subject(path, {"distortion": "jpeg"}, trust=False)  # the user's word, not the file's
        assert not mark.exists()
        subject = open_subject(path, {}, trust=True)
        degraded(torch.rand(1, 3, 16, 16), subject.config, torch.Generator())
        assert mark.exists()

    def test_no_module_of_a_weight_file_is_imported_unasked(self, tmp_path: Path, folder: Path) -> None:
        mark = tmp_path / "ran"
        name = write_module(folder, f"open({str(mark)!r}, 'w')\ndef f(image, generator): return image\n")
        path = file_with(tmp_path / "theirs.safetensors", distortion=["jpeg", f"{name}:f"])
        with pytest.raises(ValueError, match=rf"code: '{name}:f'.*--distortion"):
            open_subject(path, {}, trust=False)
        assert not mark.exists()
        open_subject(path, {}, trust=True)
        assert mark.exists()

    def test_a_run_is_judged_as_it_is_exported(self, folder: Path) -> None:
        assert open_subject(folder / "run", {}, trust=False).task == "own"

    def test_a_run_without_weights_says_how_to_make_them(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "checkpoint.pt").write_bytes((folder / "run" / "checkpoint.pt").read_bytes())
        with pytest.raises(ValueError, match=r"training\.export"):
            open_subject(tmp_path, {}, trust=False)

    def test_weights_that_do_not_say_their_settings_are_refused(self, tmp_path: Path) -> None:
        weights = JPEGLoss()._weights
        path = tmp_path / "bare.safetensors"
        path.write_bytes(serialize_weights(weights.tensors, weights.architecture, {"task": "own"}))
        with pytest.raises(ValueError, match="does not say what it was trained with"):
            open_subject(path, {}, trust=False)


class TestPhotographs:
    CONFIG = Config(task="denoise", scales=2, longest_side=32, channels=(4,))

    def test_what_the_critics_saw_is_never_tested_on(self, folder: Path) -> None:
        sha256 = TaskLoss(folder / "run").weights_info["image"]["sha256"]
        found = open_photographs(folder / "photos", sha256, self.CONFIG)
        assert [picture.name for picture in found.training] == ["z_seen.npy", "a.npy"]
        assert [picture.name for picture in found.unseen] == ["b.npy", "c.npy"]
        assert {tile.name.split()[0] for tile in found.tiles} == {"b.npy", "c.npy"}

    def test_without_photographs_of_ones_own_both_halves_have_colours_and_textures(self) -> None:
        assert set(DEFAULT) == set(SKIMAGE_LICENCES)
        found = open_photographs(None, open_image("skimage:chelsea")[1].sha256, self.CONFIG)
        for half in (found.training, found.unseen):
            grey = [torch.equal(picture.image[:, 0], picture.image[:, 2]) for picture in half]
            assert sorted(grey) == [False, False, True, True]
        assert len({tile.name.split()[0] for tile in found.tiles}) == 4
        assert len(crops_to_restore(found.unseen, self.CONFIG)) == 16
        one = crops_to_restore(found.unseen[1:2], self.CONFIG)  # as many as it holds where it is alone
        assert len(one) == 16

    def test_too_few_are_refused(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "one.npy").write_bytes((folder / "photo.npy").read_bytes())
        with pytest.raises(ValueError, match="--images"):
            open_photographs(tmp_path, None, self.CONFIG)

    def test_pairs_lie_on_each_other_and_are_repeatable(self, folder: Path) -> None:
        found = open_photographs(folder / "photos", None, replace(self.CONFIG, noise_sigma=(5.0, 5.0)))
        config = replace(self.CONFIG, noise_sigma=(5.0, 5.0))
        for pair in training_pairs(found.training, config):
            first, second = pair.image.chunk(2, dim=1)
            assert (first - second).std().item() == pytest.approx(5 / 255, rel=0.05)
        crops, once_more = (crops_to_restore(found.unseen, config).values() for _ in range(2))
        for (first, second), again in zip(crops, once_more, strict=True):
            assert (first - second).std().item() == pytest.approx(5 / 255, rel=0.05)
            assert torch.equal(first, again[0])

    def test_loss_for_enlarging_is_given_enlarged_pictures(self) -> None:
        image = torch.rand(1, 3, 64, 64)
        made = degraded(image, Config(task="sr", upscale=True), torch.Generator())
        assert made.shape == image.shape
        assert made.diff(dim=-1).std() < 0.4 * image.diff(dim=-1).std()


def test_whole_judgement_can_be_stopped_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--images", "photos", *QUICK]
    assert main(command) == 0
    said = capsys.readouterr().out
    results = folder / "run" / "judge"
    figures = json.loads((results / "judge.json").read_text())
    assert figures["verdict"] == said.strip().splitlines()[-1]
    assert (results / "judge.png").stat().st_size > 0
    assert {c["against"] for c in figures["comparisons"]} == {"l1", "mse", "random", "nearest"}
    networks = sorted((results / "networks").glob("*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in networks}
    lost = next(path for path in networks if path.name.startswith("own-x3"))
    lost.unlink()
    assert main(command) == 0
    assert capsys.readouterr().out == said
    made = [path for path in networks if path.stat().st_mtime_ns != before[path]]
    assert made == [lost]


def scores(values: list[float]) -> Scores:
    return {(0, str(number)): value for number, value in enumerate(values)}


class TestVerdict:
    SURE, NO = Interval(0.9, 0.8, 1.0), Interval(0.5, 0.3, 0.7)

    def against(self, name: str, *, ssim: float, psnr: float = 0.0) -> Comparison:
        """A loss that is better by that on every crop."""
        crops = [0.5, 0.6, 0.7, 0.8]
        other = {"psnr": scores([30 * x for x in crops]), "ssim": scores(crops)}
        own = {"psnr": scores([30 * x + psnr for x in crops]), "ssim": scores([x + ssim for x in crops])}
        return compare({("own", 1.0): own, (name, None): other}, name)

    @pytest.mark.parametrize(
        ("ssim", "psnr", "outcome"),
        [
            (0.01, 0, BETTER),
            (-0.01, 0, WORSE),
            (0, 0, ALIKE),
            (0.01, -0.2, TRADE),
            (0.01, -0.04, BETTER),
            (0, -1, WORSE),
        ],
    )
    def test_outcome_is_what_is_certain(self, ssim: float, psnr: float, outcome: str) -> None:
        assert self.against("l1", ssim=ssim, psnr=psnr).outcome == outcome

    def test_uncertain_differences_decide_nothing(self) -> None:
        own, other = ({"psnr": scores([1, 2]), "ssim": scores(values)} for values in ([0.5, 0.9], [0.6, 0.7]))
        assert compare({("own", 1.0): own, ("l1", None): other}, "l1").outcome == ALIKE

    def test_mixes_are_read_where_they_have_the_same_psnr(self) -> None:
        """Own mixes lose PSNR as they gain SSIM, along one line; the other's along a lower one, at other places."""

        def mix(psnr: float, ssim: float) -> dict[str, Scores]:
            return {"psnr": scores([psnr, psnr]), "ssim": scores([ssim, ssim])}

        results = {
            ("l1", None): mix(30, 0.80),
            ("own", 1.0): mix(29.9, 0.82),
            ("own", 3.0): mix(29.7, 0.86),
            ("random", 1.0): mix(29.8, 0.82),
            ("random", 3.0): mix(29.4, 0.86),
        }
        found = compare(results, "random")
        assert found.at_equal
        assert set(found.differences) == {"ssim"}
        assert found.outcome == BETTER
        # Over PSNR from 29.7 to 30: 0.2 SSIM a dB against 0.1, so half of the way 0.015 on average.
        assert found.differences["ssim"].mean == pytest.approx(0.015, abs=1e-3)

    @pytest.mark.parametrize(
        ("recognised", "outcomes", "says"),
        [
            (SURE, "bbbb", r"^Worth using: .* better than L1, MSE, random weights of its shape and JPEGLoss\.$"),
            (NO, "bbbb", r"^Not worth using: .* never saw"),
            (SURE, "bbab", r"^No case for using it: .* not certainly better than random weights of its shape, though"),
            (SURE, "bbwb", r"^Not worth using: random weights of its shape did better"),
            (SURE, "bbba", r"^Worth using where JPEGLoss cannot be: .* as good"),
            (SURE, "bbbw", r"^Worth using where JPEGLoss cannot be: .* better, though"),
            (SURE, "bbtb", r"^Worth using where SSIM counts more than PSNR: against random weights of its shape it"),
            (SURE, "bwtb", r"^Not worth using: MSE did better, though"),
            (SURE, "aaaa", r"^No case for using it"),
        ],
    )
    def test_sentence_is_what_the_outcomes_say(self, recognised: Interval, outcomes: str, says: str) -> None:
        ssim = {"b": 0.01, "a": 0.0, "w": -0.01, "t": 0.01}
        met = [
            self.against(name, ssim=ssim[letter], psnr=-0.2 if letter == "t" else 0)
            for name, letter in zip(["l1", "mse", "random", "nearest"], outcomes, strict=True)
        ]
        assert re.search(says, sentence(recognised, self.SURE, self.against("input", ssim=0.01), met, "JPEGLoss"))

    def test_networks_that_restore_nothing_decide_nothing(self) -> None:
        met = [self.against(name, ssim=0.01) for name in ("l1", "mse", "random", "nearest")]
        unsure, as_it_was = Interval(0.1, -0.1, 0.3), self.against("input", ssim=0, psnr=-0.2)
        said = sentence(self.SURE, unsure, as_it_was, met, "JPEGLoss")
        assert said.startswith("No verdict: it recognises its distortion, but the small networks undo nothing")
        for l1, own in ((self.SURE, as_it_was), (unsure, self.against("input", ssim=0.01))):
            assert sentence(self.SURE, l1, own, met, "JPEGLoss").startswith("Worth using")


def test_trained_critics_know_their_distortion_and_random_ones_do_not() -> None:
    config = Config.from_dict(JPEGLoss().weights_info["config"])
    image = open_photographs(None, None, config).tiles[0].image
    asked = list(challenges(config, image))
    assert share_recognised(JPEGLoss(), asked) > 0.9
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert share_recognised(TaskLoss(pretrained=False, like=JPEGLoss()), asked) < 0.9
