"""From publication to a user: publish, pin, build, install elsewhere, load from the Hub, load from the cache."""

import json
import os
import shutil
from pathlib import Path

import pytest
from fresh_install import build_wheel, install, run
from hubserver import LocalHub
from subprocesses import ROOT

from task_losses.weights import MANIFEST
from training import publish

USE = """
import os, sys
import torch, task_losses
from task_losses import JPEGLoss
torch.manual_seed(0)
images = torch.rand(2, 3, 64, 48), torch.rand(2, 3, 64, 48)
loss = JPEGLoss(pretrained=True)
os.environ["TASK_LOSSES_WEIGHTS"] = "embedded"
embedded = JPEGLoss(pretrained=True)
same = loss.weights_sha256 == embedded.weights_sha256 and torch.equal(loss(*images), embedded(*images))
print(loss.weights_source, embedded.weights_source, same, task_losses.__file__)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the wheel is built from, for a repository of the local Hub's user."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "task_losses", folder / "task_losses", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    content = json.loads((ROOT / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps({**content, "repo_id": "tester/released", "revision": None}))
    return folder


def test_publish_then_use(project: Path, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    options = ["--manifest", str(project / MANIFEST), "--endpoint", hub.endpoint]
    publish.main([*options, "--weights", str(project / "task_losses" / "weights"), "--execute"])
    commit = json.loads((project / MANIFEST).read_bytes())["revision"]
    assert commit in hub.repos["tester/released"].commits
    python = install(build_wheel(project, tmp_path / "dist"), tmp_path)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "TASK_LOSSES_WEIGHTS": "hub"}
    hub.log.clear()
    source, embedded, same, file = run(python, "-c", USE, cwd=elsewhere, env=environment).split()
    assert (source, embedded, same) == ("hub", "embedded", "True")
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert [path for path in hub.requests("GET") if commit in path]
    asked = len(hub.log)
    source, embedded, same, file = run(python, "-c", USE, cwd=elsewhere, env=environment).split()
    assert (source, embedded, same) == ("cache", "embedded", "True")
    assert len(hub.log) == asked
