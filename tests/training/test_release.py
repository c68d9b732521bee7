"""One command makes all weights."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from task_losses import TaskLoss
from task_losses.weights import manifest
from training import release, train
from training.config import Config, add_flags, given_settings

ROOT = Path(__file__).parents[2]
SMALL = ["--scales", "2", "--longest-side", "22", "--channels", "4", "--checkpoint-every", "1000"]


def test_all_weights_come_from_one_command(tmp_path, monkeypatch):
    monkeypatch.setitem(release.RECIPES, "denoise", ["--steps", "3"])
    assert release.main(["--out", str(tmp_path), "--tasks", "sr", "denoise", *SMALL, "--steps", "2"]) == 0
    for task in ("sr", "denoise"):
        loss = TaskLoss(tmp_path / task / f"{task}.safetensors")
        assert loss.weights_info["task"] == task
        # Flags that are given win over the recipe's.
        assert json.loads((tmp_path / task / "config.json").read_text())["steps"] == 2
        entry = json.loads((tmp_path / task / "manifest_entry.json").read_text())
        assert entry["cost"]["kernels"] == "reference"  # which auto takes for 4 channels
        assert "kernels" not in entry["command"]
    assert not (tmp_path / "jpeg").exists()


def test_nothing_is_released_before_all_are_trained(tmp_path, monkeypatch):
    """A release changes the checkout, and a training records whether it was changed."""
    done = []
    honest = train.main
    monkeypatch.setattr(train, "main", lambda flags: done.append("train") or honest(flags))
    monkeypatch.setattr(release, "export", lambda folder, version: done.append(f"release {folder.path.name}"))
    flags = ["--out", str(tmp_path), "--tasks", "sr", "denoise", *SMALL, "--steps", "1"]
    assert release.main([*flags, "--release", "v9"]) == 0
    assert done == ["train", "train", "release sr", "release denoise"]


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


@pytest.mark.parametrize("task", ["sr", "denoise", pytest.param("jpeg", marks=pytest.mark.slow)])
def test_a_recipe_needs_less_than_two_gigabytes(task, tmp_path):
    """All scales at full size; more steps would take no more. In a process of its own, which measures itself."""
    pytest.importorskip("resource", reason="this system does not tell how much memory a process took")
    flags = ["--task", task, *release.RECIPES[task], "--steps", "2", "--device", "cpu", "--out", str(tmp_path / "run")]
    code = (
        "import resource, sys; from training import train; assert train.main(sys.argv[1:]) == 0; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=True, cwd=ROOT)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    assert int(done.stdout.split()[-1]) * unit < 2e9
