"""Several runs at once: the same results as one by one."""

import json

import pytest
import torch

from training import train
from training.run_folder import RunFolder

SMALL = ["--scales", "2", "--longest-side", "22", "--channels", "4", "--steps", "3", "--checkpoint-every", "2"]
SWEEP = {
    "noise": {"task": "denoise", "seed": 3},
    "codec": {"task": "jpeg", "jpeg-quality": [5, 30]},
    "paper": {"task": "denoise", "generator": True},
}


def run(out, *flags):
    return train.main(["--out", str(out), *SMALL, *flags])


def sweep_file(folder, content):
    path = folder / "sweep.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def checkpoint(out):
    return RunFolder(out).load_checkpoint()


def assert_same_weights(first, second):
    for a, b in zip(first["finished"], second["finished"], strict=True):
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_runs_of_a_batch_equal_separate_runs(tmp_path):
    assert run(tmp_path / "all", "--batch-runs", sweep_file(tmp_path, SWEEP)) == 0
    alone = {
        "noise": ["--task", "denoise", "--seed", "3"],
        "codec": ["--task", "jpeg", "--jpeg-quality", "5", "30"],
        "paper": ["--task", "denoise", "--generator"],
    }
    for name, flags in alone.items():
        assert run(tmp_path / name, *flags) == 0
        assert_same_weights(checkpoint(tmp_path / "all" / name), checkpoint(tmp_path / name))
        logs = [(folder / "losses.csv").read_text() for folder in (tmp_path / "all" / name, tmp_path / name)]
        assert logs[0] == logs[1]
    weights = [checkpoint(tmp_path / "all" / name)["finished"][0]["last.weight"] for name in ("noise", "codec")]
    assert not torch.equal(*weights)


def test_a_batch_that_was_stopped_goes_on(tmp_path, monkeypatch):
    sweep = sweep_file(tmp_path, {name: SWEEP[name] for name in ("noise", "codec")})
    assert run(tmp_path / "whole", "--batch-runs", sweep) == 0
    honest, saved = RunFolder.save_checkpoint, []

    def dying(self, *arguments):
        honest(self, *arguments)
        saved.append(self.path.name)
        if len(saved) == 3:  # the first run is one checkpoint ahead of the second
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", dying)
        assert run(tmp_path / "broken", "--batch-runs", sweep) == 130
    assert saved == ["noise", "codec", "noise"]
    assert run(tmp_path / "broken", "--batch-runs", sweep, "--resume") == 0
    for name in ("noise", "codec"):
        assert_same_weights(checkpoint(tmp_path / "whole" / name), checkpoint(tmp_path / "broken" / name))


def test_a_batch_that_was_stopped_between_two_folders_goes_on(tmp_path, monkeypatch):
    sweep = sweep_file(tmp_path, {name: SWEEP[name] for name in ("noise", "codec")})
    honest = RunFolder.create

    def dying(self, *arguments):
        if self.path.name == "codec":
            raise KeyboardInterrupt
        honest(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "create", dying)
        assert run(tmp_path / "out", "--batch-runs", sweep) == 130
    assert not (tmp_path / "out" / "codec").exists()
    assert run(tmp_path / "out", "--batch-runs", sweep, "--resume") == 0
    assert all(len(checkpoint(tmp_path / "out" / name)["finished"]) == 2 for name in ("noise", "codec"))
    assert run(tmp_path / "none", "--batch-runs", sweep, "--resume") == 2


def test_the_back_end_is_on_record_and_may_change_when_resuming(tmp_path):
    assert run(tmp_path, "--task", "denoise", "--kernels", "reference") == 0
    assert json.loads(checkpoint(tmp_path)["origin"])["kernels"] == "reference"
    assert train.main(["--out", str(tmp_path), "--resume", "--kernels", "autograd"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"steps": 3}, "b": {"steps": 4}}, "steps is 3 in a and 4 in b: train them apart"),
        ({"a": {"channels": [4]}, "b": {"channels": [8]}}, "runs in one batch must share"),
        ({"a": {}, "b": {"image": "skimage:astronaut"}}, "crop the images to one shape, or train them apart"),
        ({"a": {"sed": 1}}, "a has settings that do not exist: sed"),
        *(
            ({name: {}}, "cannot be the name of a folder")
            for name in ("../a", "..", ".", "", "/a", "a\\b", "a\0", "a\n")
        ),
        ({"a": {"steps": "3"}}, "steps must be a whole number, got '3'"),
        ({"a": {"lr": float("nan")}}, "lr must be a finite number, got nan"),
        ({"a": 1}, "expected JSON like"),
        ("{", "expected JSON like"),
        ("[" * 100_000, "expected JSON like"),
    ],
)
def test_sweeps_that_do_not_fit_are_refused_before_any_work(tmp_path, capsys, content, message):
    assert run(tmp_path / "out", "--batch-runs", sweep_file(tmp_path, content)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
