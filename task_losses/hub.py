"""Files from and to the Hugging Face Hub: bounded in time, read from the cache where possible, checked before use.

This module knows nothing of losses. What makes a file right is the caller's ``parse``; the Hub's client compares no
hashes, neither after a download nor when it finds a file in its cache.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from task_losses import hub_cache, hub_wire
from task_losses.files import read_file
from task_losses.hub_errors import translate
from task_losses.hub_options import HubFile, HubOptions
from task_losses.hub_wire import LIBRARY, Answer, Refused
from task_losses.weights import WeightsIntegrity, WeightsUnavailable, is_commit

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
log = logging.getLogger("task_losses")


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
        commit = _ask("HEAD", file, options, most=0).commit
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
    with suppress(OSError):
        hub_cache.remember(file.repo_id, file.revision, commit, options.cache_dir)


def fetch(file: HubFile, parse: Callable[[bytes], T], options: HubOptions, most: int) -> tuple[T, bool]:
    """Fetches a file and parses it. One in the cache is taken without asking the network.

    Args:
        file: of a commit; see :func:`resolve`.
        parse: turns the file's bytes into the result; raises WeightsIntegrity if they are wrong. Such a file is
            fetched again, once. Only a right one is put into the cache.
        most: bytes that the file may have.

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
            return parse(_read_cached(cached, most)), True
        except WeightsIntegrity as error:
            damage = error
    if options.local_files_only:
        raise damage or _not_cached(file)
    try:
        if damage is None:
            try:
                return _fetch_anew(file, parse, options, most), False
            except WeightsIntegrity as error:
                damage = error
        log.warning("%s; fetching it again", damage)
        return _fetch_anew(file, parse, options, most), False
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
    # Streams go over plain HTTP. The Xet protocol, which the client prefers for bytes, talks to hosts of its own; where
    # a firewall blocks those it fails only after two minutes.
    operations = [CommitOperationAdd(path, BytesIO(content)) for path, content in files.items()]
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

            fetch(file, compare, replace(options, cache_dir=empty), most=len(content))


def client(options: HubOptions) -> HfApi:
    """The Hub's own client, for everything but downloads."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=options.endpoint, token=options.token, library_name=LIBRARY)


def _find_in_cache(file: HubFile, options: HubOptions) -> Path | None:
    try:
        found = hub_cache.find(file.repo_id, file.revision, file.filename, options.cache_dir)
    except ValueError as error:
        raise translate(error, file, options.cache_dir) from error
    return found if found is not None and is_commit(found.parent.name) else None


def _not_cached(file: HubFile) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"{file} is not in the local cache, and local_files_only forbids asking the Hub; load it once with network, "
        "or pass pretrained=PATH"
    )


def _read_cached(path: Path, most: int) -> bytes:
    try:
        return read_file(path, most)
    except FileNotFoundError as error:  # another process is replacing it
        raise WeightsIntegrity(f"{path} vanished from the cache") from error
    except OSError as error:
        raise WeightsIntegrity(f"cannot read {path} in the Hub's cache: {error.strerror or error}") from error


def _fetch_anew(file: HubFile, parse: Callable[[bytes], T], options: HubOptions, most: int) -> T:
    answer = _ask("GET", file, options, most)
    result = parse(answer.content)
    try:
        hub_cache.store(*file, answer.content, answer.is_large, options.cache_dir)
    except OSError as error:
        raise translate(error, file, options.cache_dir) from error
    return result


def _ask(method: str, file: HubFile, options: HubOptions, most: int) -> Answer:
    """Asks with the token that the options mean; a saved one that the Hub refuses is left out."""
    from huggingface_hub import get_token, hf_hub_url

    try:
        url = hf_hub_url(file.repo_id, file.filename, revision=file.revision, endpoint=options.endpoint)
        try:
            return hub_wire.ask(method, url, options.token, most)
        except Refused as error:
            saved = options.token in (None, True) and get_token() is not None
            if error.status != 401 or not saved:
                raise
        answer = hub_wire.ask(method, url, False, most)
    except Exception as error:
        raise translate(error, file, options.cache_dir) from error
    log.warning("the Hub refused the saved token (expired?) for %s; went on without it", file)
    return answer
