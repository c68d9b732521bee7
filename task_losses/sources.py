"""Where weights come from: the package, the Hub, a file or a folder."""

from __future__ import annotations

import logging
import os
import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from task_losses.files import read_file
from task_losses.hub_options import HubFile, HubOptions
from task_losses.texts import shown
from task_losses.weights import (
    LARGEST_FILE,
    LARGEST_MANIFEST,
    MANIFEST,
    Weights,
    WeightsError,
    WeightsIntegrity,
    WeightsNotFound,
    embedded_weights,
    manifest,
    parse_entry,
    parse_manifest,
    parse_weights,
)

log = logging.getLogger("task_losses")

MODE_VARIABLE = "TASK_LOSSES_WEIGHTS"
MODES = ("auto", "hub", "embedded")

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

# Endpoints that failed us, so that the next loss need not wait for them again; None is the default endpoint.
_given_up: set[str | None] = set()


def load_weights(
    source: bool | str | os.PathLike[str],
    task: str | None,
    revision: str | None = None,
    options: HubOptions | None = None,
) -> Weights:
    """Weights for a task.

    Args:
        source: True for the released weights of ``task``; a path (``os.PathLike``, or a string that ends with
            ``.safetensors`` or starts with ``.``, ``/`` or ``~``) of a file or of a folder that ``save_pretrained``
            wrote; any other string is a Hub repository, ``"owner/repo"``, whatever folders exist.
        task: the task that the weights must be for; None takes any (and then needs a path or a repository).
        revision: branch, tag or commit of a repository; None for its main branch.
        options: how to reach the Hub.

    Raises:
        TypeError, ValueError: the source is no such thing, or an option does not apply to it.
        WeightsError: the weights are missing, out of reach or damaged, or are for another task.
    """
    options = options or HubOptions()
    if source is True:
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} does not apply to pretrained=True, whose revision this version of the package "
                "pins; pass pretrained='owner/repo' to choose one"
            )
        if task is None:
            raise ValueError(
                "TaskLoss has no released weights of its own: use SRLoss, DenoiseLoss or JPEGLoss, "
                "or pass pretrained=PATH or pretrained='owner/repo'"
            )
        return released_weights(task, options)
    if is_path(source):
        check_no_hub_options("a path", revision, options)
        return local_weights(Path(source), task)
    if not isinstance(source, str):
        raise TypeError(
            f"pretrained must be True, False, a path or 'owner/repo', got {shown(source)} ({type(source).__name__})"
        )
    if not _REPO_ID.fullmatch(source):
        raise ValueError(
            f"pretrained={shown(source)} is neither a path nor a Hub repository: write a path as Path('...'), or as a "
            "string that starts with './', '/' or '~' or ends with '.safetensors'; write a repository as 'owner/repo'"
        )
    return repository_weights(source, task, revision or "main", options)


def is_path(source: object) -> TypeGuard[str | os.PathLike[str]]:
    if isinstance(source, str):
        return source.endswith(".safetensors") or source.startswith((".", "/", "~"))
    return isinstance(source, os.PathLike)


def check_no_hub_options(source: str, revision: str | None, options: HubOptions) -> None:
    """Raises ValueError if an option was given that would be ignored."""
    given = ["revision"] if revision is not None else []
    given += [name for name, value in vars(options).items() if value != getattr(HubOptions, name)]
    if given:
        raise ValueError(f"{', '.join(given)} apply to the Hub, not to {source}; leave them out")


def released_weights(task: str, options: HubOptions) -> Weights:
    """The released weights of a task: from the Hub's cache, the Hub, or the package, always the same bytes.

    The environment variable ``TASK_LOSSES_WEIGHTS`` chooses: ``auto`` (as above), ``hub`` (never the package's copy:
    raise instead), ``embedded`` (never the Hub or its cache).

    Raises:
        ValueError: the variable has another value.
        WeightsError: no copy could be had, or all are damaged.
    """
    mode = os.environ.get(MODE_VARIABLE) or "auto"
    if mode not in MODES:
        raise ValueError(f"{MODE_VARIABLE} must be one of {', '.join(MODES)}; got {mode!r}")
    if mode == "hub":
        return pinned_weights(task, options)
    if mode == "embedded" or not is_published():
        return embedded_weights(task)
    if options.endpoint in _given_up:
        options = replace(options, local_files_only=True)
    try:
        return pinned_weights(task, options)
    except WeightsIntegrity as error:
        warnings.warn(f"{error}; using the copy inside the package", stacklevel=4)
    except WeightsError as error:
        if not options.local_files_only:
            log.info("%s. Using the copy inside the package", error)
            _given_up.add(options.endpoint)
    return embedded_weights(task)


def is_published() -> bool:
    """Whether the released weights of this version are on the Hub."""
    return manifest().get("revision") is not None


def pinned_weights(task: str, options: HubOptions) -> Weights:
    """The released weights of a task from the Hub's cache or the Hub, never from the package.

    Raises:
        WeightsError: the manifest pins no revision of the Hub's repository, or as for :func:`released_weights`.
    """
    from task_losses import hub  # only now, as in the usual case nobody asks it

    released = manifest()
    if not is_published():
        raise WeightsNotFound(
            "the weights of this version are not on the Hub: its manifest pins no revision. Use the copy inside the "
            f"package: unset {MODE_VARIABLE} if it says hub"
        )
    task, entry = _choose(released, task, name="the package's manifest")
    file = HubFile(released["repo_id"], released["revision"], entry["filename"])
    parse = partial(parse_entry, task=task, entry=entry, source=str(file))
    weights, cached = hub.fetch(file, parse, options, most=entry["size"])
    return replace(weights, source="cache" if cached else "hub")


def repository_weights(repo_id: str, task: str | None, revision: str, options: HubOptions) -> Weights:
    """Weights from somebody's repository, as its manifest names them. Arguments and errors as for load_weights."""
    from task_losses import hub

    asked = HubFile(repo_id, revision, MANIFEST)
    listing = hub.resolve(asked, options)
    commit = listing.revision
    log.info("%s@%s is commit %s; revision=%r pins it", repo_id, revision, commit, commit)
    content, _ = hub.fetch(listing, partial(parse_manifest, source=str(listing)), options, most=LARGEST_MANIFEST)
    task, entry = _choose(content, task, name=str(listing))
    file = HubFile(repo_id, commit, entry["filename"])
    parse = partial(parse_entry, task=task, entry=entry, source=str(file))
    weights, _ = hub.fetch(file, parse, options, most=entry["size"])
    hub.remember(asked, commit, options)
    return replace(weights, source=f"{repo_id}@{commit}")


def local_weights(path: Path, task: str | None) -> Weights:
    """Weights from a file or folder. A manifest beside the file is believed; without one the file must only be sound.

    Raises:
        WeightsError: missing or damaged, or for another task.
    """
    try:
        path = path.expanduser()
    except RuntimeError as error:  # no such user, or nobody knows where the home is
        raise WeightsNotFound(f"the path {shown(str(path))} names no place: {error}; write it without '~'") from error
    is_folder = os.path.isdir(path)  # the path's own method raises where a name is too long
    folder = path if is_folder else path.parent
    listing = folder / MANIFEST
    content = None
    if os.path.lexists(listing):
        content = parse_manifest(_read(listing, LARGEST_MANIFEST), source=str(listing))
    if is_folder:
        path = folder / _choose(content, task, name=str(listing))[1]["filename"] if content else _only_file(folder)
    data = _read(path, LARGEST_FILE)
    listed = {entry["filename"]: (name, entry) for name, entry in content["weights"].items()} if content else {}
    if path.name in listed:
        weights = parse_entry(data, *listed[path.name], source=str(path))
    else:
        weights = parse_weights(data, source=str(path))
    if task is not None and weights.info["task"] != task:
        raise WeightsIntegrity(
            f"{path} holds weights for the task {weights.info['task']!r}, expected {task!r}; "
            "TaskLoss(pretrained=PATH) takes any task"
        )
    return weights


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise WeightsNotFound(
            f"the folder {shown(str(folder))} has no {MANIFEST} and {len(files)} .safetensors files, expected one; "
            "name the file, or write the folder with save_pretrained"
        )
    return files[0]


def _choose(content: dict[str, Any], task: str | None, name: str) -> tuple[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = content["weights"]
    if task is None and len(entries) == 1:
        (task,) = entries
    if task is None:
        raise ValueError(
            f"{name} lists weights for several tasks ({_listed(entries)}): "
            "use SRLoss, DenoiseLoss or JPEGLoss, or name one file"
        )
    if task not in entries:
        raise WeightsNotFound(
            f"{name} lists no weights for the task {task!r}, only for {_listed(entries)}; TaskLoss takes any task"
        )
    return task, entries[task]


def _listed(entries: dict[str, Any]) -> str:
    first = sorted(entries)[:5]
    return ", ".join(first) + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")


def _read(path: Path, most: int) -> bytes:
    try:
        return read_file(path, most)
    except OSError as error:
        raise WeightsNotFound(
            f"cannot read the weight file {shown(str(path))}: {error.strerror or error}; "
            "`python -m training.export RUN` writes one, pretrained=True uses the released weights"
        ) from error
