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
from task_losses.files import read_file, replacing
from task_losses.hub_options import HubOptions
from task_losses.texts import shown
from task_losses.weights import MANIFEST, SCHEMA, Weights, describe, serialize_weights

LARGEST_PREVIEW = 2**21  # bytes
_TASK = re.compile(r"[A-Za-z0-9_][\w-]*", re.ASCII)


def shared_files(
    weights: Weights,
    class_name: str,
    repo_id: str | None,
    license: str | None,
    metrics: Mapping[str, float] | None,
    preview: str | os.PathLike[str] | None = None,
) -> dict[str, bytes]:
    """Name -> content of all that is to be saved, the manifest last.

    Args:
        class_name: of the loss that the model card shows in use.
        repo_id: where they go; None for a folder.
        license, metrics, preview: see :meth:`task_losses.TaskLoss.save_pretrained`.

    Raises:
        TypeError, ValueError: the weights are for no task that can name a file, the licence is no text, a metric no
            finite number, or the preview no PNG picture.
        OSError: the preview cannot be read.
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
    pictures = {} if preview is None else {f"{task}.png": read_preview(Path(preview))}
    card = model_card(content, class_name, dict.fromkeys([task] if pictures else [], f"{task}.png"))
    return {filename: data, **pictures, "README.md": card.encode(), MANIFEST: manifest_bytes(content)}


def read_preview(path: Path) -> bytes:
    """The bytes of a picture for a model card.

    Raises:
        ValueError: it is no PNG picture.
        OSError: it cannot be read, or is larger than 2 MB.
    """
    data = read_file(path.expanduser(), LARGEST_PREVIEW)
    if not (data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and data[-8:-4] == b"IEND"):
        raise ValueError(f"the preview {shown(str(path))} is no PNG picture: take scale7.png of the run, or another")
    return data


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
