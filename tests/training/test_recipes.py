"""Where settings come from that nobody names."""

import json

import pytest

from training import train
from training.config import Config
from training.recipes import PAPER, RECIPES


def settings(capsys, *flags):
    assert train.main([*flags, "--dry-run"]) == 0, capsys.readouterr().err
    return Config.from_dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("task", RECIPES)
def test_flags_win_over_the_recipe(task, capsys):
    assert settings(capsys, "--task", task, "--steps", "7", "--channels", "8").steps == 7
    assert settings(capsys, "--task", task, "--steps", "7").channels == settings(capsys, "--task", task).channels


def test_a_distortion_of_ones_own_gets_the_recommended_settings(capsys):
    own = settings(capsys, "--task", "rain", "--distortion", "my_module:add_rain")
    assert (own.objective, own.spectral_norm, own.channels, own.upscale, own.steps) == (
        "hinge",
        True,
        (16,),
        False,
        200,
    )


@pytest.mark.parametrize("task", RECIPES)
def test_the_papers_form(task, capsys):
    paper = settings(capsys, "--task", task, "--recipe", "paper")
    assert paper.generator
    assert (paper.objective, paper.shared_norm, paper.taps, paper.wiener) == ("wgan-gp", False, (1, 4, 5), 0)
    assert all(getattr(paper, name) == value for name, value in PAPER.items())


def test_who_asks_for_wgan_gp_need_not_take_the_spectral_norm_back(capsys):
    assert not settings(capsys, "--task", "jpeg", "--objective", "wgan-gp").spectral_norm
    assert train.main(["--task", "jpeg", "--objective", "wgan-gp", "--spectral-norm", "--dry-run"]) == 2
    assert "for the objective hinge alone" in capsys.readouterr().err


def test_a_file_from_before_a_setting_means_what_was_done_then():
    assert Config.from_dict({"task": "sr", "wiener": 0, "upscale": True}).objective == "wgan-gp"


def test_runs_of_a_batch_have_each_their_recipe(tmp_path, capsys):
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps({"noise": {"task": "denoise"}, "codec": {"task": "jpeg"}}))
    assert train.main(["--batch-runs", str(sweep), "--out", str(tmp_path), "--dry-run"]) == 0
    decoder, text = json.JSONDecoder(), capsys.readouterr().out
    first, end = decoder.raw_decode(text)
    second, _ = decoder.raw_decode(text[end:].lstrip())
    assert [first["image_share"], second["image_share"]] == [0.6, 0.9]
