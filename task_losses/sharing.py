"""The files that a loss is shared as: weights, manifest and model card; into a folder or onto the Hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from task_losses import hub
from task_losses.card import model_card
from task_losses.files import write_file
from task_losses.hub import HubOptions
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
        ValueError: the weights are for no task that can name a file.
    """
    task = weights.info.get("task")
    if not isinstance(task, str) or not _TASK.fullmatch(task):
        raise ValueError(
            f"cannot save weights for the task {task!r}: the task must be letters, digits, '_' and '-', since the file "
            "is named after it; use SRLoss, DenoiseLoss or JPEGLoss, or train with --task"
        )
    filename = f"{task}.safetensors"
    data = serialize_weights(weights.tensors, weights.architecture, weights.info)
    entry = describe(data, filename)
    if metrics is not None:
        entry["metrics"] = dict(metrics)
    content = {
        "schema": SCHEMA,
        "repo_id": repo_id,
        "revision": None,  # a commit cannot name itself
        "license": license or entry.get("license"),
        "weights": {task: entry},
    }
    return {filename: data, "README.md": model_card(content, class_name).encode(), MANIFEST: manifest_bytes(content)}


def save(files: Mapping[str, bytes], directory: str | os.PathLike[str]) -> None:
    """Writes files into a folder, which is made if need be."""
    folder = Path(directory).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    # The manifest comes last: until it is there, nothing claims to be complete.
    for name, content in files.items():
        write_file(folder / name, content)


def push(repo_id: str, files: Mapping[str, bytes], message: str, options: HubOptions, private: bool) -> str:
    """Uploads files in one commit, checks what arrived, and returns the commit. Errors as for the two in hub."""
    commit = hub.upload(repo_id, files, message, options, private=private)
    hub.check_upload(repo_id, commit, files, options)
    return commit


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
