"""The Hub of :mod:`training.local_hub`, with faults.

    with serve() as hub:
        commit = hub.publish("owner/repo", {"a.safetensors": b"..."})
        hub.faults.append(Fault("a.safetensors", method="GET", flip=True, times=1))
        ...                      # use endpoint=hub.endpoint
        assert hub.requests("GET") == ["/owner/repo/resolve/.../a.safetensors"]

Only the standard library, real sockets. Every request is logged in ``hub.log``.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training import local_hub
from training.local_hub import Refusal, Repo, serving, sha256


@dataclass
class Fault:
    """What goes wrong with requests whose path matches the expression ``path``, ``times`` times (None: always).

    Attributes:
        method: only for requests of this method.
        status, code: answer with this status and X-Error-Code instead.
        page: answer 200 with this body and none of a Hub's headers, as a captive portal does.
        hang: seconds to wait before answering.
        until: answer only once this is true (or the server stops).
        drip: seconds between the single bytes of the answer's header.
        drop: close the connection without an answer.
        keep: announce the whole body, send this many bytes, close.
        flip: flip a bit of the last byte of the body.
        cut: leave this many bytes out of the body, and announce its true length: all but what the HEAD said.
        pace: seconds to wait after the first 1000 bytes of the body.
        body_drip: seconds between the single bytes of the body.
        endless: send zeros as the body, until the client hangs up.
        headers: in the place of the answer's own, or besides.
        content: in the place of the file's own.
    """

    path: str
    method: str | None = None
    times: int | None = None
    status: int | None = None
    code: str | None = None
    page: bytes | None = None
    hang: float = 0
    until: Callable[[], bool] | None = None
    drip: float = 0
    drop: bool = False
    keep: int | None = None
    flip: bool = False
    cut: int = 0
    pace: float = 0
    body_drip: float = 0
    endless: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


class LocalHub(local_hub.LocalHub):
    """The server and its state.

    Attributes:
        storage: "host:port" that serves the content of LFS files after a redirect, as the Hub's storage does; None
            serves it directly.
        xet: whether large files are offered over the Xet protocol too.
    """

    def __init__(self, port: int = 0, certificate: Path | None = None) -> None:
        super().__init__(port, Handler)
        if certificate is not None:
            self.endpoint = self.endpoint.replace("http:", "https:")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.faults: list[Fault] = []
        self.tokens = {"hf_valid"}
        self.storage: str | None = None
        self.xet = False
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.sent = 0  # bytes of endless bodies

    def publish(self, repo_id: str, files: Mapping[str, bytes], message: str = "publish") -> str:
        return self.repos.setdefault(repo_id, Repo()).commit(files, message)

    def requests(self, method: str | None = None) -> list[str]:
        """Paths asked for so far."""
        with self.lock:
            return [path for made, path, _ in self.log if method in (None, made)]

    def take_fault(self, method: str, path: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if re.search(fault.path, path) and fault.method in (None, method) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return Fault("")


@contextmanager
def serve(port: int = 0, certificate: Path | None = None) -> Iterator[LocalHub]:
    """Runs a server. certificate: a PEM file with the key and the certificate, for https."""
    with serving(LocalHub(port, certificate)) as hub:
        yield hub


class Handler(local_hub.Handler):
    server: LocalHub
    fault: Fault
    _headers_buffer: list[bytes]  # of the base class

    def respond(self, path: str) -> None:
        with self.server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.log.append((self.command, path, headers))
        self.fault = fault = self.server.take_fault(self.command, path)
        if fault.hang and self.server.stopping.wait(fault.hang):
            return
        while fault.until is not None and not fault.until():
            if self.server.stopping.wait(0.01):
                return
        if fault.drop:
            self.hang_up()
        elif fault.page is not None:
            self.answer(200, fault.page, {"Content-Type": "text/html"})
        elif fault.status is not None:
            raise Refusal(fault.status, fault.code, "injected")
        elif self.command in ("GET", "HEAD") and re.fullmatch(r"/[0-9a-f]{64}", path):
            self.stored(path[1:])
        else:
            super().respond(path)

    def answer(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        """With none of the faults of a body."""
        super().answer(status, body, {**(headers or {}), **self.fault.headers})

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.fault.drip:
            # Every byte comes within the patience of a client's socket, the header as a whole does not.
            for byte in b"".join(self._headers_buffer):
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.stopping.wait(self.fault.drip):
                    break
            self._headers_buffer = []
        self.end_headers()

    def send_file(self, content: bytes, headers: Mapping[str, str]) -> None:
        fault = self.fault
        if self.command == "HEAD":
            return self.answer(200, b"", {"Content-Length": str(len(content)), **headers})
        if fault.flip:
            content = content[:-1] + bytes([content[-1] ^ 1])
        content = (content if fault.content is None else fault.content)[: len(content) - fault.cut]
        status = 200
        resumed = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if resumed:
            start, status = int(resumed[1]), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content = content[start:]
        self.send_head(status, {"Content-Length": str(len(content)), **headers, **fault.headers})
        while fault.endless and not self.server.stopping.is_set():
            self.server.sent += self.connection.send(bytes(2**16))
        if fault.body_drip:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.stopping.wait(fault.body_drip):
                    break
            return None
        if fault.pace:
            self.wfile.write(content[:1000])
            self.wfile.flush()
            self.server.stopping.wait(fault.pace)
            content = content[1000:]
        self.wfile.write(content[: fault.keep])
        if fault.keep is not None:
            self.wfile.flush()
            self.hang_up()
        return None

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send_stored(self, content: bytes, headers: Mapping[str, str], repo_id: str, oid: str) -> None:
        if "X-Linked-Etag" in headers:
            if self.server.xet:
                token_route = f"{self.server.endpoint}/api/models/{repo_id}/xet-read-token/{oid}"
                headers = {
                    **headers,
                    "X-Xet-Hash": sha256(b"xet" + content),
                    "Link": f'<{token_route}>; rel="xet-auth"',
                }
            if self.server.storage is not None:
                return self.answer(302, b"", {**headers, "Location": f"http://{self.server.storage}/{sha256(content)}"})
        return self.send_file(content, headers)

    def stored(self, oid: str) -> None:
        contents = [c for repo in self.server.repos.values() for files in repo.commits.values() for c in files.values()]
        for content in contents:
            if sha256(content) == oid:
                return self.send_file(content, {"ETag": f'"{oid}"'})
        raise Refusal(404)
