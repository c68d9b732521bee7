"""pretrained=True against a local Hub: cache, Hub, embedded copy, and everything that can go wrong on the way."""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hubserver import Fault, LocalHub, serve
from subprocesses import finish, start

from task_losses import (
    DenoiseLoss,
    JPEGLoss,
    SRLoss,
    WeightsError,
    WeightsIntegrity,
    WeightsNotFound,
    WeightsUnavailable,
    weights,
)

Mode = Callable[[str], None]
FILE = weights.manifest()["weights"]["jpeg"]["filename"]
SHA256 = weights.manifest()["weights"]["jpeg"]["sha256"]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Far above the time that is needed, far below the client's own retries or the server's hanging."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def blob(cache: Path, sha256: str = SHA256) -> Path:
    return cache / "models--acme--released" / "blobs" / sha256


def test_first_from_the_hub_then_from_the_cache(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    images = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40)
    first = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    asked = len(hub.log)
    second = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert (first.weights_source, second.weights_source) == ("hub", "cache")
    assert asked > 0
    assert len(hub.log) == asked  # nothing was asked for the second
    mode("embedded")
    third = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert third.weights_source == "embedded"
    assert len(hub.log) == asked
    assert first.weights_sha256 == second.weights_sha256 == third.weights_sha256 == SHA256
    assert first(*images) == second(*images) == third(*images)


def test_without_a_revision_the_hub_is_never_asked(hub: LocalHub, cache: Path, mode: Mode) -> None:
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert loss.weights_source == "embedded"
    mode("hub")
    with pytest.raises(WeightsNotFound, match="pins no revision"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert hub.log == []


def test_unknown_mode(mode: Mode) -> None:
    mode("online")
    with pytest.raises(ValueError, match="TASK_LOSSES_WEIGHTS must be one of auto, hub, embedded; got 'online'"):
        JPEGLoss()


FAULTS = {
    "repository missing": (Fault(FILE, status=401, code="RepoNotFound"), WeightsNotFound, "no such repository"),
    "revision missing": (Fault(FILE, status=404, code="RevisionNotFound"), WeightsNotFound, "no such revision"),
    "file missing": (Fault(FILE, status=404, code="EntryNotFound"), WeightsNotFound, "no such file"),
    "gated": (Fault(FILE, status=403, code="GatedRepo"), WeightsNotFound, "accept its terms"),
    "401": (Fault(FILE, status=401), WeightsNotFound, "refused access"),
    "403": (Fault(FILE, status=403), WeightsNotFound, "refused access"),
    "404 of no Hub": (Fault(FILE, status=404), WeightsUnavailable, "404"),
    "429": (Fault(FILE, status=429), WeightsUnavailable, "429"),
    "500": (Fault(FILE, status=500), WeightsUnavailable, "500"),
    "503": (Fault(FILE, status=503), WeightsUnavailable, "503"),
    "dropped": (Fault(FILE, drop=True), WeightsUnavailable, "disconnected"),
    "captive portal": (Fault(FILE, page=b"<html>log in</html>"), WeightsUnavailable, "did not answer like a Hub"),
    "other bytes, same size": (Fault(FILE, flip=True), WeightsIntegrity, "expected sha256"),
    "other size": (Fault(FILE, method="GET", cut=10), WeightsIntegrity, "another size"),
}
SLOW_FAULTS: dict[str, tuple[Fault, type[WeightsError], str]] = {  # seconds each
    "hanging": (Fault(FILE, hang=60), WeightsUnavailable, "check the network"),
    "dripping": (Fault(FILE, drip=0.05), WeightsUnavailable, "no answer within 3 s"),
    "truncated": (Fault(FILE, keep=5000), WeightsUnavailable, "received 5000 bytes"),
}


@pytest.mark.parametrize("name", FAULTS | SLOW_FAULTS)
def test_fault_raises_and_leaves_nothing_behind(
    name: str, hub: LocalHub, pinned: Any, cache: Path, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    fault, error, message = (FAULTS | SLOW_FAULTS)[name]
    mode("hub")
    hub.faults.append(fault)
    with at_most(20), pytest.raises(error, match=message) as raised:
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert type(raised.value) is error
    assert f"acme/released@{pinned['revision']}/{FILE}" in str(raised.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    # With the fault gone the right file comes, whatever the attempt has left in the cache.
    hub.faults.clear()
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert (loss.weights_source, loss.weights_sha256) == ("hub", SHA256)
    assert blob(cache).read_bytes() == hub.repos["acme/released"].commits[pinned["revision"]][FILE]


@pytest.mark.parametrize("name", FAULTS)
def test_fault_falls_back_to_the_embedded_copy(
    name: str, hub: LocalHub, pinned: Any, cache: Path, recwarn: pytest.WarningsRecorder
) -> None:
    fault, error, message = FAULTS[name]
    hub.faults.append(fault)
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert (loss.weights_source, loss.weights_sha256) == ("embedded", SHA256)
    warned = [str(warning.message) for warning in recwarn]
    if error is WeightsIntegrity:  # worth a word: somebody sends wrong bytes
        assert len(warned) == 1
        assert message in warned[0]
        assert recwarn[0].filename == __file__
    else:
        assert warned == []


def test_a_dead_network_is_waited_for_once(
    hub: LocalHub, pinned: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults.append(Fault("", hang=60))
    with at_most(10), caplog.at_level(logging.INFO, logger="task_losses"):
        losses = [make(endpoint=hub.endpoint, cache_dir=cache) for make in (SRLoss, DenoiseLoss, JPEGLoss)]
    assert [loss.weights_source for loss in losses] == ["embedded"] * 3
    assert len(hub.log) == 1
    ours = [record for record in caplog.records if record.name == "task_losses"]
    assert [record.levelname for record in ours] == ["INFO"]
    assert "Using the copy inside the package" in ours[0].getMessage()


def test_a_failure_is_no_reason_to_ignore_the_cache(hub: LocalHub, pinned: Any, cache: Path) -> None:
    JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    hub.faults.append(Fault("", status=503))
    assert SRLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "embedded"
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "cache"


def test_nobody_listens(pinned: Any, cache: Path, mode: Mode) -> None:
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with at_most(10):
            assert JPEGLoss(endpoint=endpoint, cache_dir=cache).weights_source == "embedded"
        mode("hub")
        with at_most(10), pytest.raises(WeightsUnavailable, match="Connection refused"):
            JPEGLoss(endpoint=endpoint, cache_dir=cache)


@pytest.mark.parametrize("endpoint", ["http://no-such-host.invalid", "no address", "http://[", "ftp://127.0.0.1"])
def test_endpoint_that_leads_nowhere(endpoint: str, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    with at_most(10), pytest.raises(WeightsUnavailable):
        JPEGLoss(endpoint=endpoint, cache_dir=cache)


def test_storage_on_another_host(hub: LocalHub, pinned: Any, cache: Path) -> None:
    hub.storage = f"localhost:{hub.port}"
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache, token="hf_valid")
    assert (loss.weights_source, loss.weights_sha256) == ("hub", SHA256)
    asked = {path: headers for method, path, headers in hub.log}
    assert "authorization" in asked[f"/acme/released/resolve/{pinned['revision']}/{FILE}"]
    assert "authorization" not in asked[f"/{SHA256}"]


def test_storage_that_swallows_packets(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    with socket.socket() as silent:  # takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hub.storage = f"127.0.0.1:{silent.getsockname()[1]}"
        with at_most(10), pytest.raises(WeightsUnavailable, match="check the network"):
            JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)


@pytest.mark.parametrize("fault", [{"flip": True}, {"keep": 5000}, {"cut": 10}], ids=str)
def test_one_bad_transfer_is_repeated(fault: Any, hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    hub.faults.append(Fault(FILE, method="GET", times=1, **fault))
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert (loss.weights_source, loss.weights_sha256) == ("hub", SHA256)
    assert len(hub.requests("GET")) == 2


def test_wrong_bytes_are_fetched_twice_and_no_more(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    hub.faults.append(Fault(FILE, method="GET", flip=True))
    with pytest.raises(WeightsIntegrity):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert len(hub.requests("GET")) == 2


def test_tampered_cache_is_healed(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    right = blob(cache).read_bytes()
    blob(cache).write_bytes(right[:-4] + b"\0\0\0\0")
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert (loss.weights_source, loss.weights_sha256) == ("hub", SHA256)
    assert blob(cache).read_bytes() == right


def test_tampered_cache_without_network(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    blob(cache).write_bytes(b"not what was pinned")
    hub.faults.append(Fault("", status=503))
    with pytest.warns(UserWarning, match="expected sha256 .* fetching it again failed: .*503"):
        loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert (loss.weights_source, loss.weights_sha256) == ("embedded", SHA256)
    mode("hub")
    with pytest.raises(WeightsIntegrity, match="fetching it again failed"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    with pytest.raises(WeightsIntegrity, match="expected sha256"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache, local_files_only=True)


def test_dangling_link_in_the_cache(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    blob(cache).unlink()
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "hub"


def test_local_files_only(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache, local_files_only=True).weights_source == "embedded"
    mode("hub")
    with pytest.raises(WeightsUnavailable, match="not in the local cache"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache, local_files_only=True)
    assert hub.log == []
    JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache, local_files_only=True).weights_source == "cache"


def test_offline_variable(hub: LocalHub, pinned: Any, cache: Path, tmp_path: Path) -> None:
    JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    asked = len(hub.log)
    code = f"""
import os
print(JPEGLoss(cache_dir={str(cache)!r}).weights_source, JPEGLoss(cache_dir='empty').weights_source)
os.environ["TASK_LOSSES_WEIGHTS"] = "hub"
try: JPEGLoss(cache_dir='empty')
except WeightsError as error: print(type(error).__name__, error)
"""
    out = finish(start(code, tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.endpoint)).splitlines()
    assert out[0] == "cache embedded"
    assert out[1].startswith("WeightsUnavailable ")
    assert "HF_HUB_OFFLINE is set" in out[1]
    assert len(hub.log) == asked


def test_saved_token_that_expired(
    hub: LocalHub, pinned: Any, cache: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    mode("hub")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "hub"
    assert "the Hub refused the saved token (expired?)" in caplog.text
    hub.repos["acme/released"].private = True
    with pytest.raises(WeightsNotFound, match="private and no valid token"):
        SRLoss(endpoint=hub.endpoint, cache_dir=cache)


def test_token_that_was_passed_is_not_dropped(
    hub: LocalHub, pinned: Any, cache: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode("hub")
    monkeypatch.setenv("HF_TOKEN", "hf_valid")
    with pytest.raises(WeightsNotFound, match="refused access"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache, token="hf_wrong")


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_restricted_repository(kind: str, hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    setattr(hub.repos["acme/released"], kind, True)
    with pytest.raises(WeightsNotFound, match=kind):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache, token="hf_valid").weights_source == "hub"


@pytest.fixture
def proxy_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    from huggingface_hub import close_session

    def use(address: str) -> None:
        monkeypatch.setenv("HTTP_PROXY", address)
        close_session()  # the client reads the variables when it opens one

    yield use
    monkeypatch.undo()
    close_session()


def test_proxy_variables_are_followed(
    hub: LocalHub, pinned: Any, cache: Path, mode: Mode, proxy_of: Callable[[str], None]
) -> None:
    mode("hub")
    proxy_of(hub.endpoint)
    loss = JPEGLoss(endpoint="http://hub-behind-the-proxy.invalid", cache_dir=cache)
    assert (loss.weights_source, loss.weights_sha256) == ("hub", SHA256)


def test_dead_proxy(hub: LocalHub, pinned: Any, cache: Path, mode: Mode, proxy_of: Callable[[str], None]) -> None:
    mode("hub")
    with serve() as proxy:
        gone = proxy.endpoint
    proxy_of(gone)
    with at_most(10), pytest.raises(WeightsUnavailable, match="proxy"):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert hub.log == []


def test_xet_is_left_out(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    from huggingface_hub import constants

    mode("hub")
    hub.xet = True
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "hub"
    assert not [path for path in hub.requests() if "xet" in path]
    assert constants.HF_HUB_DISABLE_XET is False


def test_damaged_embedded_copy_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    content = weights.manifest()
    entry = {**content["weights"]["jpeg"], "sha256": "0" * 64}
    monkeypatch.setattr(weights, "manifest", lambda: {**content, "weights": {"jpeg": entry}})
    with pytest.raises(WeightsIntegrity, match="expected sha256 0000"):
        JPEGLoss()


def test_the_hub_client_is_imported_only_for_the_hub(tmp_path: Path) -> None:
    (tmp_path / "pinned.json").write_text(json.dumps({**weights.manifest(), "revision": None}))
    code = "loss = JPEGLoss(); print(loss.weights_source, 'huggingface_hub' in sys.modules)"
    assert finish(start(code, tmp_path)) == "embedded False"


def test_errors_have_one_base() -> None:
    for error in (WeightsNotFound, WeightsUnavailable, WeightsIntegrity):
        assert issubclass(error, WeightsError)
        assert getattr(weights, error.__name__) is error
