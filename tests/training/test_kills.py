"""Trainings that are stopped at any moment, also in the middle of a write: nothing is lost, and the end is the same."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from kills import killed_at, killed_past

from task_losses.files import remove_partials
from training.checkpoint import write_checkpoint
from training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, for children that are killed")

# Steps of the training below that open or change files of its folder; 30 of them write checkpoints.
STEPS = 59
# Of bytes: where files of it are cut short. Its checkpoints have 117 kB; losses.png 24, pictures 5, settings 1 kB.
SIZES = (0, 200, 1000, 3000, 20_000, 60_000, 90_000, 110_000, 117_000)

OLD, NEW = torch.zeros(10**5), torch.ones(10**5)

# Children of a process that has computed nothing yet: threads do not survive a fork. What is slow to import is there
# before. Each folder is that of one moment.
START = """
import sys
from pathlib import Path
from kills import killed_at, killed_past, without_disk_from, without_room_past
import matplotlib.figure, torch._dynamo, tensorboard.summary.writer.record_writer
from training import train
base, kind, number, *moments = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
flags = "--task denoise --scales 2 --longest-side 24 --channels 4 --steps 6 --checkpoint-every 2 --threads 1".split()
def attempt():
    return train.main(["--out", str(out), *flags, *(["--resume"] if (out / "config.json").exists() else [])])
"""

STOP = """
stopped = []
for moment in moments:
    out = base / str(moment)
    if kind == "size":
        stopped.append(killed_past(moment, attempt))
        killed_past(max(moment, 1500), attempt)  # and again, while it goes on
    else:
        stopped.append(killed_at(moment, attempt, number, out))
        killed_at(moment // 3, attempt, number, out)
    killed_at(10**9, attempt)
print("stopped:", sum(stopped))
"""

FAIL = """
for moment in moments:
    out = base / str(moment)
    sys.stderr.write(f"\\n== {moment}\\n")
    sys.stderr.flush()
    result = without_room_past(moment, attempt) if kind == "size" else without_disk_from(moment, attempt, out, number)
    sys.stderr.write(f"\\n-- {result}\\n")
    sys.stderr.flush()
    without_disk_from(10**9, attempt, out, number)
"""


def child(code: str, base: Path, kind: str, number: int, moments: Sequence[int]) -> subprocess.CompletedProcess[str]:
    """What a process of its own says that trains once for each moment, a step or a size."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", START + code, str(base), kind, str(int(number)), *map(str, moments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def trained(base: Path, moments: Sequence[int], number: int = signal.SIGKILL, kind: str = "step") -> int:
    """How many of the trainings were stopped the first time."""
    return int(child(STOP, base, kind, number, moments).stdout.split("stopped:")[-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("whole")
    assert trained(base, [10**6]) == 0
    return base / str(10**6)


def finished(path: Path) -> list[torch.Tensor]:
    return [x for scale in RunFolder(path).load_checkpoint()["finished"] for x in scale.values()]


def assert_the_same(out: Path, whole: Path) -> None:
    """Weights and log, bit by bit, and nothing left beside them."""
    assert all(torch.equal(a, b) for a, b in zip(finished(whole), finished(out), strict=True))
    assert (out / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
    assert not [*out.glob(".*.partial")]


def spread(count: int, seed: int) -> list[int]:
    """Random steps but the first, one in each of so many parts of the training: some are inside of checkpoints."""
    edges = [1 + (STEPS - 1) * part // count for part in range(count + 1)]
    draws = random.Random(seed)
    return [draws.randrange(low, high) for low, high in pairwise(edges)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_training_stopped_at_random_moments_ends_bit_identical(
    number: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    moments = spread(20, seed=number)
    assert trained(tmp_path, moments, number) == len(moments)
    for moment in moments:
        assert_the_same(tmp_path / str(moment), whole)


@pytest.mark.slow
def test_a_training_killed_in_the_middle_of_a_write_ends_bit_identical(whole: Path, tmp_path: Path) -> None:
    assert trained(tmp_path, SIZES, kind="size") == len(SIZES)
    for size in SIZES:
        assert_the_same(tmp_path / str(size), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code", "moments"),
    [
        # From a step on; of each file some: settings, lock, log, events, checkpoints, pictures.
        pytest.param("step", errno.ENOSPC, [*range(0, 38, 2)], id="full"),
        pytest.param("step", errno.EROFS, [*range(0, 38, 2)], id="read-only"),
        # In the middle of a write.
        pytest.param("size", errno.EFBIG, SIZES, id="full in the middle"),
    ],
)
def test_a_disk_that_fails_at_any_write_costs_a_line_and_nothing_else(
    kind: str, code: int, moments: Sequence[int], whole: Path, tmp_path: Path
) -> None:
    parts = child(FAIL, tmp_path, kind, code, moments).stderr.split("\n== ")[1:]
    assert len(parts) == len(moments)
    for part in parts:
        said, _, rest = part.partition("\n-- ")
        assert "Traceback" not in said, said
        assert rest.startswith(("0", "2")), part
        if rest.startswith("2"):
            assert os.strerror(code) in said.strip().splitlines()[-1]
    for moment in moments:
        assert_the_same(tmp_path / str(moment), whole)


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


def test_a_kill_in_the_middle_of_a_checkpoints_write_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, {"x": OLD})
    for size in (0, 1, 1000, path.stat().st_size - 1):
        assert killed_past(size, lambda: write_checkpoint(path, {"x": NEW}))
        assert torch.equal(torch.load(path, weights_only=True)["x"], OLD)
        (left,) = tmp_path.glob(".checkpoint.pt.*.partial")
        assert left.stat().st_size == size  # it was in the middle
        remove_partials(path)
    assert not killed_past(path.stat().st_size, lambda: write_checkpoint(path, {"x": NEW}))
    assert torch.equal(torch.load(path, weights_only=True)["x"], NEW)
