"""The worked examples: their commands run as they stand, and end in a verdict."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from training.builtin import BUILTIN

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
EXAMPLES = {
    section.split()[0].strip("`:"): re.findall(r"^    python (-m training\..*)$", section, re.MULTILINE)
    for section in PAGE.split("\n## ")
    if section.startswith("`")
}


def test_every_example_trains_exports_and_judges() -> None:
    assert EXAMPLES.keys() <= BUILTIN.keys()
    assert len(EXAMPLES) == 3
    for commands in EXAMPLES.values():
        assert [shlex.split(command)[1] for command in commands[:3]] == [
            "training.train",
            "training.export",
            "training.judge",
        ]


@pytest.mark.slow  # minutes: trains losses and small networks
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if lacking := BUILTIN[name].lacking():
        pytest.skip(f"needs {lacking}")
    for command in EXAMPLES[name]:
        words = [sys.executable, *shlex.split(command, comments=True)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/judge/judge.json")
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["recognition"]["share"]["low"] > 0.5  # whatever the machine, the critics know their distortion
    assert re.match("Worth using|Not worth using|No case for using it|No verdict", figures["verdict"])
