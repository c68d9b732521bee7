"""A Hub on 127.0.0.1: the part of the Hub's HTTP protocol that huggingface_hub uses for model files, with faults.

    with serve() as hub:
        commit = hub.publish("owner/repo", {"a.safetensors": b"..."})
        hub.faults.append(Fault("a.safetensors", method="GET", flip=True, times=1))
        ...                      # use endpoint=hub.endpoint
        assert hub.requests("GET") == ["/owner/repo/resolve/.../a.safetensors"]

Only the standard library, real sockets. Repositories live in memory. Every request is logged in ``hub.log``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".sig")


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


@dataclass
class Repo:
    """Commits (id -> files), and what branches and tags point to."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({}, "initial commit")

    def commit(self, files: Mapping[str, bytes], message: str) -> str:
        listing = [(path, sha256(content)) for path, content in sorted(files.items())]
        oid = git_oid("commit", json.dumps([listing, self.branches.get("main"), message]).encode())
        self.commits[oid] = dict(files)
        self.branches["main"] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        return self.branches.get(revision) or self.tags.get(revision)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


class LocalHub(ThreadingHTTPServer):
    """The server and its state.

    Attributes:
        tokens: those that are valid. A request with another one is refused, one without is anonymous.
        storage: "host:port" that serves the content of LFS files after a redirect, as the Hub's storage does; None
            serves it directly.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.port = self.server_address[1]
        self.endpoint = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.tokens: set[str] = {"hf_valid"}
        self.storage: str | None = None
        self.xet = False
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.sent = 0  # bytes of endless bodies

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news here."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

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
    hub = LocalHub(port, certificate)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopping.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str | None = None, message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"
    fault: Fault
    body: bytes
    _headers_buffer: list[bytes]  # of the base class

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_request(self) -> None:
        # A client that takes this server for a proxy sends the whole address; the path is all that matters.
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.log.append((self.command, path, headers))
        self.fault = fault = self.server.take_fault(self.command, path)
        try:
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
            else:
                self.route(path)
        except Refusal as error:
            named = {"X-Error-Code": error.code, "X-Error-Message": error.message, **error.headers}
            self.answer(error.status, {"error": error.message}, {k: v for k, v in named.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def route(self, path: str) -> None:
        for methods, pattern, handle in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                return handle(self, **match.groupdict())
        raise Refusal(404, None, f"no route for {self.command} {path}")

    # Answers

    def answer(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        """Sends bytes, or anything else as JSON, with the length and none of the faults of a body."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_head(status, {"Content-Length": str(len(content)), **(headers or {}), **self.fault.headers})
        if self.command != "HEAD":
            self.wfile.write(content)

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

    # Who asks, for what

    def authorized(self) -> bool:
        """Whether a valid token came along. An invalid one is refused, as the Hub does even on public repositories."""
        sent = self.headers.get("Authorization")
        if sent is None:
            return False
        if sent.removeprefix("Bearer ") not in self.server.tokens:
            raise Refusal(401, None, "Invalid credentials in Authorization header")
        return True

    def find(self, repo_id: str, revision: str = "main") -> tuple[Repo, str]:
        authorized = self.authorized()
        repo = self.server.repos.get(repo_id)
        if repo is None or (repo.private and not authorized):
            raise Refusal(404 if authorized else 401, "RepoNotFound", "Repository not found")
        if repo.gated and not authorized:
            raise Refusal(401, "GatedRepo", f"Access to model {repo_id} is restricted.")
        oid = repo.resolve(revision)
        if oid is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, oid

    def require_token(self) -> None:
        if not self.authorized():
            raise Refusal(401, None, "Invalid username or password.")

    def json(self) -> Any:
        return json.loads(self.body)

    # Reading

    def file(self, repo_id: str, revision: str, path: str) -> None:
        repo, oid = self.find(repo_id, revision)
        if path not in repo.commits[oid]:
            raise Refusal(404, "EntryNotFound", f"Entry not found: {path}", **{"X-Repo-Commit": oid})
        content = repo.commits[oid][path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{content_id(path, content)}"', "Accept-Ranges": "bytes"}
        if path.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
            if self.server.xet:
                token_route = f"{self.server.endpoint}/api/models/{repo_id}/xet-read-token/{oid}"
                headers |= {"X-Xet-Hash": sha256(b"xet" + content), "Link": f'<{token_route}>; rel="xet-auth"'}
            if self.server.storage is not None:
                return self.answer(302, b"", {**headers, "Location": f"http://{self.server.storage}/{sha256(content)}"})
        return self.send_file(content, headers)

    def stored(self, oid: str) -> None:
        contents = [c for repo in self.server.repos.values() for files in repo.commits.values() for c in files.values()]
        for content in contents:
            if sha256(content) == oid:
                return self.send_file(content, {"ETag": f'"{oid}"'})
        raise Refusal(404)

    def info(self, repo_id: str, revision: str = "main") -> None:
        repo, oid = self.find(repo_id, revision)
        siblings = [{"rfilename": path} for path in repo.commits[oid]]
        about = {"private": repo.private, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        self.answer(200, {"_id": "0", "id": repo_id, "modelId": repo_id, "sha": oid, **about})

    def refs(self, repo_id: str) -> None:
        repo, _ = self.find(repo_id)

        def listed(kind: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in refs.items()]

        self.answer(
            200, {"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []}
        )

    def paths_info(self, repo_id: str, revision: str) -> None:
        repo, oid = self.find(repo_id, revision)
        wanted = self.json()["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        found = []
        for path in wanted:
            if path in repo.commits[oid]:
                content = repo.commits[oid][path]
                item = {"type": "file", "path": path, "size": len(content), "oid": git_oid("blob", content)}
                if path.endswith(LFS_SUFFIXES):
                    item["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
                found.append(item)
        self.answer(200, found)

    def whoami(self) -> None:
        self.require_token()
        self.answer(200, {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    # Writing

    def create(self) -> None:
        self.require_token()
        wanted = self.json()
        repo_id = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        exists = repo_id in self.server.repos
        if not exists:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.server.repos[repo_id] = Repo(private=private)
        self.answer(409 if exists else 200, {"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id, "id": "0"})

    def validate_yaml(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, repo_id: str, revision: str) -> None:
        self.require_token()
        repo, oid = self.find(repo_id, revision)
        plan = []
        for wanted in self.json()["files"]:
            path = wanted["path"]
            present = repo.commits[oid].get(path)
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            known = None if present is None else content_id(path, present)
            plan.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
        self.answer(200, {"files": plan})

    def lfs_batch(self, repo_id: str) -> None:
        self.require_token()
        objects = []
        for wanted in self.json()["objects"]:
            item: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.lfs:
                upload = {"href": f"{self.server.endpoint}/lfs/{wanted['oid']}", "header": {}}
                item["actions"] = {"upload": upload}
            objects.append(item)
        self.answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def lfs_put(self, oid: str) -> None:
        if sha256(self.body) != oid:
            raise Refusal(400, None, "the content has another sha256")
        self.server.lfs[oid] = self.body
        self.answer(200)

    def commit(self, repo_id: str, revision: str) -> None:
        self.require_token()
        repo, oid = self.find(repo_id, revision)
        files = dict(repo.commits[oid])
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, oid):
                    raise Refusal(412, None, "A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
            else:
                raise Refusal(400, None, f"operation {item['key']!r} is not served here")
        made = repo.commit(files, message)
        self.answer(
            200,
            {
                "commitUrl": f"{self.server.endpoint}/{repo_id}/commit/{made}",
                "commitOid": made,
                "pullRequestUrl": None,
                "success": True,
            },
        )

    def tag(self, repo_id: str, revision: str) -> None:
        self.require_token()
        repo, oid = self.find(repo_id, revision)
        name = self.json()["tag"]
        if name in repo.tags:
            raise Refusal(409, None, "Tag reference exists already.")
        repo.tags[name] = oid
        self.answer(200, {})


def content_id(path: str, content: bytes) -> str:
    return sha256(content) if path.endswith(LFS_SUFFIXES) else git_oid("blob", content)


_REPO = r"(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("GET", "HEAD"), rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", Handler.file),
    (("GET", "HEAD"), r"/(?P<oid>[0-9a-f]{64})", Handler.stored),
    (("GET",), rf"/api/models/{_REPO}/revision/{_REVISION}", Handler.info),
    (("GET",), rf"/api/models/{_REPO}/refs", Handler.refs),
    (("GET",), rf"/api/models/{_REPO}", Handler.info),
    (("GET",), r"/api/whoami-v2", Handler.whoami),
    (("POST",), rf"/api/models/{_REPO}/paths-info/{_REVISION}", Handler.paths_info),
    (("POST",), r"/api/repos/create", Handler.create),
    (("POST",), r"/api/validate-yaml", Handler.validate_yaml),
    (("POST",), rf"/api/models/{_REPO}/preupload/{_REVISION}", Handler.preupload),
    (("POST",), rf"/api/models/{_REPO}/commit/{_REVISION}", Handler.commit),
    (("POST",), rf"/api/models/{_REPO}/tag/{_REVISION}", Handler.tag),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
]
