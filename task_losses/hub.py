"""Files from and to the Hugging Face Hub: bounded in time, read from the cache where possible, checked before use.

This module knows nothing of losses. What makes a file right is the caller's ``parse``; the Hub's client compares no
hashes, neither after a download nor when it finds a file in its cache.
"""

from __future__ import annotations

import concurrent.futures
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from task_losses.hub_errors import translate
from task_losses.weights import WeightsError, WeightsIntegrity, WeightsNotFound, WeightsUnavailable, is_commit

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
log = logging.getLogger("task_losses")

PROBE_SECONDS = 3.0  # the client alone would wait minutes for a network that swallows packets
LIBRARY = "task-losses"

_transfer_lock = threading.Lock()


@dataclass(frozen=True)
class HubOptions:
    """How to reach the Hub. Names, meaning and defaults are those of ``huggingface_hub.hf_hub_download``."""

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    endpoint: str | None = None
    local_files_only: bool = False


class HubFile(NamedTuple):
    """A file at the top level of a model repository, at a branch, tag or commit."""

    repo_id: str
    revision: str
    filename: str

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}/{self.filename}"


def resolve(file: HubFile, options: HubOptions) -> HubFile:
    """The file with its branch or tag replaced by the commit that it means now.

    If the Hub cannot be reached, it is the commit that :func:`remember` noted last.

    Raises:
        WeightsNotFound, WeightsUnavailable: as for :func:`fetch`.
    """
    if is_commit(file.revision):
        return file
    cached = _find_in_cache(file, options)
    try:
        if options.local_files_only:
            raise _not_cached(file)
        _, commit = _probe(file, options)
    except WeightsUnavailable as error:
        if cached is None:
            raise
        commit = cached.parent.name
        if not options.local_files_only:
            log.warning("%s; using the copy in the cache, of commit %s", error, commit)
    return file._replace(revision=commit)


def remember(file: HubFile, commit: str, options: HubOptions) -> None:
    """Notes in the cache that a file's branch or tag means a commit whose file is there, for times without network."""
    cached = _find_in_cache(file, options)
    if is_commit(file.revision) or options.local_files_only or (cached and cached.parent.name == commit):
        return
    with suppress(WeightsError):
        _download(file, options)


def fetch(file: HubFile, parse: Callable[[bytes], T], options: HubOptions) -> tuple[T, bool]:
    """Fetches a file and parses it. One in the cache is taken without asking the network.

    Args:
        file: of a commit; see :func:`resolve`.
        parse: turns the file's bytes into the result; raises WeightsIntegrity if they are wrong. Such a file is
            fetched again, once.

    Returns:
        The result, and whether the file was in the cache.

    Raises:
        WeightsNotFound: the Hub says that there is no such thing, or gives no access to it.
        WeightsUnavailable: the Hub could not be asked, or the file not transferred or stored.
        WeightsIntegrity: wrong bytes, and again wrong bytes or no answer.
    """
    damage: WeightsIntegrity | None = None
    cached = _find_in_cache(file, options)
    if cached is not None:
        try:
            return _parse_file(cached, parse), True
        except WeightsIntegrity as error:
            damage = error
    if options.local_files_only:
        raise damage or _not_cached(file)
    try:
        reached, _ = _probe(file, options)
        if damage is None:
            try:
                return _parse_file(_download(file, reached), parse), False
            except WeightsIntegrity as error:
                damage = error
        log.warning("%s; fetching it again", damage)
        return _parse_file(_download(file, reached, again=True), parse), False
    except WeightsUnavailable as error:
        if damage is None:
            raise
        raise WeightsIntegrity(f"{damage}; fetching it again failed: {error}") from error


def upload(repo_id: str, files: Mapping[str, bytes], message: str, options: HubOptions, private: bool = False) -> str:
    """Puts files into a model repository, which is made if need be, in one commit.

    Args:
        files: path in the repository -> content. Other files of the repository stay.
        private: of a repository that is made; an existing one stays as it is.

    Returns:
        The commit, 40 hexadecimal digits; the present one if nothing differs.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the Hub refused; the message says why.
    """
    from huggingface_hub import CommitOperationAdd

    api = client(options)
    api.create_repo(repo_id, private=private, exist_ok=True)
    head = api.model_info(repo_id).sha  # the commit fails if somebody else's comes between
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    with _plain_http():
        return api.create_commit(repo_id, operations, commit_message=message, parent_commit=head).oid


def check_upload(repo_id: str, commit: str, files: Mapping[str, bytes], options: HubOptions) -> None:
    """Downloads files of a commit into an empty cache and compares them: what users get, not what was sent.

    Raises:
        WeightsError: a file is missing, unreachable or differs.
    """
    with tempfile.TemporaryDirectory() as empty:
        for name, content in files.items():
            file = HubFile(repo_id, commit, name)

            def compare(data: bytes, file: HubFile = file, content: bytes = content) -> None:
                if data != content:
                    raise WeightsIntegrity(f"{file} on the Hub differs from what was uploaded")

            fetch(file, compare, replace(options, cache_dir=empty))


def client(options: HubOptions) -> HfApi:
    """The Hub's own client, for everything but downloads."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=options.endpoint, token=options.token, library_name=LIBRARY)


def _find_in_cache(file: HubFile, options: HubOptions) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(file.repo_id, file.filename, cache_dir=options.cache_dir, revision=file.revision)
    except HFValidationError as error:
        raise WeightsNotFound(f"{file.repo_id!r} cannot be a repository of the Hub: {error}") from error
    except OSError:  # an unreadable cache holds nothing for us
        return None
    return Path(found) if isinstance(found, str) else None


def _not_cached(file: HubFile) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"{file} is not in the local cache, and local_files_only forbids asking the Hub; load it once with network, "
        "or pass pretrained=PATH"
    )


def _parse_file(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:  # another process is replacing it
        raise WeightsIntegrity(f"{path} vanished from the cache") from error
    except OSError as error:
        raise WeightsUnavailable(f"cannot read {path} in the Hub's cache: {error.strerror or error}") from error
    return parse(data)


def _probe(file: HubFile, options: HubOptions) -> tuple[HubOptions, str]:
    """Asks for the file's headers, once and without patience, before the client gets to its many retries.

    Returns:
        The options to download with (a saved token that the Hub refuses is left out), and the revision's commit.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return options, _ask(file, options)
    except Exception as error:
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code == 401
        saved = options.token in (None, True) and get_token() is not None
        if not (refused and saved):
            raise translate(error, file, options.cache_dir) from error
    anonymous = replace(options, token=False)
    try:
        commit = _ask(file, anonymous)
    except Exception as error:
        raise translate(error, file, options.cache_dir) from error
    log.warning("the Hub refused the saved token (expired?) for %s; went on without it", file)
    return anonymous, commit


def _ask(file: HubFile, options: HubOptions) -> str:
    """The commit that the Hub names for a file, within PROBE_SECONDS. Raises whatever the client raises."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(file.repo_id, file.filename, revision=file.revision, endpoint=options.endpoint)

    def ask() -> str:
        metadata = get_hf_file_metadata(url, token=options.token, timeout=PROBE_SECONDS, library_name=LIBRARY)
        if metadata.commit_hash is None or not is_commit(metadata.commit_hash):
            raise WeightsUnavailable(
                f"{file}: {url} did not answer like a Hub (a login page of the network, or a wrong HF_ENDPOINT?); "
                "open the network's login page, check HF_ENDPOINT and the proxy, or pass pretrained=PATH"
            )
        if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
            # Firewalls that let the Hub pass often swallow the packets to its storage.
            with suppress(HfHubHTTPError):  # an answer, that is enough: signed links are often for GET alone
                get_hf_file_metadata(metadata.location, token=False, timeout=PROBE_SECONDS, library_name=LIBRARY)
        return metadata.commit_hash

    try:
        return _within(PROBE_SECONDS, ask)
    except concurrent.futures.TimeoutError as error:
        raise WeightsUnavailable(
            f"{file}: no answer within {PROBE_SECONDS:g} s; check the network, HF_ENDPOINT and the proxy, or pass "
            "pretrained=PATH"
        ) from error


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Calls, but waits only so long: no timeout of an HTTP client bounds the resolution of a name."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done.result(timeout=seconds)


def _download(file: HubFile, options: HubOptions, again: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        with _plain_http():
            path = hf_hub_download(
                file.repo_id,
                file.filename,
                revision=file.revision,
                cache_dir=options.cache_dir,
                endpoint=options.endpoint,
                token=options.token,
                force_download=again,
                etag_timeout=PROBE_SECONDS,
                library_name=LIBRARY,
            )
    except Exception as error:
        raise translate(error, file, options.cache_dir) from error
    return Path(path)


@contextmanager
def _plain_http() -> Iterator[None]:
    """Transfers go over plain HTTP inside.

    These files are small, and the Xet protocol that the client prefers talks to hosts of its own; where a firewall
    blocks those it fails only after two minutes, without falling back.
    """
    from huggingface_hub import constants

    with _transfer_lock:
        before = constants.HF_HUB_DISABLE_XET
        constants.HF_HUB_DISABLE_XET = True
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_XET = before
