"""Where settings come from that nobody names."""

import json
import re
import shlex
from dataclasses import replace

import pytest

from task_losses.architecture import DISTANCES
from training import train
from training.builtin import BUILTIN
from training.config import KERNELS, Config
from training.objectives import OBJECTIVES
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
    assert [first["texture_pull"], second["texture_pull"]] == [2.4, 1.2]


@pytest.mark.parametrize("name", [name for name in BUILTIN if name not in RECIPES])
def test_a_built_in_distortion_gets_what_is_recommended_for_ones_own(name, capsys):
    own = settings(capsys, "--task", "rain", "--distortion", "my_module:add_rain")
    assert settings(capsys, "--task", name) == replace(own, task=name, distortion=None)


def help_text(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    return capsys.readouterr().out


def test_help_has_sections_choices_and_examples_that_work(capsys):
    text = help_text(capsys)
    sections = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert len(sections) >= 7
    assert len(set(sections)) == len(sections)
    options = text.partition("options:")[2].partition("the run:")[0]
    assert re.findall(r"--[\w-]+", options) == ["--help"], "every other flag stands in a section"
    for choices in (OBJECTIVES, DISTANCES, KERNELS):
        assert f"{{{','.join(choices)}}}" in text
    examples = re.findall(r"^ +python -m training\.train (.*)$", text.replace("\\\n", ""), re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        assert settings(capsys, *shlex.split(example)).image == "photo.jpg"


@pytest.mark.parametrize("flag", ["--objective", "--distance", "--kernels"])
def test_a_choice_that_there_is_not_is_refused_with_those_there_are(flag, capsys):
    with pytest.raises(SystemExit):
        train.main([flag, "no-such"])
    assert "invalid choice: 'no-such' (choose from" in capsys.readouterr().err
