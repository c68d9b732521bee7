"""The loss in several processes: the cases of in_processes.py, started once for each number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from in_processes import CASES

SCRIPT = Path(__file__).parent / "in_processes.py"
ROOT = SCRIPT.parents[2]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Of each process."""
    count, folder = request.param, tmp_path_factory.mktemp("processes")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, SCRIPT, folder], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_with_several_processes(outcomes: list[dict[str, str]], name: str) -> None:
    for outcome in outcomes:
        if outcome[name].startswith("skipped: "):
            pytest.skip(outcome[name])
        assert not outcome[name], outcome[name]
