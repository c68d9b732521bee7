"""Trainings that are stopped at any moment, also in the middle of a write: nothing is lost, and the end is the same."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kills import killed_at

from training.checkpoint import write_checkpoint
from training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, for children that are killed")

LAST = 60  # steps of the training below that open or change files of its folder; of 10 kinds, 24 for checkpoints

OLD, NEW = torch.zeros(10**5), torch.ones(10**5)

# Children of a process that has computed nothing yet: threads do not survive a fork. Each folder is that of one moment.
TRAIN = """
import sys
from pathlib import Path
from kills import killed_at
import matplotlib.figure, torch.utils.tensorboard
from training import train
base, number, *moments = Path(sys.argv[1]), *map(int, sys.argv[2:])
flags = "--task denoise --scales 2 --longest-side 24 --channels 4 --steps 6 --checkpoint-every 2 --threads 1".split()
def attempt():
    train.main(["--out", str(out), *flags, *(["--resume"] if (out / "config.json").exists() else [])])
stopped = []
for moment in moments:
    out = base / str(moment)
    stopped.append(killed_at(moment, attempt, number, out))
    killed_at(moment // 3, attempt, number, out)  # and again, while it goes on
    killed_at(10**9, attempt)
print("stopped:", sum(stopped))
"""


FAIL = """
import errno, sys
from pathlib import Path
from kills import without_disk_from
import matplotlib.figure, torch.utils.tensorboard
from training import train
base, code, *moments = Path(sys.argv[1]), *map(int, sys.argv[2:])
flags = "--task denoise --scales 2 --longest-side 24 --channels 4 --steps 6 --checkpoint-every 2 --threads 1".split()
def attempt():
    return train.main(["--out", str(out), *flags, *(["--resume"] if (out / "config.json").exists() else [])])
for moment in moments:
    out = base / str(moment)
    sys.stderr.write(f"\\n== {moment}\\n")
    sys.stderr.flush()
    result = without_disk_from(moment, attempt, out, code)
    sys.stderr.write(f"\\n-- {result}\\n")
    sys.stderr.flush()
    without_disk_from(10**9, attempt, out, code)
"""


def trained(base: Path, moments: list[int], number: int = signal.SIGKILL) -> int:
    """How many of the trainings were stopped the first time."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", TRAIN, str(base), str(int(number)), *map(str, moments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout.split("stopped:")[-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("whole")
    assert trained(base, [10**6]) == 0
    return base / str(10**6)


def finished(path: Path) -> list[torch.Tensor]:
    return [x for scale in RunFolder(path).load_checkpoint()["finished"] for x in scale.values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "count"),
    [
        pytest.param(signal.SIGKILL, 20, id="SIGKILL"),
        pytest.param(signal.SIGTERM, 20, id="SIGTERM"),
        pytest.param(signal.SIGINT, 20, id="SIGINT"),
    ],
)
def test_a_training_stopped_at_random_moments_ends_bit_identical(
    number: int, count: int, whole: Path, tmp_path: Path
) -> None:
    moments = random.Random(0).sample(range(1, LAST), count)
    assert trained(tmp_path, moments, number) == count
    for moment in moments:
        out = tmp_path / str(moment)
        assert all(torch.equal(a, b) for a, b in zip(finished(whole), finished(out), strict=True))
        assert (out / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
        assert not [*out.glob(".*.partial")]


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def test_a_disk_that_fails_at_any_write_costs_a_line_and_nothing_else(code: int, whole: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    moments = [*range(0, 36, 3)]  # of each file some: settings, lock, log, events, checkpoints, pictures
    command = [sys.executable, "-c", FAIL, str(tmp_path), str(code), *map(str, moments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    parts = done.stderr.split("\n== ")[1:]
    assert len(parts) == len(moments)
    for part in parts:
        said, _, rest = part.partition("\n-- ")
        # TensorBoard's own thread says at length that it failed.
        said = re.sub(r"Exception in thread .*?\nOSError: [^\n]*", "", said, flags=re.DOTALL)
        assert "Traceback" not in said, said
        assert rest.startswith(("0", "2")), part
        if rest.startswith("2"):
            assert os.strerror(code) in said.strip().splitlines()[-1]
    for moment in moments:
        out = tmp_path / str(moment)
        assert all(torch.equal(a, b) for a, b in zip(finished(whole), finished(out), strict=True))
        assert (out / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()


def test_a_kill_at_any_moment_of_a_checkpoint_leaves_the_old_one_or_the_new(tmp_path: Path) -> None:
    path, steps = tmp_path / "checkpoint.pt", set()
    for moment in itertools.count():
        write_checkpoint(path, {"x": OLD})
        if not killed_at(moment, lambda: write_checkpoint(path, {"x": NEW})):
            break
        found = torch.load(path, weights_only=True)["x"]
        assert torch.equal(found, OLD) or torch.equal(found, NEW)
        steps.add(found[0].item())
    assert steps == {0, 1}
