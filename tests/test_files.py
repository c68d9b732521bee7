"""Files written whole or not at all."""

import itertools
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import killed_at

from task_losses.files import read_file, remove_partials, replacing, write_file


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
    def write() -> None:
        with replacing(tmp_path / "a.bin") as partial:
            partial.symlink_to("/dev/full")
            partial.write_bytes(b"much")

    with pytest.raises(OSError, match=r"No space left on device: .*/a\.bin'") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "a.bin")
    assert [*tmp_path.iterdir()] == []


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Also not what another process writes to a file whose name begins alike."""
    kept = {"a[1].pt", ".a[1].pt", ".b.pt.0123abcd.partial", ".a1.pt.0123abcd.partial", ".a[1].pt.new.0123abcd.partial"}
    for name in (*kept, ".a[1].pt.0123abcd.partial", ".a[1].pt.99999999.partial"):
        (tmp_path / name).write_bytes(b"")
    remove_partials(tmp_path / "a[1].pt")
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, for children that are killed")
@pytest.mark.parametrize("old", [b"old", None])
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new(old: bytes | None, tmp_path: Path) -> None:
    path, found = tmp_path / "a.bin", set()
    for moment in itertools.count():
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        if not killed_at(moment, lambda: write_file(path, b"new")):
            break
        found.add(path.read_bytes() if path.exists() else None)
        remove_partials(path)
        assert {file.name for file in tmp_path.iterdir()} <= {path.name}
    assert found == {old, b"new"}
    assert path.read_bytes() == b"new"


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path, contents = tmp_path / "a.bin", [bytes([number]) * 10**5 for number in range(8)]
    failures: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(20):
                write_file(path, content)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert path.read_bytes() in contents
    assert [*tmp_path.iterdir()] == [path]


# Reading


def test_a_file_of_the_size_that_is_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"", b"x" * 10):
        path.write_bytes(content)
        assert read_file(path, 10) == content
    with pytest.raises(OSError, match="10 bytes, at most 9 are read"):
        read_file(path, 9)


def test_a_file_that_says_it_is_empty_and_never_ends_is_left(tmp_path: Path) -> None:
    """As those of /proc do: what is read counts, not what the file system says."""
    path = Path("/proc/self/maps")
    if not path.exists():
        pytest.skip("needs /proc")
    assert path.stat().st_size == 0
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_file(path, 10)


@pytest.mark.parametrize("name", ["missing", "folder", "a\0b", "x" * 5000])
def test_what_is_no_file_is_an_oserror(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"."):
        read_file(tmp_path / name, 10)
