"""Where compiled kernels are kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.cache import kernel_cache

ROOT = Path(__file__).resolve().parents[2]


def test_the_users_cache_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert kernel_cache() == tmp_path / "own" / "task-losses" / "kernels"
    assert kernel_cache().is_dir()
    for unusable in ("", "relative/cache"):  # the XDG specification: a relative path is to be ignored
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert kernel_cache() == tmp_path / "home" / ".cache" / "task-losses" / "kernels"


def nobody_knows() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("home", ["unknown", "a file"])
def test_without_a_home_the_folder_is_this_users_alone(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "unknown":
        monkeypatch.setattr(Path, "home", nobody_knows)  # what Python does for a user id without an entry
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    folder = kernel_cache()
    assert folder == kernel_cache(), "one folder for the process"
    (folder / "written").touch()
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_without_a_home_goes_with_its_process(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    code = "from training.cache import kernel_cache; print(kernel_cache(), kernel_cache().is_dir())"
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, "HOME": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, existed = child.stdout.split()
    assert existed == "True"
    assert not Path(folder).exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = kernel_cache()
    assert own == tmp_path / "task-losses" / "kernels"
    assert own.stat().st_mode & 0o777 == 0o700
    os.chown(own, 65534, 65534)
    assert own not in (kernel_cache(), *kernel_cache().parents)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root becomes another user")
def test_a_user_whom_nobody_knows_has_a_folder(tmp_path: Path) -> None:
    code = """
import os
from training.cache import kernel_cache
os.environ.pop("HOME", None), os.environ.pop("XDG_CACHE_HOME", None)
os.setgid(54321), os.setuid(54321)
folder = kernel_cache()
(folder / "written").touch()
print(oct(folder.stat().st_mode & 0o777), folder.stat().st_uid)
"""
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["0o700", "54321"]
