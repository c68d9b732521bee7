"""A Hub that is slow, endless, lying or somebody else: each case ends within five seconds, right or in a clear line."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hubserver import Fault, LocalHub, serve
from subprocesses import finish, start

import task_losses
from task_losses import JPEGLoss, WeightsError, WeightsIntegrity, WeightsUnavailable, weights
from task_losses.weights import MANIFEST
from training.local_hub import sha256

Mode = Callable[[str], None]
ENTRY = weights.manifest()["weights"]["jpeg"]
FILE, SHA256 = ENTRY["filename"], ENTRY["sha256"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def files_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


BOMB = gzip.compress(bytes(2**26))  # a thousandth of what it stands for
HOSTILE: dict[str, tuple[Fault, type[WeightsError], str]] = {
    "a wait of an hour": (Fault(FILE, status=429, headers={"Retry-After": "3600"}), WeightsUnavailable, "wait 3600 s"),
    "a failure with a wait": (Fault(FILE, status=503, headers={"Retry-After": "3600"}), WeightsUnavailable, "3600 s"),
    "a body that drips": (Fault(FILE, body_drip=0.05), WeightsUnavailable, "only .* bytes within"),
    "a body that stops": (Fault(FILE, pace=600), WeightsUnavailable, "check the network"),
    "an endless body": (Fault(FILE, endless=True, headers={"Content-Length": "9" * 15}), WeightsIntegrity, "expected"),
    "an endless body of no length": (
        Fault(FILE, endless=True, headers={"Content-Length": "", "Connection": "close"}),
        WeightsError,
        "expected|HTTP|Protocol",
    ),
    "a length that is no number": (Fault(FILE, headers={"Content-Length": "many"}), WeightsUnavailable, "Protocol"),
    "a negative length": (Fault(FILE, headers={"Content-Length": "-1"}), WeightsUnavailable, "Protocol"),
    "a length that is too small": (Fault(FILE, headers={"Content-Length": "100"}), WeightsIntegrity, "another size"),
    "a length that is too large": (
        Fault(FILE, headers={"Content-Length": str(ENTRY["size"] + 1)}, keep=10**9),
        WeightsIntegrity,
        "at most",
    ),
    "a size that lies": (Fault(FILE, headers={"X-Linked-Size": "1"}), WeightsIntegrity, "another size"),
    "a bomb": (
        Fault(FILE, content=BOMB, headers={"Content-Encoding": "gzip", "X-Linked-Size": str(len(BOMB))}),
        WeightsUnavailable,
        "encoded",
    ),
    "a commit that is a path": (
        Fault(FILE, headers={"X-Repo-Commit": "../../../../escaped"}),
        WeightsUnavailable,
        "not answer like a Hub",
    ),
    "escapes in an error": (
        Fault(FILE, status=500, headers={"X-Error-Message": "\x1b[2Jall \xe2\x80\xae fine"}),
        WeightsUnavailable,
        r"\\x1b",
    ),
    "a message without end": (Fault(FILE, status=500, headers={"X-Error-Message": "x" * 60000}), WeightsError, "500"),
    "a circle of redirects": (
        Fault("", status=302, headers={"Location": "/round"}),
        WeightsUnavailable,
        "redirect|no answer",
    ),
    "a redirect to a file": (Fault(FILE, status=302, headers={"Location": "file:///etc/passwd"}), WeightsError, "file"),
    "a redirect to nowhere": (Fault(FILE, status=302), WeightsUnavailable, "not answer like a Hub"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_ends_soon_in_one_line_and_leaves_nothing(
    name: str, hub: LocalHub, pinned: Any, cache: Path, mode: Mode
) -> None:
    mode("hub")
    fault, error, message = HOSTILE[name]
    hub.faults.append(fault)
    with soon(), pytest.raises(error, match=message) as raised:
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) <= 2000
    assert files_in(cache) == []
    hub.faults.clear()
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_sha256 == SHA256


def test_an_endless_body_is_left_as_soon_as_it_is_too_long(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    """Also where no length was announced, as with parts of a body that announce themselves."""
    mode("hub")
    hub.faults.append(Fault(FILE, endless=True, headers={"Content-Length": str(ENTRY["size"])}))
    with pytest.raises(WeightsIntegrity):
        JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    time.sleep(0.2)
    sent = hub.sent
    assert sent < 2**24
    time.sleep(0.3)
    assert hub.sent == sent, "the connection is closed, not left to run"


def test_names_in_the_cache_come_from_nobody_else(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    hub.faults.append(Fault(FILE, headers={"ETag": '"../../../../escaped"', "X-Linked-Etag": '"../../escaped"'}))
    assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "hub"
    assert files_in(cache) == sorted([SHA256, FILE])
    assert not list(cache.parent.rglob("escaped*"))


def test_a_manifest_without_end_is_not_taken(hub: LocalHub, cache: Path) -> None:
    hub.publish("me/odd", {MANIFEST: b" " * 2**24})
    with soon(), pytest.raises(WeightsIntegrity, match="at most"):
        JPEGLoss("me/odd", endpoint=hub.endpoint, cache_dir=cache)


def test_a_redirect_takes_no_token_along_and_may_lead_elsewhere(
    hub: LocalHub, pinned: Any, cache: Path, mode: Mode, released_files: dict[str, bytes]
) -> None:
    mode("hub")
    hub.repos["acme/moved"] = hub.repos["acme/released"]
    path = f"/acme/moved/resolve/{pinned['revision']}/{FILE}"
    for number, host in enumerate(("127.0.0.1", "localhost")):
        hub.faults[:] = [Fault("acme/released", status=307, headers={"Location": f"http://{host}:{hub.port}{path}"})]
        loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache / str(number), token="hf_valid")
        assert loss.weights_sha256 == SHA256
    sent = ["authorization" in headers for _, asked, headers in hub.log if asked == path]
    assert sent == [True, False], "the same host may know the token, another may not"


# Who is there


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, which makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "self_signed.pem"
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    path.write_text(key.read_text() + certificate.read_text())
    return path


def test_a_certificate_that_nobody_signed_is_refused(certificate: Path, cache: Path) -> None:
    with serve(certificate=certificate) as hub:
        hub.publish("me/x", {MANIFEST: b"{}"})
        with soon(), pytest.raises(WeightsUnavailable, match=r"(?i)certificate") as raised:
            JPEGLoss("me/x", endpoint=hub.endpoint, cache_dir=cache)
        assert hub.log == []
    assert "SSL_CERT_FILE" in str(raised.value)


def test_https_does_not_lead_to_http(
    certificate: Path, hub: LocalHub, pinned: Any, tmp_path: Path, cache: Path
) -> None:
    with serve(certificate=certificate) as safe:
        plain = f"{hub.endpoint}/acme/released/resolve/{pinned['revision']}/{FILE}"
        headers = {"Location": plain, "X-Repo-Commit": pinned["revision"]}
        safe.faults.append(Fault("", status=302, headers=headers))
        code = """
try: JPEGLoss(cache_dir="cache")
except WeightsError as error: print(type(error).__name__, error)
"""
        environment = {"HF_ENDPOINT": safe.endpoint, "SSL_CERT_FILE": str(certificate), "TASK_LOSSES_WEIGHTS": "hub"}
        printed = finish(start(code, tmp_path, **environment))
    assert printed.startswith("WeightsUnavailable ")
    assert "where anybody may listen" in printed


# Only the wire is timed


def test_what_the_client_does_before_it_asks_is_not_waited_for_as_if_the_hub_did_it(
    hub: LocalHub, pinned: Any, cache: Path, mode: Mode
) -> None:
    """A busy machine takes seconds to import the client and to read its certificates; the Hub answers at once."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    mode("hub")

    def slow() -> Any:
        time.sleep(3.5)
        return _http.default_client_factory()

    huggingface_hub.set_client_factory(slow)
    try:
        assert JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_source == "hub"
    finally:
        huggingface_hub.set_client_factory(_http.default_client_factory)


def test_offline_is_said_at_once_and_by_its_name(
    hub: LocalHub, pinned: Any, cache: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, get_session, set_client_factory
    from huggingface_hub.utils import _http

    mode("hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    set_client_factory(lambda: time.sleep(3.5) or _http.default_client_factory())
    try:
        with soon(2), pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE is set"):
            JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    finally:
        set_client_factory(_http.default_client_factory)
    assert hub.log == []
    assert get_session() is not None


def test_the_clients_own_settings_stay_as_they_are(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    """Whoever uses the client in another thread meanwhile uses what they chose."""
    from huggingface_hub import constants

    mode("hub")
    seen = []
    hub.faults.append(Fault("", until=lambda: seen.append(constants.HF_HUB_DISABLE_XET) or True, times=None))
    loss = JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    loss.push_to_hub("me/copy", token="hf_valid", endpoint=hub.endpoint)
    assert len(seen) > 5
    assert set(seen) == {False}


# Whose cache it is


def test_threads_that_share_a_cache(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    mode("hub")
    hub.faults.append(Fault(FILE, until=lambda: len(hub.requests("GET")) >= 4))
    found: list[str | None] = []

    def load() -> None:
        found.append(JPEGLoss(endpoint=hub.endpoint, cache_dir=cache).weights_sha256)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SHA256] * 4
    assert files_in(cache) == sorted([SHA256, FILE])


# The interpreter may be out of the other user's reach: what is needed of the client is loaded before.


def _closed_to_others() -> str | None:
    """A folder that another user cannot enter, though code or packages lie in it."""
    for place in (sys.prefix, torch.__file__, huggingface_hub.__file__, task_losses.__file__):
        for folder in Path(place).resolve().parents:
            if not folder.stat().st_mode & 0o001:
                return str(folder)
    return None


_ROOT = hasattr(os, "getuid") and os.getuid() == 0
_AS_ANOTHER_USER = pytest.mark.skipif(
    not _ROOT or _closed_to_others() is not None,
    reason=f"another user cannot enter {_closed_to_others()}" if _ROOT else "only root becomes another user",
)
_BECOME = """
import encodings.idna, os
from huggingface_hub import get_token, hf_hub_url, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers, get_session
build_hf_headers(), get_session().build_request("GET", "http://127.0.0.1")
os.setgid(USER), os.setuid(USER)
"""
_LOAD = """
try: print(JPEGLoss(CACHE).weights_source)
except WeightsError as error: print(type(error).__name__, error)
"""


@_AS_ANOTHER_USER
@pytest.mark.parametrize(
    ("mask", "filled", "expected"),
    [
        (0o077, True, "not writable"),
        pytest.param(0o022, True, "cache", marks=pytest.mark.slow),
        (0o022, False, "not writable"),
    ],
)
def test_a_cache_of_another_user(
    mask: int, filled: bool, expected: str, hub: LocalHub, pinned: Any, mode: Mode
) -> None:
    mode("hub")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to others
        folder = Path(name)
        (folder / "pinned.json").write_text(json.dumps(pinned))
        before = os.umask(mask)
        try:
            (folder / "cache").mkdir()
            if filled:
                JPEGLoss(endpoint=hub.endpoint, cache_dir=folder / "cache")
        finally:
            os.umask(before)
        folder.chmod(0o755)
        home = folder / "home"
        home.mkdir()
        home.chmod(0o777)
        environment = {"HF_ENDPOINT": hub.endpoint, "TASK_LOSSES_WEIGHTS": "hub", "HF_HOME": str(home)}
        code = _BECOME.replace("USER", "65534") + _LOAD.replace("CACHE", "cache_dir='cache'")
        assert expected in finish(start(code, folder, **environment))


@_AS_ANOTHER_USER
@pytest.mark.parametrize("home", [None, pytest.param("/", marks=pytest.mark.slow), "/no/such/home"])
def test_without_a_home_that_can_be_written(home: str | None, hub: LocalHub, pinned: Any) -> None:
    """The package's own copy in the usual mode; a clear line where the Hub's was asked for."""
    forget = f"""
import os
for name in ("HF_HOME", "XDG_CACHE_HOME", "HOME"): os.environ.pop(name, None)
if {home!r}: os.environ["HOME"] = {home!r}
"""
    load = _LOAD.replace("CACHE", "")
    code = forget + _BECOME.replace("USER", "12345") + load + 'os.environ["TASK_LOSSES_WEIGHTS"] = "hub"' + load
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name, "pinned.json").write_text(json.dumps(pinned))
        os.chmod(name, 0o755)
        first, second = finish(start(code, Path(name), HF_ENDPOINT=hub.endpoint)).splitlines()
    assert first == "embedded"
    assert second.startswith("WeightsUnavailable ")
    assert "cache_dir= or HF_HOME" in second


def test_the_clients_cache_and_ours_are_one(hub: LocalHub, pinned: Any, cache: Path, mode: Mode) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    mode("hub")
    JPEGLoss(endpoint=hub.endpoint, cache_dir=cache)
    asked = len(hub.log)
    found = hf_hub_download("acme/released", FILE, revision=pinned["revision"], cache_dir=cache, endpoint=hub.endpoint)
    assert sha256(Path(found).read_bytes()) == SHA256
    assert len(hub.log) == asked
    report = scan_cache_dir(cache)
    assert not report.warnings
    assert [repo.repo_id for repo in report.repos] == ["acme/released"]
