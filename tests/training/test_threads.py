"""How many threads a training takes."""

import os
import subprocess
import sys

import pytest
import torch

from training.threads import available, use_threads


@pytest.fixture
def groups(tmp_path):
    """Writes control groups below a folder, and the file that names this process's own."""

    def write(own, **files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (tmp_path / "own").write_text(own)
        return {"cgroups": tmp_path, "own": tmp_path / "own"}

    return write


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("9900000 100000", 8)],
)
def test_quota_of_version_2(groups, content, expected):
    assert available(**groups("0::/job\n", job__cpu_DOT_max=content + "\n")) == expected


def test_the_tightest_group_above_counts(groups):
    files = {"a__cpu_DOT_max": "300000 100000\n", "a__b__cpu_DOT_max": "max 100000\n", "cpu_DOT_max": "500000 100000\n"}
    assert available(**groups("0::/a/b\n", **files)) == 3


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3), ("50000", 1)])
def test_quota_of_version_1(groups, quota, expected):
    files = {"cpu,cpuacct__job__cpu_DOT_cfs_quota_us": quota, "cpu,cpuacct__job__cpu_DOT_cfs_period_us": "100000\n"}
    own = "5:cpuset:/other\n4:cpu,cpuacct:/job\n0::/\n"
    assert available(**groups(own, cpuset__other__cpu_DOT_max="100000 100000", **files)) == expected


def test_in_a_container_the_quota_lies_at_the_mount(groups):
    assert available(**groups("0::/host/path/unseen\n", cpu_DOT_max="200000 100000\n")) == 2


def test_affinity_counts(groups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 6}, raising=False)
    assert available(**groups("0::/\n", cpu_DOT_max="max 100000\n")) == 3


def test_without_control_groups(tmp_path):
    assert available(cgroups=tmp_path, own=tmp_path / "none") == 8


def test_use_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert use_threads(3) == torch.get_num_threads() == 3
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
        assert use_threads() == torch.get_num_threads() == 1
        with pytest.raises(ValueError, match="at least 1, got 0"):
            use_threads(0)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_torch_is_told_to_sleep_at_barriers_unless_the_user_says_otherwise(given, expected):
    said = "import sys, os, training; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    found = subprocess.run([sys.executable, "-c", said], env=plain | given, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [expected, "False"]  # later would be too late
