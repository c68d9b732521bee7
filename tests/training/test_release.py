"""One command makes all weights."""

import argparse
import json
import shlex

import pytest

from task_losses import TaskLoss
from task_losses.weights import manifest
from training import release, train
from training.config import Config, add_flags, given_settings

SMALL = ["--scales", "2", "--longest-side", "22", "--channels", "4", "--checkpoint-every", "1000"]


def test_all_weights_come_from_one_command(tmp_path, monkeypatch):
    monkeypatch.setitem(release.RECIPES, "denoise", ["--steps", "3"])
    assert release.main(["--out", str(tmp_path), "--tasks", "sr", "denoise", *SMALL, "--steps", "2"]) == 0
    for task in ("sr", "denoise"):
        loss = TaskLoss(tmp_path / task / f"{task}.safetensors")
        assert loss.weights_info["task"] == task
        # Flags that are given win over the recipe's.
        assert json.loads((tmp_path / task / "config.json").read_text())["steps"] == 2
    assert not (tmp_path / "jpeg").exists()


def test_given_again_it_goes_on(tmp_path, monkeypatch):
    steps = []
    honest = train.Scale.step
    monkeypatch.setattr(train.Scale, "step", lambda *arguments: steps.append(1) or honest(*arguments))
    flags = ["--out", str(tmp_path), "--tasks", "sr", *SMALL, "--steps", "2"]
    assert release.main(flags) == 0
    made = len(steps)
    assert release.main(flags) == 0
    assert len(steps) == made == 4


def test_tasks_without_a_recipe_are_refused(capsys):
    with pytest.raises(SystemExit):
        release.main(["--tasks", "rain"])
    assert "invalid choice: 'rain'" in capsys.readouterr().err


@pytest.mark.parametrize("task", release.RECIPES)
def test_the_recipes_are_those_of_the_released_weights(task):
    parser = argparse.ArgumentParser()
    add_flags(parser)

    def config(flags):
        return Config(**given_settings(parser.parse_args(flags)))

    command = shlex.split(manifest()["weights"][task]["command"])
    assert command[:3] == ["python", "-m", "training.train"]
    assert config(["--task", task, *release.RECIPES[task]]) == config(command[3:])
