"""Files written whole or not at all."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from task_losses.files import remove_partials, replacing, write_file


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"one", b"", b"three"):
        write_file(path, content)
        assert path.read_bytes() == content
    assert [*tmp_path.iterdir()] == [path]


def test_a_writer_that_streams(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.pt") as partial:
        assert partial.parent == tmp_path, "a rename is one step only within a file system"
        torch.save({"x": torch.arange(3)}, partial)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["x"].tolist() == [0, 1, 2]
    assert [*tmp_path.iterdir()] == [tmp_path / "a.pt"]


@pytest.mark.parametrize("old", [b"old", None])
@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_half_way_leaves_what_was_there(
    old: bytes | None, interruption: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)

    def fail_half_way() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"ne")
            raise interruption

    with pytest.raises(interruption):
        fail_half_way()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({} if old is None else {"a.bin": old})


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    write_file(tmp_path / "a.bin", b"old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.bin"):
        pass
    assert (tmp_path / "a.bin").read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folder")
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noting_sync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"{os.fstat(descriptor).st_size} bytes"
        events.append(kind)
        sync(descriptor)

    def noting_replace(self: Path, target: Any) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    write_file(tmp_path / "a.bin", b"four")
    assert events == ["4 bytes", "rename", "folder"]


def test_a_file_system_that_syncs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_file(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / f".a.bin.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*/a\.bin'") as caught:
        write_file(tmp_path / "a.bin", b"much")
    assert caught.value.filename == str(tmp_path / "a.bin")
    assert [*tmp_path.iterdir()] == []


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {"a[1].pt", ".a[1].pt", ".b.pt.12.partial", ".a1.pt.12.partial"}
    for name in (*kept, ".a[1].pt.12.partial", ".a[1].pt.99999.partial"):
        (tmp_path / name).write_bytes(b"")
    remove_partials(tmp_path / "a[1].pt")
    assert {path.name for path in tmp_path.iterdir()} == kept
