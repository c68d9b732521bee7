"""A sweep on a Ray cluster of two nodes, one of which dies."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from training import on_ray, train
from training.bench.study import quality
from training.lock import alone
from training.provenance import ROOT
from training.run_folder import RunFolder
from training.sweep_results import Result, unseen, write_results

SMALL = ["--scales", "2", "--longest-side", "22", "--channels", "4", "--checkpoint-every", "20"]
STEPS = ["--steps", "500"]
SWEEP = {"one": {"seed": 1}, "two": {"seed": 2}, "stubborn": {"seed": 3}, "codec": {"task": "jpeg"}}
# Fails the first time, as a full disk or a lost connection would.
METRIC = """
from pathlib import Path
def measure(weights):
    from task_losses import TaskLoss
    import torch
    weights = Path(weights)
    flag = weights.parent / "tried"
    if weights.parent.name == "stubborn":
        raise RuntimeError("always")
    if weights.parent.name == "one" and not flag.exists():
        flag.touch()
        raise OSError("once")
    return TaskLoss(weights)(torch.zeros(1, 3, 40, 40), torch.ones(1, 3, 40, 40)).item()
"""


def sweep_file(folder: Path, content: object = SWEEP) -> str:
    path = folder / "sweep.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def wait_for(there: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.frameworks
def test_a_node_dies_and_nothing_trained_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    (tmp_path / "my_metric.py").write_text(METRIC, encoding="utf-8")
    size = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        doomed = cluster.add_node(**size)
        out = tmp_path / "out"
        command = [sys.executable, "-m", "training.on_ray", sweep_file(tmp_path), "--out", str(out), *SMALL, *STEPS]
        command += [
            "--task",
            "denoise",
            "--address",
            cluster.address,
            "--retries",
            "2",
            "--metric",
            "my_metric:measure",
        ]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        started = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

        def interrupted() -> list[Path]:
            """Folders of trainings in their middle on the node that will die."""
            logs = out.glob("*/attempts.txt")
            there = [log.parent for log in logs if doomed.node_id in log.read_text(encoding="utf-8")]
            return [path for path in there if (path / "checkpoint.pt").exists() and not (path / "result.json").exists()]

        wait_for(interrupted)
        (victim,) = interrupted()
        cluster.remove_node(doomed, allow_graceful=False)
        said, errors = started.communicate(timeout=600)
        assert started.returncode == 1, errors
        assert "failed: stubborn: always" in said
        assert "3 of 4 trained" in said

        begun = (victim / "attempts.txt").read_text(encoding="utf-8").splitlines()
        assert begun[0].startswith("from step 0 ")
        assert int(begun[1].split()[2]) > 0  # it went on, and not from the start
        assert len((out / "stubborn" / "attempts.txt").read_text(encoding="utf-8").splitlines()) >= 3

        own = {"one": ["--seed", "1"], "two": ["--seed", "2"], "codec": ["--task", "jpeg"]}
        alone = ["--task", "denoise", *SMALL, *STEPS, "--threads", "1"]
        for name in {victim.name, "one"} & set(own):
            assert train.main([*alone, *own[name], "--out", str(tmp_path / "alone" / name)]) == 0
            pairs = zip(finished(out / name), finished(tmp_path / "alone" / name), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)

        with (out / "results.csv").open(encoding="utf-8") as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
        assert set(rows) == set(SWEEP)
        values = [float(row["value"]) for row in rows.values() if row["value"]]
        assert values == sorted(values)
        assert f"best by my_metric:measure: {next(iter(rows))}" in said
        assert int(rows["one"]["attempts"]) >= 2
        assert rows["stubborn"]["error"] == "always"
        assert (out / "results.png").stat().st_size > 0

        # Again, without the one that cannot be: everything is there.
        before = {path: path.read_text(encoding="utf-8") for path in out.glob("*/attempts.txt")}
        sweep_file(tmp_path, {name: settings for name, settings in SWEEP.items() if name != "stubborn"})
        again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert again.returncode == 0, again.stderr
        assert {path: path.read_text(encoding="utf-8") for path in before} == before
    finally:
        cluster.shutdown()


def finished(path: Path) -> list[torch.Tensor]:
    return [tensor for scale in RunFolder(path).load_checkpoint()["finished"] for tensor in scale.values()]


def test_a_trial_goes_on_where_the_last_attempt_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray: also where there is no checkpoint yet, and where all is done."""
    given = {"task": "denoise", "scales": 2, "longest_side": 22, "channels": (4,), "steps": 6, "checkpoint_every": 2}
    path, honest = tmp_path / "trial", RunFolder.save_checkpoint
    counts = iter(range(100))

    def dying(self: RunFolder, *arguments: object) -> None:
        if next(counts) == 0:
            raise OSError("no space")
        honest(self, *arguments)  # type: ignore[arg-type]
        if next(counts) > 4:
            raise KeyboardInterrupt

    def attempt() -> object:
        return on_ray.trial(path, given, "recommended", None, "here")

    monkeypatch.setattr(RunFolder, "save_checkpoint", dying)
    with pytest.raises(OSError, match="no space"):
        attempt()
    with pytest.raises(KeyboardInterrupt):
        attempt()
    monkeypatch.setattr(RunFolder, "save_checkpoint", honest)
    result = attempt()
    assert attempt() == result
    steps = [line.split()[2] for line in (path / "attempts.txt").read_text(encoding="utf-8").splitlines()]
    assert len(steps) == 3
    assert steps[:2] == ["0", "0"]
    assert int(steps[2]) > 0
    assert (path / "denoise.safetensors").exists()
    assert len((path / "losses.csv").read_text(encoding="utf-8").splitlines()) == 1 + 12


def test_a_look_keeps_nobody_out_and_an_end_lets_others_in(tmp_path: Path) -> None:
    given = {"task": "denoise", "scales": 1, "longest_side": 22, "channels": (4,), "steps": 1}
    path = tmp_path / "trial"
    for _ in range(2):  # trained, and looked up
        on_ray.trial(path, given, "recommended", None, "here")
        with alone(path / "run.lock"):
            pass
    seen = on_ray.open_trial(path, given, "recommended", look=True)
    with alone(path / "run.lock"):
        with pytest.raises(BlockingIOError, match="in use by process"):
            on_ray.trial(path, given, "recommended", None, "there")
        assert seen.checkpoint is not None


def test_what_another_node_wrote_elsewhere_is_missed(tmp_path):
    result = Result("denoise.safetensors", None, None, 1)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / result.weights).touch()
    missed = unseen(tmp_path, {"here": result, "gone": result})
    assert set(missed) == {"gone"}
    assert "--out must be a folder that all nodes share" in missed["gone"]


def test_the_table_has_the_best_first_and_what_failed_last(tmp_path):
    folders = {name: tmp_path / name for name in ("a", "b")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "losses.csv").write_text("step,scale,critic_distance\n0,0,1.0\n1,0,0.5\n")
    results = {name: Result("w.safetensors", "m:f", value, 1) for name, value in (("a", 1.0), ("b", 2.0))}
    own = {"a": {"seed": 1}, "b": {}, "c": {}}
    for highest, order in ((False, "abc"), (True, "bac")):
        said = write_results(tmp_path, own, results, {"c": "no"}, highest)
        with (tmp_path / "results.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert "".join(row["name"] for row in rows) == order
        assert f"best by m:f: {order[0]}, " in said
        assert "failed: c: no" in said
    assert json.loads(rows[1]["settings"]) == {"seed": 1}

    unmeasured = {name: results[name]._replace(metric=None, value=None) for name in "ba"}  # as they were done
    assert "best by" not in write_results(tmp_path, own, unmeasured, {}, False)
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a", "b"]  # as in the file


@pytest.mark.parametrize(
    ("content", "flags", "says"),
    [
        ({"a": {"seeds": 1}}, [], "settings that do not exist: seeds"),
        ({"a": {"steps": 0}}, [], "steps must be at least 1"),
        ({"a": {"image": "gone.png"}}, [], "gone.png"),
        ({"a": {}}, ["--metric", "gone:measure"], "expected module:function"),
        ({"a": {}}, ["--cpus", "100000"], "--cpus 100000, but this machine has"),
        ({"a": {}}, ["--gpus", "1000"], "--gpus 1000, but this machine has"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(tmp_path, capsys, content, flags, says):
    assert on_ray.main([sweep_file(tmp_path, content), "--out", str(tmp_path / "out"), *flags]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_says_what_to_install(tmp_path, capsys):
    assert on_ray.main([sweep_file(tmp_path, {"a": {}}), "--out", str(tmp_path / "out"), *SMALL]) == 2
    assert "the extra sweep" in capsys.readouterr().err


def test_other_settings_than_those_it_was_begun_with_are_refused(tmp_path, capsys):
    assert train.main(["--out", str(tmp_path / "a"), "--task", "denoise", *SMALL, "--steps", "3"]) == 0
    flags = ["--out", str(tmp_path), "--task", "denoise", *SMALL, "--steps", "4"]
    assert on_ray.main([sweep_file(tmp_path, {"a": {}}), *flags]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.frameworks
def test_a_study_that_is_spread_has_the_results_of_one_that_is_not(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        for seed in range(2):
            pixels = torch.randint(256, (96, 112, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / folder / f"{seed}.png")
    numbers = {"width": 4, "depth": 2, "batch": 1, "patch": 80, "start-steps": 4, "steps": 2, "crop": 48}
    flags = [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
    flags += ["--train-images", str(tmp_path / "train"), "--test-images", str(tmp_path / "test"), "--threads", "1"]
    flags += ["--tasks", "denoise", "jpeg", "--losses", "input", "l1", "ours~0.5", "--metrics", "psnr"]
    assert quality.main([*flags, "--out", str(tmp_path / "alone")]) == 0
    assert quality.main([*flags, "--out", str(tmp_path / "spread"), "--ray"]) == 0
    alone, spread = (
        {path.name: json.loads(path.read_text())["evaluations"] for path in (tmp_path / out / "cells").glob("*.json")}
        for out in ("alone", "spread")
    )
    assert len(alone) == 6
    assert spread == alone
