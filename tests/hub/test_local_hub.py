"""The Hub that a reader starts: what docs/examples.md says to do with it, done."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from subprocesses import ROOT

from task_losses.architecture import Architecture
from task_losses.weights import serialize_weights, tensor_shapes
from training import local_hub

SECTION = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8").split("\n## Share it")[1].split("\n## ")[0]
(SERVER,) = re.findall(r"^    python (-m training\.local_hub)", SECTION, re.MULTILINE)
(EXPORT,) = re.findall(r"^    export (.*)$", SECTION, re.MULTILINE)
(COMMAND,) = re.findall(r"^    task-losses (.*)$", SECTION, re.MULTILINE)
(CODE,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
REPOSITORY = "me/webp"


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """What the page's training leaves, as far as sharing needs it."""
    form = Architecture(channels=(3, 4))
    tensors = {name: torch.full(shape, 0.1) for name, shape in tensor_shapes(form).items()}
    folder = tmp_path / "runs" / "webp"
    folder.mkdir(parents=True)
    (folder / "webp.safetensors").write_bytes(serialize_weights(tensors, form, {"task": "webp", "license": "cc0-1.0"}))
    Image.new("RGB", (8, 6)).save(folder / "scale7.png")
    return tmp_path


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, *shlex.split(SERVER), "--port", "0"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()


def test_what_the_page_says_can_be_done_without_an_account(
    server: subprocess.Popen[str], finished_run: Path, tmp_path: Path
) -> None:
    assert server.stdout is not None
    (said,) = [line for line in (server.stdout.readline(), server.stdout.readline()) if "export" in line]
    given = dict(word.split("=", 1) for word in shlex.split(said)[1:])
    assert f"HF_ENDPOINT=http://127.0.0.1:{local_hub.PORT} HF_TOKEN={given['HF_TOKEN']}" == EXPORT
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    words = [["-c", CODE], ["-m", "task_losses", *shlex.split(COMMAND)]]
    shown = [
        subprocess.run(
            [sys.executable, *each], cwd=finished_run, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for each in words
    ]
    told = server.stdout.readline()
    commit = re.search(rf"{REPOSITORY}@([0-9a-f]{{40}}): README.md, webp.png, webp.safetensors", told)
    assert commit is not None
    assert shown[0].strip() == f"{REPOSITORY}@{commit[1]}"
    assert f"{REPOSITORY}@{commit[1]}" in shown[1]


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with local_hub.serving(local_hub.LocalHub()) as hub:
        assert local_hub.main(["--port", str(hub.port)]) == 2
    said = capsys.readouterr().err
    assert f"port {hub.port}" in said
    assert "--port 0" in said


def test_it_writes_for_nobody_without_the_token() -> None:
    import huggingface_hub

    with local_hub.serving(local_hub.LocalHub()) as hub:
        stranger = huggingface_hub.HfApi(endpoint=hub.endpoint, token=False)
        with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="401"):
            stranger.create_repo(REPOSITORY)
        assert not hub.repos
