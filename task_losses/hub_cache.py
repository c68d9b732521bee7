"""The cache of the Hub's client, where files lie that it or we fetched: each commit's, shared by all programs.

    models--owner--repo/blobs/HASH                      the content
    models--owner--repo/snapshots/COMMIT/FILENAME       a link to it
    models--owner--repo/refs/BRANCH                     the commit that a branch or tag meant last

No name in it comes from a server: the commit was asked for, and the hash is ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

from task_losses.files import write_file

_REVISION = re.compile(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*", re.ASCII)


def find(repo_id: str, revision: str, filename: str, cache_dir: str | Path | None) -> Path | None:
    """A file of a repository, if it is there; ``snapshots/COMMIT/FILENAME``.

    Raises:
        huggingface_hub.errors.HFValidationError: no repository can have this name.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repo_id, filename, cache_dir=cache_dir, revision=revision)
    except OSError:  # an unreadable cache holds nothing for us
        return None
    return Path(found) if isinstance(found, str) else None


def store(
    repo_id: str, commit: str, filename: str, content: bytes, is_large: bool, cache_dir: str | Path | None
) -> None:
    """Puts a file of a commit in; one that is there is replaced.

    Args:
        is_large: whether the Hub names its content by sha256, as it does for large files, or as git does.

    Raises:
        OSError: the cache cannot be written.
    """
    from huggingface_hub import constants

    named = hashlib.sha256(content) if is_large else hashlib.sha1(b"blob %d\0" % len(content) + content)
    folder = _folder(repo_id, cache_dir)
    blob, pointer = folder / "blobs" / named.hexdigest(), folder / "snapshots" / commit / filename
    for place in (blob, pointer):
        place.parent.mkdir(parents=True, exist_ok=True)
    write_file(blob, content)
    link = pointer.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
            raise OSError("links are not wanted")
        link.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # nor does every file system have them
        write_file(pointer, content)
    else:
        link.replace(pointer)


def remember(repo_id: str, revision: str, commit: str, cache_dir: str | Path | None) -> None:
    """Notes what commit a branch or tag means.

    Raises:
        OSError: the cache cannot be written.
    """
    if _REVISION.fullmatch(revision):
        path = _folder(repo_id, cache_dir) / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, commit.encode())


def _folder(repo_id: str, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE, "--".join(["models", *repo_id.split("/")]))
