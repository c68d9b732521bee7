"""``task-losses download`` and ``verify`` against a local Hub, in processes of their own."""

import json
from pathlib import Path
from typing import Any

from hubserver import LocalHub
from subprocesses import finish, start

from task_losses.weights import MANIFEST, manifest

PROGRAM = """
from task_losses.__main__ import main
for arguments in {calls}:
    print(">", main(arguments + ["--cache-dir", "cache"]), flush=True)
"""


def run(hub: LocalHub, folder: Path, *calls: list[str]) -> list[tuple[int, list[str]]]:
    """Exit code and printed lines of each call; ``folder`` holds the cache, and the manifest if it is pinned."""
    out = finish(start(PROGRAM.format(calls=list(calls)), folder, HF_ENDPOINT=hub.endpoint))
    results: list[tuple[int, list[str]]] = []
    lines: list[str] = []
    for line in out.splitlines():
        if line.startswith("> "):
            results.append((int(line[2:]), lines))
            lines = []
        else:
            lines.append(line)
    return results


def test_download_fills_the_cache_and_verify_checks_it(hub: LocalHub, pinned: dict[str, Any], tmp_path: Path) -> None:
    before, first, second, after = run(hub, tmp_path, ["verify"], ["download"], ["download"], ["verify"])
    assert [code for code, _ in (before, first, second, after)] == [0, 0, 0, 0]
    assert [line.split()[0] for line in before[1]] == ["ok", "absent"] * 3
    assert all(line.endswith("  downloaded") for line in first[1])
    assert all(line.endswith("  was in the cache") for line in second[1])
    assert [line.split()[0] for line in after[1]] == ["ok"] * 6
    for (task, entry), line in zip(pinned["weights"].items(), first[1], strict=True):
        assert line.startswith(task)
        assert entry["sha256"] in line


def test_verify_finds_a_changed_byte_in_the_cache(hub: LocalHub, pinned: dict[str, Any], tmp_path: Path) -> None:
    run(hub, tmp_path, ["download", "--task", "jpeg"])
    (blob,) = (path for path in (tmp_path / "cache").rglob("blobs/*") if path.is_file())
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    ((code, lines),) = run(hub, tmp_path, ["verify", "--task", "jpeg"])
    assert code == 1
    assert [line.split()[0] for line in lines] == ["ok", "FAILED"]
    assert pinned["weights"]["jpeg"]["sha256"] in lines[1]


def test_without_a_published_version_there_is_nothing_to_download(hub: LocalHub, tmp_path: Path) -> None:
    program = "sources.manifest = lambda: {'revision': None}" + PROGRAM.format(calls=[["download"]])
    out = finish(start(program, tmp_path, HF_ENDPOINT=hub.endpoint))
    assert out.count("nothing to download") == 3
    assert out.endswith("> 0")
    assert hub.log == []


def test_download_of_a_repository(hub: LocalHub, released_files: dict[str, bytes], tmp_path: Path) -> None:
    commit = hub.publish("acme/mine", {**released_files, MANIFEST: json.dumps(manifest()).encode()})
    found, missing = run(hub, tmp_path, ["download", "acme/mine", "--task", "sr"], ["download", "acme/missing"])
    assert found[0] == 0
    assert f"acme/mine@{commit}" in found[1][0]
    assert manifest()["weights"]["sr"]["sha256"] in found[1][0]
    assert missing == (1, [])
