"""The files that a loss is shared as: weights, manifest and model card; into a folder or onto the Hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from task_losses.card import model_card
from task_losses.checks import check_number
from task_losses.files import replacing
from task_losses.hub_options import HubOptions
from task_losses.texts import shown
from task_losses.weights import MANIFEST, SCHEMA, Weights, describe, serialize_weights

_TASK = re.compile(r"[A-Za-z0-9_][\w-]*", re.ASCII)


def shared_files(
    weights: Weights,
    class_name: str,
    repo_id: str | None,
    license: str | None,
    metrics: Mapping[str, float] | None,
) -> dict[str, bytes]:
    """Name -> content of all that is to be saved, the manifest last.

    Args:
        class_name: of the loss that the model card shows in use.
        repo_id: where they go; None for a folder.
        license, metrics: see :meth:`task_losses.TaskLoss.save_pretrained`.

    Raises:
        TypeError, ValueError: the weights are for no task that can name a file, the licence is no text, or a metric no
            finite number.
    """
    if license is not None and not isinstance(license, str):
        raise TypeError(f"license must be a string such as 'mit', got {shown(license)} ({type(license).__name__})")
    task = weights.info.get("task")
    if not isinstance(task, str) or not _TASK.fullmatch(task):
        raise ValueError(
            f"cannot save weights for the task {shown(task)}: the task must be letters, digits, '_' and '-', since the "
            "file is named after it; use SRLoss, DenoiseLoss or JPEGLoss, or train with --task"
        )
    filename = f"{task}.safetensors"
    data = serialize_weights(weights.tensors, weights.architecture, weights.info)
    entry = describe(data, filename)
    if metrics is not None:
        entry["metrics"] = {str(name): check_number(f"metrics[{name!r}]", value) for name, value in metrics.items()}
    content = {
        "schema": SCHEMA,
        "repo_id": repo_id,
        "revision": None,  # a commit cannot name itself
        "license": license or entry.get("license"),
        "weights": {task: entry},
    }
    return {filename: data, "README.md": model_card(content, class_name).encode(), MANIFEST: manifest_bytes(content)}


def save(files: Mapping[str, bytes], directory: str | os.PathLike[str]) -> None:
    """Writes files into a folder, which is made if need be; the last of them is the manifest.

    A kill leaves what loads: the old files, the new ones, or the old or new weights without a manifest. A disk that
    cannot hold all leaves the old files.

    Raises:
        OSError: the folder cannot be written, or the path names no home.
    """
    try:
        folder = Path(directory).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"the path {shown(str(directory))} names no place: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as renames:  # in the opposite order
        for name, content in reversed([*files.items()]):
            renames.enter_context(replacing(folder / name)).write_bytes(content)
        # It would contradict the new weights. Without one, a folder is what its weight file says.
        (folder / MANIFEST).unlink(missing_ok=True)


def push(repo_id: str, files: Mapping[str, bytes], message: str, options: HubOptions, private: bool) -> str:
    """Uploads files in one commit, checks what arrived, and returns the commit. Errors as for the two in hub."""
    from task_losses import hub

    commit = hub.upload(repo_id, files, message, options, private=private)
    hub.check_upload(repo_id, commit, files, options)
    return commit


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
