"""What went wrong with the Hub, in our classes and words: what failed, why, and what to do.

The errors of the Hub's client share no base: there are OSError, ValueError, RuntimeError and httpx's own among them.
"""

from __future__ import annotations

import errno
from pathlib import Path

from task_losses.hub_wire import Refused
from task_losses.weights import WeightsError, WeightsIntegrity, WeightsNotFound, WeightsUnavailable

_CHECK = "check the network, HF_ENDPOINT and the proxy, or pass pretrained=PATH"


def translate(error: Exception, file: object, cache_dir: str | Path | None) -> WeightsError:
    """Our error for what was raised when a file of this name was asked for, or put into the cache ``cache_dir``."""
    from huggingface_hub import constants, errors

    if isinstance(error, WeightsIntegrity):
        return WeightsIntegrity(f"{file}: the Hub sent {error}")
    if isinstance(error, WeightsUnavailable):
        return WeightsUnavailable(f"{file}: {error}; {_CHECK}")
    if isinstance(error, errors.HFValidationError):
        return WeightsNotFound(f"{file}: this cannot be a repository of the Hub: {error}")
    if isinstance(error, Refused) and (refusal := _refusal(error)):
        return WeightsNotFound(f"{file}: {refusal}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return WeightsUnavailable(
            f"{file} is not in the local cache, and HF_HUB_OFFLINE is set; unset it to download, or pass "
            "pretrained=PATH"
        )
    number = error.errno if isinstance(error, OSError) else None
    not_stored = f"{file} cannot be stored, the cache {str(cache_dir or constants.HF_HUB_CACHE)!r} is"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return WeightsUnavailable(f"{not_stored} full: {error}; make room there")
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return WeightsUnavailable(f"{not_stored} not writable: {error}; choose another with cache_dir= or HF_HOME")
    proxy = "CERTIFICATE_VERIFY" in str(error)
    hint = "where a proxy of yours signs what it passes on, name its certificate in SSL_CERT_FILE; " if proxy else ""
    return WeightsUnavailable(f"{file}: {_summary(error)}; {hint}{_CHECK}")


def _refusal(error: Refused) -> str | None:
    """Why the Hub has no such file, or not for us; None if the error says neither."""
    if error.code == "GatedRepo":
        return "the repository is gated; accept its terms on the Hub and log in with `hf auth login`, or pass token="
    if error.code == "RepoNotFound":
        return (
            "there is no such repository, or it is private and no valid token was sent; check the name, log in with "
            "`hf auth login`, or pass token=. A folder is written './folder' or Path('folder')"
        )
    if error.code == "RevisionNotFound":
        return "the repository has no such revision; check revision="
    if error.code == "EntryNotFound":
        return "there is no such file; was the repository written by push_to_hub?"
    if error.status in (401, 403):
        return (
            f"the Hub refused access ({error}), or has no such repository; check the name, log in again with "
            "`hf auth login`, or pass token=, or token=False for a public repository"
        )
    return None


def _summary(error: BaseException) -> str:
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {next((line for line in lines if line.strip()), 'no further message')}"
