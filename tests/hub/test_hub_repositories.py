"""pretrained="owner/repo", pretrained=PATH, and the three verbs that write what they read."""

import itertools
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hubserver import Fault, LocalHub
from kills import killed_at
from PIL import Image

from task_losses import JPEGLoss, SRLoss, TaskLoss, WeightsIntegrity, WeightsNotFound, WeightsUnavailable, weights
from task_losses.architecture import Architecture
from task_losses.losses import LOSSES
from task_losses.weights import MANIFEST, parse_manifest, serialize_weights, tensor_shapes
from training.local_hub import sha256

IMAGES = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40)


def weight_file(task: str, seed: int = 0, **info: Any) -> bytes:
    """A small, sound weight file."""
    architecture = Architecture(channels=(4, 4))
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(s, generator=generator) for name, s in tensor_shapes(architecture).items()}
    return serialize_weights(tensors, architecture, {"task": task, **info})


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def loss(tmp_path: Path) -> TaskLoss:
    content = weight_file("jpeg", image="cat.png", license="cc0-1.0", command="python -m training.train")
    return JPEGLoss(written(tmp_path / "trained.safetensors", content))


@pytest.fixture
def pushed(hub: LocalHub, loss: TaskLoss) -> str:
    """A repository me/jpeg; the value is its commit."""
    return loss.push_to_hub("me/jpeg", token="hf_valid", endpoint=hub.endpoint)


def republish(hub: LocalHub, change: Callable[[dict[str, bytes]], None]) -> str:
    """A further commit of me/jpeg with some files changed."""
    repo = hub.repos["me/jpeg"]
    files = dict(repo.commits[repo.branches["main"]])
    change(files)
    return hub.publish("me/jpeg", files)


# The Hub


def test_round_trip_over_the_hub(
    hub: LocalHub, loss: TaskLoss, pushed: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="task_losses"):
        loaded = JPEGLoss.from_pretrained("me/jpeg", endpoint=hub.endpoint, cache_dir=cache, reduction="sum")
    assert isinstance(loaded, JPEGLoss)
    assert loaded.weights_source == f"me/jpeg@{pushed}"
    assert loaded.weights_sha256 == loss.weights_sha256
    assert loaded.weights_info == loss.weights_info
    assert torch.equal(loaded(*IMAGES), 2 * loss(*IMAGES))
    assert f"me/jpeg@main is commit {pushed}" in caplog.text


def test_pushing_is_one_commit_and_again_is_none(hub: LocalHub, loss: TaskLoss, pushed: str) -> None:
    repo = hub.repos["me/jpeg"]
    assert len(repo.commits) == 2  # the empty first one, and ours
    assert set(repo.commits[pushed]) == {"jpeg.safetensors", MANIFEST, "README.md"}
    assert loss.push_to_hub("me/jpeg", token="hf_valid", endpoint=hub.endpoint) == pushed
    assert len(repo.commits) == 2
    assert not repo.private


def test_pushing_checks_what_arrived(hub: LocalHub, loss: TaskLoss) -> None:
    hub.faults.append(Fault("jpeg.safetensors", method="GET", flip=True))
    with pytest.raises(WeightsIntegrity, match="differs from what was uploaded"):
        loss.push_to_hub("me/jpeg", token="hf_valid", endpoint=hub.endpoint)


def test_pushing_to_a_private_repository(hub: LocalHub, loss: TaskLoss, cache: Path) -> None:
    loss.push_to_hub("me/secret", token="hf_valid", endpoint=hub.endpoint, private=True)
    assert hub.repos["me/secret"].private
    with pytest.raises(WeightsNotFound, match="private"):
        JPEGLoss("me/secret", endpoint=hub.endpoint, cache_dir=cache)
    assert JPEGLoss("me/secret", endpoint=hub.endpoint, cache_dir=cache, token="hf_valid").weights_sha256


@pytest.mark.parametrize("token", [False, "hf_wrong"])
def test_pushing_without_rights(hub: LocalHub, loss: TaskLoss, token: Any) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    with pytest.raises(HfHubHTTPError, match="401"):
        loss.push_to_hub("me/jpeg", token=token, endpoint=hub.endpoint)
    assert "me/jpeg" not in hub.repos


def test_a_branch_is_looked_up_each_time_a_commit_never(hub: LocalHub, pushed: str, cache: Path) -> None:
    def load(**options: Any) -> str:
        return JPEGLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache, **options).weights_source

    assert load() == f"me/jpeg@{pushed}"
    newer = republish(hub, lambda files: files.update({"README.md": b"edited"}))
    assert load() == f"me/jpeg@{newer}"
    asked = len(hub.log)
    assert load(revision=pushed) == f"me/jpeg@{pushed}"
    assert len(hub.log) == asked
    hub.repos["me/jpeg"].tags["v1"] = pushed
    assert load(revision="v1") == f"me/jpeg@{pushed}"
    with pytest.raises(WeightsNotFound, match=r"me/jpeg@v2/.*no such revision"):
        load(revision="v2")


def test_a_commit_that_lands_meanwhile_changes_nothing(hub: LocalHub, pushed: str, cache: Path, tmp_path: Path) -> None:
    other = TaskLoss(written(tmp_path / "other.safetensors", weight_file("jpeg", seed=1)))
    repo = hub.repos["me/jpeg"]
    hub.faults.append(Fault(MANIFEST, method="GET", times=1, until=lambda: repo.branches["main"] != pushed))
    hub.log.clear()

    def push_meanwhile() -> None:
        while not hub.requests("GET"):
            time.sleep(0.01)
        other.save_pretrained(tmp_path / "other")
        republish(hub, lambda files: files.update({p.name: p.read_bytes() for p in (tmp_path / "other").iterdir()}))

    thread = threading.Thread(target=push_meanwhile)
    thread.start()
    loaded = JPEGLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache)
    thread.join()
    assert loaded.weights_source == f"me/jpeg@{pushed}"
    assert loaded.weights_sha256 != other.weights_sha256
    again = JPEGLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache)
    assert again.weights_sha256 == other.weights_sha256


def test_without_network_a_branch_means_its_last_known_commit(
    hub: LocalHub, pushed: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"endpoint": hub.endpoint, "cache_dir": cache}
    JPEGLoss("me/jpeg", **options)
    asked = len(hub.log)
    assert JPEGLoss("me/jpeg", local_files_only=True, **options).weights_source == f"me/jpeg@{pushed}"
    assert len(hub.log) == asked
    hub.faults.append(Fault("", status=503))
    assert JPEGLoss("me/jpeg", **options).weights_source == f"me/jpeg@{pushed}"
    assert f"using the copy in the cache, of commit {pushed}" in caplog.text


def test_without_network_and_cache(hub: LocalHub, pushed: str, cache: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="local_files_only forbids"):
        JPEGLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache, local_files_only=True)
    hub.faults.append(Fault("", status=503))
    with pytest.raises(WeightsUnavailable, match="503"):
        JPEGLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache)


def test_no_fallback_to_the_embedded_copy(hub: LocalHub, cache: Path) -> None:
    with pytest.raises(WeightsNotFound, match=r"me/nothing@main.*no such repository"):
        JPEGLoss("me/nothing", endpoint=hub.endpoint, cache_dir=cache)


def test_a_folder_never_shadows_a_repository(
    hub: LocalHub, pushed: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    JPEGLoss(False).save_pretrained(tmp_path / "me" / "jpeg")
    monkeypatch.chdir(tmp_path)
    loaded = JPEGLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache)
    assert loaded.weights_source == f"me/jpeg@{pushed}"
    assert JPEGLoss("./me/jpeg").weights_source == str(Path("me/jpeg/jpeg.safetensors"))
    assert JPEGLoss(Path("me/jpeg")).weights_source == str(Path("me/jpeg/jpeg.safetensors"))


def test_repository_for_another_task(hub: LocalHub, pushed: str, cache: Path) -> None:
    with pytest.raises(WeightsNotFound, match="no weights for the task 'sr', only for jpeg"):
        SRLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache)
    assert TaskLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache).weights_info["task"] == "jpeg"


def test_repository_without_a_manifest(hub: LocalHub, cache: Path) -> None:
    hub.publish("me/other", {"model.safetensors": b"..."})
    with pytest.raises(WeightsNotFound, match="no such file; was the repository written by push_to_hub"):
        JPEGLoss("me/other", endpoint=hub.endpoint, cache_dir=cache)


def test_repository_whose_file_is_not_what_its_manifest_names(hub: LocalHub, pushed: str, cache: Path) -> None:
    republish(hub, lambda files: files.update({"jpeg.safetensors": weight_file("jpeg", seed=1)}))
    with pytest.raises(WeightsIntegrity, match="expected sha256"):
        JPEGLoss("me/jpeg", endpoint=hub.endpoint, cache_dir=cache)
    assert not list(cache.rglob("*.incomplete"))


ARCHITECTURE = {"channels": [4, 4], "ratio": 0.75, "depth": 5, "taps": [1, 4, 5], "slope": 0.2}
ENTRY = {"filename": "jpeg.safetensors", "sha256": "0" * 64, "size": 1, "architecture": ARCHITECTURE}


def manifest_of(**change: Any) -> bytes:
    return json.dumps({"schema": 1, "revision": None, "weights": {"jpeg": ENTRY}, **change}).encode()


def manifest_with_entry(**change: Any) -> bytes:
    return manifest_of(weights={"jpeg": {**ENTRY, **change}})


MALFORMED = [
    (b"<html>", "not JSON"),
    (b"[]", "expected schema 1, found 'list'"),
    (b"{}", "expected schema 1, found None"),
    (manifest_of(schema=2), "expected schema 1, found 2"),
    (manifest_of(weights={}), "at least one entry"),
    (manifest_of(weights=[ENTRY]), "at least one entry"),
    (manifest_of(weights={"jpeg": 1}), "entry 'jpeg': must be an object, found int"),
    (manifest_of(revision="v1", repo_id="a/b"), "revision must be null or a commit"),
    (manifest_of(revision="A" * 40, repo_id="a/b"), "revision must be null or a commit"),
    (manifest_of(revision="a" * 40), "a revision needs the repo_id"),
    *[
        (manifest_with_entry(filename=name), "entry 'jpeg': filename must be a plain name")
        for name in ("../secret.safetensors", "/etc/x.safetensors", "a\\b.safetensors", ".safetensors", "x.bin", None)
    ],
    *[
        (manifest_with_entry(sha256=value), "entry 'jpeg': sha256 must be 64 hexadecimal digits")
        for value in ("abc", "A" * 64, None)
    ],
    *[(manifest_with_entry(size=value), "entry 'jpeg': size must be") for value in ("1", 0, True, None)],
    *[
        (manifest_with_entry(architecture={**ARCHITECTURE, **change}), "entry 'jpeg': architecture cannot be used")
        for change in ({"ratio": 2}, {"slope": 0.1}, {"channels": None}, {"taps": [9]})
    ],
    (manifest_with_entry(architecture=None), "entry 'jpeg': architecture cannot be used"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_manifest(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    (tmp_path / "jpeg.safetensors").write_bytes(weight_file("jpeg"))
    with pytest.raises(WeightsIntegrity, match=f"is not a weights manifest of task-losses: .*{re.escape(message)}"):
        JPEGLoss(tmp_path)


def test_sound_manifest() -> None:
    """What the malformed ones were made from."""
    assert parse_manifest(manifest_of(), "test")["weights"] == {"jpeg": ENTRY}
    assert parse_manifest(manifest_of(revision="a" * 40, repo_id="a/b"), "test")["revision"] == "a" * 40


def test_malformed_manifest_on_the_hub(hub: LocalHub, cache: Path) -> None:
    hub.publish("me/odd", {MANIFEST: manifest_of(schema=2)})
    with pytest.raises(WeightsIntegrity, match="expected schema 1, found 2; a newer file needs a newer task-losses"):
        JPEGLoss("me/odd", endpoint=hub.endpoint, cache_dir=cache)


# Folders and files


def test_saving_is_canonical(loss: TaskLoss, tmp_path: Path) -> None:
    loss.save_pretrained(tmp_path / "one")
    loss.to(torch.float64).save_pretrained(tmp_path / "two")
    TaskLoss(tmp_path / "one").save_pretrained(tmp_path / "one")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert set(one) == {"jpeg.safetensors", MANIFEST, "README.md"}
    assert one["jpeg.safetensors"] == (tmp_path / "trained.safetensors").read_bytes()


@pytest.mark.parametrize("task", LOSSES)
def test_saving_a_released_loss_gives_its_file(task: str, released_files: dict[str, bytes], tmp_path: Path) -> None:
    released = LOSSES[task]()
    released.save_pretrained(tmp_path)
    assert sha256((tmp_path / f"{task}.safetensors").read_bytes()) == released.weights_sha256


def test_round_trip_over_a_folder(loss: TaskLoss, tmp_path: Path) -> None:
    loss.save_pretrained(tmp_path / "saved")
    for source in (tmp_path / "saved", str(tmp_path / "saved"), tmp_path / "saved" / "jpeg.safetensors"):
        loaded = JPEGLoss.from_pretrained(source)
        assert loaded.weights_source == str(tmp_path / "saved" / "jpeg.safetensors")
        assert torch.equal(loaded(*IMAGES), loss(*IMAGES))


def test_the_manifest_beside_a_file_is_believed(loss: TaskLoss, tmp_path: Path) -> None:
    loss.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "jpeg.safetensors"
    path.write_bytes(weight_file("jpeg", seed=1))
    for source in (path, path.parent):
        with pytest.raises(WeightsIntegrity, match="expected sha256"):
            JPEGLoss(source)
    path.rename(path.with_name("renamed.safetensors"))
    assert JPEGLoss(path.with_name("renamed.safetensors")).weights_sha256  # the manifest says nothing about this one
    with pytest.raises(WeightsNotFound, match=r"jpeg\.safetensors"):
        JPEGLoss(path.parent)


@pytest.mark.parametrize("contradiction", ["task", "architecture"])
def test_a_manifest_that_contradicts_its_file(contradiction: str, loss: TaskLoss, tmp_path: Path) -> None:
    loss.save_pretrained(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_bytes())
    entry = content["weights"].pop("jpeg")
    if contradiction == "architecture":
        entry["architecture"]["channels"] = [4, 4, 4]
    content["weights"] = {"sr" if contradiction == "task" else "jpeg": entry}
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(WeightsIntegrity, match="contradicts its manifest"):
        TaskLoss(tmp_path)


def test_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match=r"0 \.safetensors files, expected one"):
        JPEGLoss(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(weight_file("jpeg"))
    assert JPEGLoss(tmp_path).weights_source == str(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(weight_file("jpeg"))
    with pytest.raises(WeightsNotFound, match=r"2 \.safetensors files, expected one"):
        JPEGLoss(tmp_path)


def test_folder_with_several_tasks(tmp_path: Path) -> None:
    JPEGLoss(False).save_pretrained(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_bytes())
    SRLoss(False).save_pretrained(tmp_path)
    content["weights"] |= json.loads((tmp_path / MANIFEST).read_bytes())["weights"]
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert SRLoss(tmp_path).weights_info["task"] == "sr"
    assert JPEGLoss(tmp_path).weights_info["task"] == "jpeg"
    with pytest.raises(ValueError, match=r"several tasks \(jpeg, sr\)"):
        TaskLoss(tmp_path)


def test_home_folder(loss: TaskLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    loss.save_pretrained("~/saved")
    assert (tmp_path / "saved" / MANIFEST).is_file()
    assert JPEGLoss("~/saved").weights_sha256 == loss.weights_sha256
    with pytest.raises(OSError, match="names no place"):
        loss.save_pretrained("~nosuchuser/saved")


def test_a_failed_save_leaves_what_was_there(loss: TaskLoss, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    folder = tmp_path / "saved"
    loss.save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as on a full disk, writing stops half way
    try:
        with pytest.raises(OSError, match="too large"):
            JPEGLoss(False).save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, for children that are killed")
def test_a_save_over_an_older_one_may_be_killed_at_any_moment(loss: TaskLoss, tmp_path: Path) -> None:
    """Before and after each call that changes the disk, a child kills itself: what is left loads, old or new."""
    folder = tmp_path / "saved"
    old = JPEGLoss(False)
    old.save_pretrained(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    hashes = {JPEGLoss(folder).weights_sha256, loss.weights_sha256}
    found = []
    for moment in itertools.count():
        for path in folder.iterdir():
            path.unlink()
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        if not killed_at(moment, lambda: loss.save_pretrained(folder)):
            break
        found.append(JPEGLoss(folder).weights_sha256)
    assert len(found) > 10
    assert set(found) == hashes
    assert JPEGLoss(folder).weights_sha256 == loss.weights_sha256


@pytest.mark.parametrize("metrics", [{"a": float("nan")}, {"a": "high"}, {"a": None}])
def test_metrics_that_are_no_numbers_are_refused(metrics: Any, loss: TaskLoss, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=r"metrics\['a'\] must be"):
        loss.save_pretrained(tmp_path / "saved", metrics=metrics)
    with pytest.raises(TypeError, match="license must be a string"):
        loss.save_pretrained(tmp_path / "saved", license=["mit"])  # type: ignore[arg-type]
    assert not (tmp_path / "saved").exists()


def test_a_part_of_a_loss_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds only the scales \[0, 3\] of 8; make it with scales=None"):
        JPEGLoss(False, scales=[3, 0]).save_pretrained(tmp_path)


@pytest.mark.parametrize("task", ["../up", "a/b", "", ".hidden", "a b"])
def test_a_task_that_cannot_name_a_file(task: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(weight_file(task))
    with pytest.raises(ValueError, match="cannot save weights for the task"):
        TaskLoss(path).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="cannot save weights for the task None"):
        TaskLoss(False).save_pretrained(tmp_path / "saved")


def test_model_card(loss: TaskLoss, tmp_path: Path) -> None:
    loss.save_pretrained(tmp_path / "saved", metrics={"PSNR (dB)": 31.5})
    card = (tmp_path / "saved" / "README.md").read_text()
    assert card.startswith('---\nlicense: "cc0-1.0"\nlibrary_name: task-losses\n')
    for fact in ("| image | cat.png |", "| command | python -m training.train |", "| PSNR (dB) | 31.5 |"):
        assert fact in card
    for use in ("| smallest side | 11 pixels;", "| weight beside L1 | `task_losses.weight_for("):
        assert use in card
    assert f"`{loss.weights_sha256}`" in card
    entry = json.loads((tmp_path / "saved" / MANIFEST).read_bytes())["weights"]["jpeg"]
    assert entry["metrics"] == {"PSNR (dB)": 31.5}
    loss.save_pretrained(tmp_path / "saved", license="MIT")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "Licence of the weights: MIT." in card


def test_the_card_shows_a_preview_that_is_given_and_no_other(
    hub: LocalHub, loss: TaskLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "scale7.png"
    Image.new("RGB", (8, 6)).save(picture)
    (tmp_path / "jpeg.png").write_bytes(b"a picture that nobody named")
    loss.save_pretrained(tmp_path)
    assert "![" not in (tmp_path / "README.md").read_text()
    loss.save_pretrained(tmp_path / "saved", preview=picture)
    assert "(jpeg.png)" in (tmp_path / "saved" / "README.md").read_text()
    assert (tmp_path / "saved" / "jpeg.png").read_bytes() == picture.read_bytes()
    assert JPEGLoss(tmp_path / "saved").weights_sha256 == loss.weights_sha256
    commit = loss.push_to_hub("me/jpeg", preview=str(picture), token="hf_valid", endpoint=hub.endpoint)
    pushed = hub.repos["me/jpeg"].commits[commit]
    assert pushed["jpeg.png"] == picture.read_bytes()
    assert "(jpeg.png)" in pushed["README.md"].decode()


@pytest.mark.parametrize("content", [b"", b"<svg onload='x()'/>", b"\x89PNG\r\n\x1a\n<script>", b"\xff\xd8\xff\xe0"])
def test_a_preview_that_is_no_png_is_refused_and_nothing_saved(content: bytes, loss: TaskLoss, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.png' is no PNG picture"):
        loss.save_pretrained(tmp_path / "saved", preview=tmp_path / "x.png")
    with pytest.raises(OSError, match="at most"):
        loss.save_pretrained(tmp_path / "saved", preview=_large(tmp_path / "large.png"))
    with pytest.raises(FileNotFoundError):
        loss.save_pretrained(tmp_path / "saved", preview=tmp_path / "missing.png")
    assert not (tmp_path / "saved").exists()


def _large(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(2**40)
    return path


def test_the_card_says_the_weight_to_begin_with_and_what_it_was_measured_on(tmp_path: Path) -> None:
    drawn = weights.random_weights("own", Architecture(channels=(4,)))
    said = {"weight": 1.5, "measured_on": "a <photograph>"}
    path = tmp_path / "own.safetensors"
    path.write_bytes(serialize_weights(drawn.tensors, drawn.architecture, {"task": "own", "weight_beside_l1": said}))
    TaskLoss(path).save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "| weight beside L1 | 1.5 to begin with, measured on a &#60;photograph&#62;; better by `task_losses." in card


def test_usage_snippet_of_the_card_runs(
    hub: LocalHub, loss: TaskLoss, pushed: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snippet(card: str) -> str:
        return card.split("```python\n")[1].split("```")[0]

    loss.save_pretrained(tmp_path / "this-folder")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet((tmp_path / "this-folder" / "README.md").read_text()), names)
    assert names["loss"].weights_sha256 == loss.weights_sha256
    assert names["restored"].grad.abs().sum() > 0
    from_hub = snippet(hub.repos["me/jpeg"].commits[pushed]["README.md"].decode())
    assert 'JPEGLoss("me/jpeg")' in from_hub


# Bad options


@pytest.mark.parametrize("source", ["weights", "a/b/c", "", "owner/", "C:\\weights", "owner/-x", "-x/repo"])
def test_neither_path_nor_repository(source: str) -> None:
    with pytest.raises(ValueError, match="neither a path nor a Hub repository"):
        JPEGLoss(source)


@pytest.mark.parametrize("source", ["a..b/c", "owner/a--b", "owner/repo.git"])
def test_repository_id_that_the_hub_forbids(source: str) -> None:
    with pytest.raises(WeightsNotFound, match="cannot be a repository of the Hub"):
        JPEGLoss(source)


@pytest.mark.parametrize("source", [1, 2.0, b"x", ["a"]])
def test_source_of_a_wrong_type(source: Any) -> None:
    with pytest.raises(TypeError, match="pretrained must be"):
        JPEGLoss(source)


@pytest.mark.parametrize("source", [False, "./folder", "x.safetensors"])
@pytest.mark.parametrize(
    "option", [{"revision": "main"}, {"token": "t"}, {"cache_dir": "c"}, {"endpoint": "e"}, {"local_files_only": True}]
)
def test_hub_options_where_there_is_no_hub(source: Any, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} apply to the Hub"):
        JPEGLoss(source, **option)


def test_revision_of_the_released_weights_is_not_for_choice() -> None:
    with pytest.raises(ValueError, match="revision='main' does not apply to pretrained=True"):
        JPEGLoss(revision="main")


def test_task_loss_has_no_released_weights() -> None:
    with pytest.raises(ValueError, match="TaskLoss has no released weights"):
        TaskLoss()
