"""A local Hub, a cache of one's own, and an environment in which no test meets the real Hub or a saved token."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# huggingface_hub reads these once, when it is imported; the tests import it late, like the package.
_HOME = tempfile.mkdtemp(prefix="hub-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in [*os.environ]:
    if _name.startswith(("HF_", "HUGGING")):
        del os.environ[_name]
os.environ.update(HF_HOME=_HOME, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import hubserver  # noqa: E402
from subprocesses import ROOT  # noqa: E402

from task_losses import sources, weights  # noqa: E402


@pytest.fixture(autouse=True)
def _clean_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_given_up", set())
    unpublished = {**weights.manifest(), "revision": None}
    monkeypatch.setattr(sources, "manifest", lambda: unpublished)
    monkeypatch.delenv("TASK_LOSSES_WEIGHTS", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def hub() -> Iterator[hubserver.LocalHub]:
    with hubserver.serve() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def released_files() -> dict[str, bytes]:
    """The package's own weight files, by name."""
    folder = ROOT / "task_losses" / "weights"
    names = [entry["filename"] for entry in weights.manifest()["weights"].values()]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def pinned(
    hub: hubserver.LocalHub, released_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The released weights on the local Hub, and a manifest in place that pins their commit."""
    commit = hub.publish("acme/released", released_files)
    content = {**weights.manifest(), "repo_id": "acme/released", "revision": commit}
    monkeypatch.setattr(sources, "manifest", lambda: content)
    (tmp_path / "pinned.json").write_text(json.dumps(content))
    return content


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets TASK_LOSSES_WEIGHTS."""
    return lambda value: monkeypatch.setenv("TASK_LOSSES_WEIGHTS", value)
