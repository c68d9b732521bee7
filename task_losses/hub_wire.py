"""A request to the Hub and its answer: bounded in time and in bytes, whatever the other side does.

The Hub's own client supplies connections, proxies, certificates and tokens. Its transfers are not used: they wait as
long as a server asks them to, take whatever it sends, and trust what it says about names and sizes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from task_losses.weights import WeightsIntegrity, WeightsUnavailable, is_commit

ANSWER_SECONDS = 3.0  # from the first packet to the answer's headers, and between two parts of its body
SLOWEST = 10_000  # bytes a second that a body brings on average, after ANSWER_SECONDS
TRIES = 3  # of a request that fails at once, as when a connection is dropped
AT_ONCE = 1.0  # seconds
LIBRARY = "task-losses"

T = TypeVar("T")


class Answer(NamedTuple):
    """What the Hub said of a file.

    Attributes:
        commit: that the asked revision means, 40 hexadecimal digits.
        content: of the file; empty if only its headers were asked for.
        is_large: whether the Hub keeps it outside git (LFS), under its sha256.
    """

    commit: str
    content: bytes
    is_large: bool


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        status: of HTTP.
        code: the Hub's own, such as RepoNotFound; empty if another server spoke.
        message: in words.
        wait: how long it asks to wait, if it does.
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.code = status, headers.get("x-error-code", "")
        self.message = headers.get("x-error-message", "")
        self.wait = headers.get("retry-after", "")
        parts = [f"HTTP {status}", self.code, self.message, f"it asks to wait {self.wait} s" if self.wait else ""]
        super().__init__(", ".join(part for part in parts if part))


def ask(method: str, url: str, token: str | bool | None, most: int) -> Answer:
    """Asks for a file (GET) or its headers (HEAD), again if that fails at once.

    Args:
        token: as for ``huggingface_hub.hf_hub_download``. It goes to the host of ``url`` alone.
        most: bytes that the file may have.

    Raises:
        WeightsUnavailable: no answer in time, one that comes too slowly, or one that no Hub gives.
        WeightsIntegrity: more bytes than ``most``, or another number than announced.
        Refused: an error of HTTP.
        Exception: whatever the client raises for want of a connection.
    """
    from huggingface_hub import constants, errors, get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # named there, loaded late

    if constants.is_offline_mode():
        raise errors.OfflineModeIsEnabled(url)
    # All that is slow on this side, imports and certificates, comes before the clock starts.
    client: Any = get_session()
    headers = {**build_hf_headers(token=token, library_name=LIBRARY), "accept-encoding": "identity"}
    for left in reversed(range(TRIES)):
        request = client.build_request(method, url, headers=headers, timeout=ANSWER_SECONDS)
        wire: _Wire[Answer] = _Wire()
        try:
            return wire.watch(partial(_receive, client, request, wire, most))
        except (WeightsUnavailable, WeightsIntegrity):
            raise
        except Exception as error:
            passing = not isinstance(error, Refused) or (error.status >= 500 and not error.wait)
            if not left or not passing or wire.seconds > AT_ONCE:
                raise
        time.sleep(0.2)
    raise AssertionError("the last try returns or raises")


class _Wire(Generic[T]):
    """The clock of a transfer. One thread moves bytes; the other watches, since no timeout of a client bounds the
    resolution of a name, a header that comes byte by byte, or a body that never ends."""

    def __init__(self) -> None:
        self.received = 0
        self.is_answered = self.is_abandoned = False
        self._start = time.monotonic()
        self._finished = threading.Event()
        self._result: T
        self._error: BaseException | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def watch(self, transfer: Callable[[], T]) -> T:
        threading.Thread(target=self._run, args=[transfer], daemon=True).start()
        while not self._finished.wait(0.05):
            late = self.seconds - ANSWER_SECONDS
            if late > 0 and (not self.is_answered or self.received < late * SLOWEST):
                self.is_abandoned = True
                got = f"only {self.received} bytes" if self.is_answered else "no answer"
                raise WeightsUnavailable(f"{got} within {self.seconds:.0f} s")
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self, transfer: Callable[[], T]) -> None:
        try:
            self._result = transfer()
        except BaseException as error:
            self._error = error
        self._finished.set()


def _receive(client: Any, request: Any, wire: _Wire[Any], most: int) -> Answer:
    with closing(client.send(request, stream=True, follow_redirects=True)) as response:
        wire.is_answered = True
        # The Hub answers for large files by sending elsewhere, with headers of its own.
        first = next((step for step in [*response.history, response] if "x-repo-commit" in step.headers), response)
        commit = first.headers.get("x-repo-commit", "")
        if response.status_code >= 400 and not (
            request.method == "HEAD" and is_commit(commit) and first is not response
        ):
            raise Refused(response.status_code, response.headers)
        if not is_commit(commit) or (response.status_code >= 300 and response.status_code < 400):
            raise WeightsUnavailable(
                f"{request.url} did not answer like a Hub (a login page of the network, or a wrong HF_ENDPOINT?); open "
                "the network's login page"
            )
        if urlsplit(str(request.url)).scheme == "https" != response.url.scheme:
            raise WeightsUnavailable(f"{request.url} leads to {response.url}, where anybody may listen and answer")
        announced = first.headers.get("x-linked-size")
        content = b"" if request.method == "HEAD" else _body(response, wire, most)
        if request.method == "GET" and announced is not None and announced != str(len(content)):
            raise WeightsIntegrity(f"a file of another size than announced: {len(content)} bytes, not {announced}")
        return Answer(commit, content, announced is not None)


def _body(response: Any, wire: _Wire[Any], most: int) -> bytes:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":  # a few bytes may stand for more than memory holds
        raise WeightsUnavailable(f"the answer is encoded ({encoding}), which was not asked for")
    announced = response.headers.get("content-length", "0")
    if announced.isascii() and announced.isdecimal() and int(announced[:30]) > most:
        raise WeightsIntegrity(f"a file of {announced[:30]} bytes, at most {most} are expected")
    content = bytearray()
    for part in response.iter_raw():
        content += part
        wire.received = len(content)
        if len(content) > most:
            raise WeightsIntegrity(f"a file of more than the {most} bytes that are expected")
        if wire.is_abandoned:
            break
    return bytes(content)
