"""What needs processes or file systems of its own: one cache for several, kills, read-only and full disks."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hubserver import Fault, LocalHub
from subprocesses import finish, start

from task_losses import JPEGLoss, WeightsUnavailable, weights

Mode = Callable[[str], None]
ENTRY = weights.manifest()["weights"]["jpeg"]
FILE, SHA256 = ENTRY["filename"], ENTRY["sha256"]
LOAD = "loss = JPEGLoss(cache_dir='cache'); print(loss.weights_source, loss.weights_sha256)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, so that the processes start at the same moment")
@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_share_a_cache(count: int, hub: LocalHub, pinned: Any, tmp_path: Path) -> None:
    code = f"""
import os
children = []
for _ in range({count}):
    children.append(os.fork())
    if not children[-1]:
        loss = JPEGLoss(cache_dir="cache")
        pathlib.Path(f"{{os.getpid()}}.loaded").write_text(f"{{loss.weights_source}} {{loss.weights_sha256}}")
        os._exit(0)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
    # Nobody gets the file before all have asked for it, so that all put it into the cache at once.
    hub.faults.append(Fault(FILE, method="GET", until=lambda: len(hub.requests("GET")) >= count))
    finish(start(code, tmp_path, HF_ENDPOINT=hub.endpoint, TASK_LOSSES_WEIGHTS="hub"))
    assert [path.read_text() for path in tmp_path.glob("*.loaded")] == [f"hub {SHA256}"] * count
    assert not list(tmp_path.rglob("*.partial"))
    assert len(hub.requests("GET")) == count
    assert [path.name for path in tmp_path.rglob("blobs/*")] == [SHA256]


def test_killed_while_downloading(hub: LocalHub, pinned: Any, tmp_path: Path, cache: Path, mode: Mode) -> None:
    hub.faults.append(Fault(FILE, method="GET", pace=60))
    process = start(LOAD, tmp_path, HF_ENDPOINT=hub.endpoint, TASK_LOSSES_WEIGHTS="hub")
    deadline = time.monotonic() + 60
    while not hub.requests("GET") and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # the first part of the file has arrived
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not list(cache.rglob(FILE))
    hub.faults.clear()
    mode("hub")
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert (loss.weights_source, loss.weights_sha256) == ("hub", SHA256)


def test_file_size_limit(hub: LocalHub, pinned: Any, tmp_path: Path, cache: Path, mode: Mode) -> None:
    """As on a full disk, writing stops half way; this needs no privileges."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try: {LOAD}
except WeightsError as error: print(type(error).__name__, error)
"""
    printed = finish(start(code, tmp_path, HF_ENDPOINT=hub.endpoint, TASK_LOSSES_WEIGHTS="hub"))
    assert printed.startswith("WeightsUnavailable ")
    assert os.strerror(errno.EFBIG) in printed
    assert "is full" in printed
    assert not list(cache.rglob(FILE))
    mode("hub")
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_sha256 == SHA256


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half the size of a weight file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={ENTRY['size'] // 2}"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"mounting a file system is not permitted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.filterwarnings("ignore:Not enough free disk space:UserWarning")  # the client's own words on the matter
def test_full_disk(hub: LocalHub, pinned: Any, small_disk: Path, mode: Mode) -> None:
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=small_disk).weights_source == "embedded"
    mode("hub")
    with pytest.raises(WeightsUnavailable, match=rf"{small_disk}' is full: .*make room") as raised:
        JPEGLoss(endpoint=hub.endpoint, cache_dir=small_disk)
    assert os.strerror(errno.ENOSPC) in str(raised.value)
    assert not list(small_disk.rglob(FILE))
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=small_disk).weights_source == "hub"


def test_read_only_cache(hub: LocalHub, pinned: Any, small_disk: Path, mode: Mode) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=small_disk).weights_source == "embedded"
    mode("hub")
    with pytest.raises(WeightsUnavailable, match=rf"{small_disk}' is not writable: .*cache_dir= or HF_HOME"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=small_disk)
    subprocess.run(["mount", "-o", "remount,rw,size=8m", small_disk], check=True)
    JPEGLoss(endpoint=hub.endpoint, cache_dir=small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    asked = len(hub.log)
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=small_disk).weights_source == "cache"
    assert len(hub.log) == asked


def test_cache_that_is_a_file(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    cache.write_text("in the way")
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "embedded"
    mode("hub")
    with pytest.raises(WeightsUnavailable, match="cache"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
