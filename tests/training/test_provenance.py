"""What a file was made with: the commit of the code, and of nothing else."""

import subprocess
from pathlib import Path

import pytest

from training.provenance import code_commit


def repository(folder: Path) -> str:
    """A repository in a folder, with one commit, which is returned."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("content")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return head.stdout.strip()


def test_the_codes_own_repository_is_named(tmp_path: Path) -> None:
    commit = repository(tmp_path / "code")
    assert code_commit(tmp_path / "code") == commit
    (tmp_path / "link").symlink_to(tmp_path / "code")
    assert code_commit(tmp_path / "link") == commit
    (tmp_path / "code" / "file").write_text("changed")
    assert code_commit(tmp_path / "code") == f"{commit}-dirty"


def test_a_repository_around_the_code_is_not_the_codes(tmp_path: Path) -> None:
    repository(tmp_path / "home")
    code = tmp_path / "home" / "unpacked"
    code.mkdir()
    assert code_commit(code) == "unknown"


def test_no_repository_is_unknown(tmp_path: Path) -> None:
    assert code_commit(tmp_path) == "unknown"


def test_gits_variables_name_no_other_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of git sets them for whatever it starts."""
    commit, other = repository(tmp_path / "code"), repository(tmp_path / "other")
    (tmp_path / "other" / "file").write_text("changed")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "code"))
    assert code_commit(tmp_path / "code") == commit
    assert other
