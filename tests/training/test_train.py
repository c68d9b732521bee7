"""Training from one image, end to end on a small pyramid."""

import csv
import io
import json
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from task_losses import TaskLoss
from training import export, train
from training.config import Config
from training.images import open_image, pyramid, resize_clipped
from training.run_folder import RunFolder
from training.scale import Scale
from training.updates import Judged

SMALL = ["--scales", "2", "--longest-side", "24", "--channels", "4", "--steps", "6", "--checkpoint-every", "2"]


WGAN_GP = ["--objective", "wgan-gp"]
HINGE = ["--objective", "hinge", "--spectral-norm"]


def run(out, *flags):
    return train.main(["--out", str(out), *SMALL, *flags])


def finished_weights(out):
    return RunFolder(out).load_checkpoint()["finished"]


def assert_same_weights(first, second):
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        for name in a:
            assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("flags", [["--task", "sr"], ["--task", "denoise"], ["--task", "jpeg"]], ids=lambda f: f[1])
@pytest.mark.parametrize("form", ["--no-generator", "--generator"])
@pytest.mark.parametrize("objective", [WGAN_GP, HINGE], ids=["wgan-gp", "hinge"])
def test_training_gives_a_loss(tmp_path, flags, form, objective):
    assert run(tmp_path, *flags, form, *objective) == 0
    path = export.export(RunFolder(tmp_path))
    loss = TaskLoss(path)
    assert loss.weights_info["task"] == flags[1]
    x = torch.rand(1, 3, 20, 20, requires_grad=True)
    loss(x, torch.rand(1, 3, 20, 20)).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", [WGAN_GP, HINGE], ids=["wgan-gp", "hinge"])
def test_training_changes_the_weights_and_learns(tmp_path, objective):
    run(tmp_path, "--task", "denoise", "--steps", "60", *objective)
    rows = list(csv.DictReader((tmp_path / "losses.csv").open()))
    distances = [float(row["critic_distance"]) for row in rows if row["scale"] == "0"]
    # At the start the critic cannot tell, at the end it scores the clean level clearly higher.
    assert abs(distances[0]) < 0.05
    assert sum(distances[-10:]) / 10 > 0.1


def test_a_spectrally_normalised_critic_enters_the_loss_as_it_acts(tmp_path):
    run(tmp_path, "--task", "denoise", *HINGE)
    for state in finished_weights(tmp_path):
        for name, weight in state.items():
            if weight.dim() == 4:
                assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-5), name


def test_one_seed_gives_one_result(tmp_path):
    for folder in ("a", "b"):
        run(tmp_path / folder, "--task", "denoise", "--seed", "5")
    run(tmp_path / "c", "--task", "denoise", "--seed", "6")
    assert_same_weights(finished_weights(tmp_path / "a"), finished_weights(tmp_path / "b"))
    weights = [finished_weights(tmp_path / folder)[0]["last.weight"] for folder in "ac"]
    assert not torch.equal(*weights)


# Killed in the middle of a scale, at its first checkpoint, and when a scale has just ended.
@pytest.mark.parametrize("killed_after", [3, 5, 6, 9])
@pytest.mark.parametrize("form", ["--no-generator", "--generator"])
@pytest.mark.parametrize("objective", [WGAN_GP, HINGE], ids=["wgan-gp", "hinge"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, monkeypatch, killed_after, form, objective):
    run(tmp_path / "whole", "--task", "denoise", form, *objective)
    count = 0
    honest = Scale.request

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if count > killed_after:
            raise KeyboardInterrupt
        return honest(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Scale, "request", dying)
        assert run(tmp_path / "broken", "--task", "denoise", form, *objective) == 130
    with (tmp_path / "broken" / "losses.csv").open("a") as file:  # a row of a step after the checkpoint
        file.write("11,1,9" + ",9" * (objective == WGAN_GP) + ",9,9" * (form == "--generator") + "\n")
    assert train.main(["--out", str(tmp_path / "broken"), "--resume"]) == 0
    assert_same_weights(finished_weights(tmp_path / "whole"), finished_weights(tmp_path / "broken"))
    logs = [(tmp_path / name / "losses.csv").read_text() for name in ("whole", "broken")]
    assert logs[0] == logs[1]


def test_the_generator_meets_the_critic_that_acts(monkeypatch):
    """A spectrally normalised critic of larger weights is the same critic, to the generator too."""
    torch.manual_seed(0)
    config = Config(task="denoise", generator=True, wiener=0, channels=(4,), objective="hinge", spectral_norm=True)
    image, distorted = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20)
    moved = []
    for size in (1.0, 3.0):
        scale = Scale(config, 0, torch.device("cpu"))
        generator = scale.networks["generator"]
        with torch.no_grad():
            scale.critic.last.weight.mul_(size)
        before = [parameter.detach().clone() for parameter in generator.parameters()]
        # The critic itself stays as it is.
        losses = scale.losses(Judged(torch.zeros(()), torch.zeros(())), image, distorted)
        moved.append([(parameter - b).detach() for parameter, b in zip(generator.parameters(), before, strict=True)])
        assert losses["adversarial"].isfinite()
    for a, b in zip(*moved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)
    assert any(part.any() for part in moved[0])


@pytest.mark.parametrize("form", ["from the level", "from the coarser level", "from the generator's output"])
def test_what_a_scale_starts_from(tmp_path, monkeypatch, form):
    seen = []
    monkeypatch.setattr(train, "make_distortion", lambda config: lambda image, draws: seen.append(image) or image)
    flags = {"from the level": ["--no-upscale"], "from the coarser level": ["--upscale"]}
    assert run(tmp_path, "--task", "denoise", *flags.get(form, ["--upscale", "--generator"])) == 0
    _, coarse, fine = pyramid(open_image("skimage:chelsea")[0], scales=2, ratio=0.75, longest_side=24)
    upscaled = resize_clipped(coarse, (fine.shape[2], fine.shape[3]))
    start = seen[-1]
    assert start.shape == fine.shape
    assert torch.equal(start, fine) == (form == "from the level")
    assert torch.equal(start, upscaled) == (form == "from the coarser level")


def test_the_learning_rate_falls_for_the_last_steps():
    scale = Scale(Config(steps=10, scales=1, lr=0.01), 0, torch.device("cpu"))
    rates = []
    for step in range(10):
        scale.begin_step(step)
        rates.append(scale.optimizers["discriminator"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.01] * 8 + [0.001] * 2)


def test_a_run_leaves_logs_pictures_and_curves(tmp_path):
    run(tmp_path, "--task", "jpeg", "--generator")
    rows = list(csv.DictReader((tmp_path / "losses.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(12))
    assert {row["scale"] for row in rows} == {"0", "1"}
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = [event.value for event in events.Scalars("scale1/reconstruction")]
    assert logged == pytest.approx([float(row["reconstruction"]) for row in rows if row["scale"] == "1"], rel=1e-5)
    for name in ("losses.png", "scale0.png", "scale1.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert Config.from_dict(json.loads((tmp_path / "config.json").read_text())).task == "jpeg"


def test_dry_run_prints_the_settings_and_makes_nothing(tmp_path, capsys):
    assert run(tmp_path / "new", "--task", "sr", "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["longest_side"] == 24
    assert not (tmp_path / "new").exists()


def test_a_narrow_code_page_takes_the_name_of_every_folder(tmp_path, monkeypatch):
    page = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", page)
    folder = tmp_path / "Größe-\u6f22"
    assert run(folder, "--task", "denoise") == 0
    assert export.main([str(folder)]) == 0
    page.flush()
    said = page.buffer.getvalue().decode("cp1252")
    assert "Größe-\\u6f22" in said
    assert "sha256" in said


def test_a_run_is_never_overwritten(tmp_path, capsys):
    run(tmp_path, "--task", "denoise")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert run(tmp_path, "--task", "denoise") == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_resuming_with_other_settings_is_refused(tmp_path, capsys):
    run(tmp_path, "--task", "denoise")
    assert train.main(["--out", str(tmp_path), "--resume", "--lr", "1"]) == 2
    assert "'lr': 1.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "no checkpoint to resume"),
        (["--task", "rain"], "name your own with --distortion"),
        (["--task", "sr", "--no-upscale"], "no distortion to learn from"),
        (["--image", "no-such-file.png"], "cannot read no-such-file.png"),
        (["--image", "skimage:nobody"], "no such photograph"),
        (["--jpeg-quality", "90", "10"], "jpeg-quality must be"),
        (["--task", "motion", "--motion-length", "5", "1000"], "motion-length must be 0 <= low <= high <= 100"),
        (["--distortion", "wepb", "--task", "mine"], "'wepb' is no built-in one"),
        (["--distortion", "my:rain"], "needs a name for its loss: --task NAME"),
        (["--distortion", "cp {in} result", "--task", "mine"], "{out} is missing"),
        (["--distortion", "webp", "jpeg", "--task", "mine", "--distortion-weights", "1"], "one number for each"),
        (["--distortion", "webp", "jpeg", "--task", "mine", "--distortion-weights", "1", "-1"], "must be positive"),
        (["--channels", "8", "8", "8"], "one per scale"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--device", "cuda:99"], "no CUDA device"),
    ],
)
def test_bad_settings_end_with_a_clear_error_before_any_work(tmp_path, capsys, flags, message):
    if "--device" in flags and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert run(tmp_path / "new", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_losses_that_explode_stop_the_run(tmp_path, capsys):
    assert run(tmp_path, "--task", "denoise", "--lr", "1e38", "--steps", "30") == 2
    assert "stopped being finite" in capsys.readouterr().err


def test_own_image_and_distortion(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rain.py").write_text("def fall(image, generator): return image.roll(1, -1)\n")
    Image.effect_noise((40, 30), 60).save("photo.png")
    flags = ["--task", "rain", "--distortion", "rain:fall", "--image", "photo.png", "--image-licence", "mine"]
    assert run(tmp_path / "run", *flags) == 0
    loss = TaskLoss(export.export(RunFolder(tmp_path / "run")))
    assert loss.weights_info["image"]["name"] == "photo.png"
    assert loss.weights_info["image"]["licence"] == "mine"
