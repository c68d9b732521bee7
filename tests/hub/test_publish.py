"""training.publish against the local Hub, and the whole way from publication to a user's loss."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hubserver import Fault, LocalHub
from subprocesses import ROOT

from task_losses import JPEGLoss, WeightsIntegrity, sources
from task_losses.losses import LOSSES
from task_losses.weights import MANIFEST, parse_manifest
from training import publish
from training.local_hub import Repo

WEIGHTS = ROOT / "task_losses" / "weights"
FILES = {"LICENSE", "README.md", MANIFEST, *(path.name for path in WEIGHTS.glob("*.safetensors"))}
FILES |= {f"{task}.png" for task in LOSSES}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A copy of the repository's manifest, in a folder with its licence, for a repository of the local Hub's user."""
    content = json.loads((ROOT / MANIFEST).read_bytes())
    path = tmp_path / MANIFEST
    path.write_text(json.dumps({**content, "repo_id": "tester/released", "revision": None}))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    return path


@pytest.fixture
def run(manifest: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    return lambda *more: publish.main(["--manifest", str(manifest), "--endpoint", hub.endpoint, *more])


def revision(manifest: Path) -> Any:
    return json.loads(manifest.read_bytes())["revision"]


def test_dry_run_sends_and_writes_nothing(
    hub: LocalHub, manifest: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest.read_bytes()
    run()
    assert hub.log == []
    assert manifest.read_bytes() == before
    printed = capsys.readouterr().out
    for name in FILES:
        assert name in printed
    for entry in json.loads(before)["weights"].values():
        assert entry["sha256"] in printed


def test_publishing(hub: LocalHub, manifest: Path, run: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("--execute")
    commit = revision(manifest)
    repo = hub.repos["tester/released"]
    version = json.loads(manifest.read_bytes())["version"]
    assert repo.tags == {f"v{version}": commit}
    assert len(repo.commits) == 2  # the empty first one, and ours
    assert set(repo.commits[commit]) == FILES
    card = repo.commits[commit]["README.md"].decode()
    assert all(f"({task}.png)" in card for task in LOSSES)
    sent = parse_manifest(repo.commits[commit][MANIFEST], "sent")
    assert sent == {**json.loads(manifest.read_bytes()), "revision": None}
    # The order of keys, which people read, survives.
    assert list(json.loads(manifest.read_bytes())["weights"]) == list(
        json.loads((ROOT / MANIFEST).read_bytes())["weights"]
    )
    # Verification goes without a token, before the tag.
    asked = [(method, path.rsplit("/", 1)[-1], "authorization" in headers) for method, path, headers in hub.log]
    got = {name for method, name, authorized in asked if method == "GET" and not authorized}
    assert got >= FILES
    assert asked[-1][:2] == ("POST", commit)

    monkeypatch.setattr(sources, "manifest", lambda: parse_manifest(manifest.read_bytes(), "pinned"))
    monkeypatch.setenv("TASK_LOSSES_WEIGHTS", "hub")
    monkeypatch.delenv("HF_TOKEN")
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "hub"
    monkeypatch.delenv("TASK_LOSSES_WEIGHTS")
    assert JPEGLoss("tester/released", endpoint=hub.endpoint, cache_dir=cache).weights_source.endswith(commit)


def test_publishing_again_changes_nothing(hub: LocalHub, manifest: Path, run: Any) -> None:
    run("--execute")
    repo, pinned = hub.repos["tester/released"], manifest.read_bytes()
    state = list(repo.commits), dict(repo.tags)
    hub.log.clear()
    run("--execute")
    assert (list(repo.commits), repo.tags, manifest.read_bytes()) == (*state, pinned)
    assert [path for path in hub.requests("POST") if not path.endswith(f"paths-info/{revision(manifest)}")] == []
    # Also after somebody has edited the card, and from a manifest that does not know of the publication.
    hub.publish("tester/released", {**repo.commits[revision(manifest)], "README.md": b"edited"})
    manifest.write_text(json.dumps({**json.loads(pinned), "revision": None}))
    run("--execute")
    assert manifest.read_bytes() == pinned
    assert repo.tags == state[1]


def test_a_published_version_never_changes(
    hub: LocalHub, manifest: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--execute")
    commit = revision(manifest)
    content = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps({**content, "license": "CC0-1.0"}))
    with pytest.raises(SystemExit, match=r"already, with other files.*raise the version"):
        run("--execute")
    assert revision(manifest) == commit
    manifest.write_text(json.dumps({**content, "license": "CC0-1.0", "version": "99.0"}))
    run("--execute")
    assert hub.repos["tester/released"].tags == {f"v{content['version']}": commit, "v99.0": revision(manifest)}
    assert revision(manifest) != commit


def test_a_published_name_never_gets_other_bytes(hub: LocalHub, manifest: Path, run: Any, tmp_path: Path) -> None:
    """Not with another version of the manifest either; the tag of the first names the file."""
    run("--execute")
    state = dict(hub.repos["tester/released"].tags), list(hub.repos["tester/released"].commits)
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    content = json.loads(manifest.read_bytes())
    entry, other = content["weights"]["jpeg"], content["weights"]["denoise"]
    name = entry["filename"]
    (tmp_path / "weights" / name).write_bytes((WEIGHTS / other["filename"]).read_bytes())
    renamed = {**content, "version": "99.0", "revision": None}
    renamed["weights"] = {"denoise": {**other, "filename": name}}
    manifest.write_text(json.dumps(renamed))
    with pytest.raises(SystemExit, match=f"the name {name} is taken by other bytes, in tester/released"):
        run("--execute", "--weights", str(tmp_path / "weights"))
    assert (hub.repos["tester/released"].tags, list(hub.repos["tester/released"].commits)) == state
    (manifest.parent / "training").mkdir()
    (manifest.parent / "training" / "retired.json").write_text(json.dumps({name: "0" * 64}))
    with pytest.raises(SystemExit, match=r"taken by other bytes, listed in training/retired\.json"):
        run("--weights", str(tmp_path / "weights"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/commit/main$", status=500),
        Fault("/commit/main$", status=412),
        Fault(r"\.safetensors$", method="GET", flip=True),
        Fault("README.md$", method="GET", status=500),
        Fault("/tag/", status=500),
    ],
    ids=["commit", "commit meanwhile", "wrong bytes", "unreadable", "tag"],
)
def test_an_interrupted_run_pins_nothing_and_is_repeated(hub: LocalHub, manifest: Path, run: Any, fault: Fault) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    hub.faults.append(fault)
    with pytest.raises((SystemExit, HfHubHTTPError)):
        run("--execute")
    assert revision(manifest) is None
    assert hub.repos["tester/released"].tags == {}
    hub.faults.clear()
    run("--execute")
    assert len(hub.repos["tester/released"].commits) == 2
    assert list(hub.repos["tester/released"].tags.values()) == [revision(manifest)]


def test_a_private_repository_is_no_publication(hub: LocalHub, manifest: Path, run: Any) -> None:
    hub.repos["tester/released"] = Repo(private=True)
    with pytest.raises(SystemExit, match="private and no valid token"):
        run("--execute")
    assert revision(manifest) is None


def test_files_that_are_not_what_the_manifest_says(manifest: Path, tmp_path: Path, hub: LocalHub) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    jpeg = tmp_path / "weights" / json.loads(manifest.read_bytes())["weights"]["jpeg"]["filename"]
    jpeg.write_bytes(jpeg.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsIntegrity, match=f"{jpeg.name} is damaged"):
        publish.collect(manifest, tmp_path / "weights")
    jpeg.unlink()
    with pytest.raises(publish.PublishError, match=f"cannot read .*{jpeg.name}"):
        publish.collect(manifest, tmp_path / "weights")
    with pytest.raises(SystemExit, match=r"publish: cannot read"):
        publish.main(["--manifest", str(manifest), "--weights", str(tmp_path / "weights")])


def test_token(hub: LocalHub, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SystemExit, match="set HF_TOKEN"):
        run("--execute")
    assert hub.log == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HfHubHTTPError, match=r"401|Invalid user token"):
        run("--execute")
    assert hub.repos == {}


def test_signing_without_the_tool(run: Any, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="needs the tool model_signing"):
        run("--execute", "--sign-key", "key.pem")
    assert hub.repos == {}


@pytest.mark.skipif(shutil.which(publish.SIGNING_TOOL) is None, reason="the tool model_signing is not installed")
def test_signing(hub: LocalHub, manifest: Path, run: Any, tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    run("--execute", "--sign-key", str(key))
    files = hub.repos["tester/released"].commits[revision(manifest)]
    assert set(files) == {*FILES, publish.SIGNATURE}
    folder = tmp_path / "download"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    command: list[str | Path] = [
        publish.SIGNING_TOOL,
        "verify",
        "key",
        "--public_key",
        public,
        "--signature",
        folder / publish.SIGNATURE,
    ]
    command += ["--ignore-paths", folder / publish.SIGNATURE, folder]
    assert subprocess.run(command, capture_output=True).returncode == 0
    (folder / "README.md").write_text("changed")
    assert subprocess.run(command, capture_output=True).returncode != 0
