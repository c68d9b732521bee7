"""One command makes all weights."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from task_losses import TaskLoss
from task_losses.weights import manifest
from training import release, train
from training.config import Config
from training.recipes import RECIPES
from training.scale import Scale

ROOT = Path(__file__).parents[2]
SMALL = ["--scales", "2", "--longest-side", "22", "--channels", "4", "--checkpoint-every", "1000"]


def test_all_weights_come_from_one_command(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "denoise", {"steps": 3})
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
    honest = Scale.begin_step
    monkeypatch.setattr(Scale, "begin_step", lambda *arguments: steps.append(1) or honest(*arguments))
    flags = ["--out", str(tmp_path), "--tasks", "sr", *SMALL, "--steps", "2"]
    assert release.main(flags) == 0
    made = len(steps)
    assert release.main(flags) == 0
    assert len(steps) == made == 4


def test_tasks_without_a_recipe_are_refused(capsys):
    with pytest.raises(SystemExit):
        release.main(["--tasks", "rain"])
    assert "invalid choice: 'rain'" in capsys.readouterr().err


@pytest.mark.parametrize("task", RECIPES)
def test_a_task_by_itself_is_the_recipe_of_its_released_weights(task, capsys, tmp_path, monkeypatch):
    """The file holds every setting that made it; the manifest's command must mean just these."""
    monkeypatch.chdir(tmp_path)
    entry = manifest()["weights"][task]
    command, file = shlex.split(entry["command"]), ROOT / "task_losses" / "weights" / entry["filename"]
    assert command == ["python", "training/train.py", "--task", task]
    assert train.main([*command[2:], "--dry-run"]) == 0
    printed = Config.from_dict(json.loads(capsys.readouterr().out))
    assert printed == Config.from_dict(TaskLoss(file).weights_info["config"])


@pytest.mark.parametrize("task", ["sr", "denoise", pytest.param("jpeg", marks=pytest.mark.slow)])
def test_a_recipe_needs_less_than_two_gigabytes(task, tmp_path):
    """All scales at full size; more steps would take no more. In a process of its own, which measures itself."""
    pytest.importorskip("resource", reason="this system does not tell how much memory a process took")
    flags = ["--task", task, "--steps", "2", "--device", "cpu", "--out", str(tmp_path / "run")]
    code = (
        "import resource, sys; from training import train; assert train.main(sys.argv[1:]) == 0; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=True, cwd=ROOT)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    assert int(done.stdout.split()[-1]) * unit < 2e9
