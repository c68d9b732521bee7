"""What went wrong with the Hub, in our classes and words: what failed, why, and what to do.

The errors of the Hub's client share no base: there are OSError, ValueError, RuntimeError and httpx's own among them.
"""

from __future__ import annotations

import errno
from pathlib import Path

from task_losses.weights import WeightsError, WeightsIntegrity, WeightsNotFound, WeightsUnavailable


def translate(error: Exception, file: object, cache_dir: str | Path | None) -> WeightsError:
    """Our error for what the client raised when it was asked for a file with this name and this ``cache_dir``."""
    from huggingface_hub import constants, errors

    if isinstance(error, WeightsError):
        return error
    refusal = _refusal(error)
    if refusal is not None:
        return WeightsNotFound(f"{file}: {refusal}")
    reason = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    if isinstance(reason, errors.OfflineModeIsEnabled):
        return WeightsUnavailable(
            f"{file} is not in the local cache, and HF_HUB_OFFLINE is set; unset it to download, or pass "
            "pretrained=PATH"
        )
    if isinstance(reason, OSError) and "Consistency check failed" in str(reason):
        return WeightsIntegrity(f"{file}: the Hub sent a file of another size than it announced ({_summary(reason)})")
    number = reason.errno if isinstance(reason, OSError) else None
    not_stored = f"{file} cannot be stored, the cache {str(cache_dir or constants.HF_HUB_CACHE)!r} is"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return WeightsUnavailable(f"{not_stored} full: {reason}; make room there")
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return WeightsUnavailable(f"{not_stored} not writable: {reason}; choose another with cache_dir= or HF_HOME")
    return WeightsUnavailable(
        f"{file}: {_summary(reason)}; check the network, HF_ENDPOINT and the proxy, or pass pretrained=PATH"
    )


def _refusal(error: Exception) -> str | None:
    """Why the Hub has no such file, or not for us; None if the error says neither."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated; accept its terms on the Hub and log in with `hf auth login`, or pass token="
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such repository, or it is private and no valid token was sent; check the name, log in with "
            "`hf auth login`, or pass token=. A folder is written './folder' or Path('folder')"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; check revision="
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return "there is no such file; was the repository written by push_to_hub?"
    if isinstance(error, errors.HFValidationError):
        return f"this cannot be a repository of the Hub: {error}"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return (
            f"the Hub refused access ({_summary(error)}); log in again with `hf auth login`, or pass token=, or "
            "token=False for a public repository"
        )
    return None


def _summary(error: BaseException) -> str:
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {next((line for line in lines if line.strip()), 'no further message')}"
