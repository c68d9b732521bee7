"""A Hub on this machine, to try sharing without an account: what is pushed is in memory, and gone at the end.

    python -m training.local_hub        # in a terminal of its own; Ctrl-C ends it

It prints two lines for the terminal in which you push and load. It speaks the part of the Hub's HTTP protocol that
huggingface_hub and this project use for model files, and nobody but this machine can reach it. The tests use it too,
with faults (``tests/hub/hubserver.py``).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".sig", ".png")
TOKEN = "hf_local"
PORT = 8765


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
        lfs: uploaded contents by sha256, before a commit names them.
        told: called with a line for each commit.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0, handler: type[BaseHTTPRequestHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", port), handler or Handler)
        self.port = self.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.tokens: set[str] = {TOKEN}
        self.told: Callable[[str], None] = lambda line: None
        self.stopping = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news here."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


Hub = TypeVar("Hub", bound=LocalHub)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Runs a server in a thread."""
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
    body: bytes

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_request(self) -> None:
        # A client that takes this server for a proxy sends the whole address; the path is all that matters.
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.respond(path)
        except Refusal as error:
            named = {"X-Error-Code": error.code, "X-Error-Message": error.message, **error.headers}
            self.answer(error.status, {"error": error.message}, {k: v for k, v in named.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def respond(self, path: str) -> None:
        for methods, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                getattr(self, name)(**match.groupdict())
                return
        raise Refusal(404, None, f"no route for {self.command} {path}")

    # Answers

    def answer(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        """Sends bytes, or anything else as JSON, with the length."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_head(status, {"Content-Length": str(len(content)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_file(self, content: bytes, headers: Mapping[str, str]) -> None:
        self.answer(200, content, headers)

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
        self.send_stored(content, headers, repo_id, oid)

    def send_stored(self, content: bytes, headers: Mapping[str, str], repo_id: str, oid: str) -> None:
        """A file of a commit; the Hub has other places for large ones, this server has not."""
        self.send_file(content, headers)

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
        self.server.told(f"{repo_id}@{made}: {', '.join(sorted(files))}")
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
# Methods, path, and the name of what answers.
ROUTES: list[tuple[tuple[str, ...], str, str]] = [
    (("GET", "HEAD"), rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", "file"),
    (("GET",), rf"/api/models/{_REPO}/revision/{_REVISION}", "info"),
    (("GET",), rf"/api/models/{_REPO}/refs", "refs"),
    (("GET",), rf"/api/models/{_REPO}", "info"),
    (("GET",), r"/api/whoami-v2", "whoami"),
    (("POST",), rf"/api/models/{_REPO}/paths-info/{_REVISION}", "paths_info"),
    (("POST",), r"/api/repos/create", "create"),
    (("POST",), r"/api/validate-yaml", "validate_yaml"),
    (("POST",), rf"/api/models/{_REPO}/preupload/{_REVISION}", "preupload"),
    (("POST",), rf"/api/models/{_REPO}/commit/{_REVISION}", "commit"),
    (("POST",), rf"/api/models/{_REPO}/tag/{_REVISION}", "tag"),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.local_hub",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"0 for any that is free [{PORT}]")
    port = parser.parse_args(arguments).port
    try:
        hub = LocalHub(port)
    except (OSError, OverflowError) as error:
        print(
            f"error: cannot listen on port {port} ({error}); try another, or --port 0 for a free one", file=sys.stderr
        )
        return 2
    hub.told = lambda line: print(line, flush=True)
    print("A Hub on this machine, until Ctrl-C. In another terminal, before Python is started:")
    print(f"    export HF_ENDPOINT={hub.endpoint} HF_TOKEN={TOKEN}", flush=True)
    try:
        hub.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        hub.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
