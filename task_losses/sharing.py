"""The verbs for sharing a loss: save, load, push to the Hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from task_losses import hub
from task_losses.card import model_card
from task_losses.hub import HubOptions
from task_losses.weights import MANIFEST, SCHEMA, describe, serialize_weights

if TYPE_CHECKING:
    from task_losses.losses import TaskLoss

Self = TypeVar("Self", bound="SharingMixin")

_TASK = re.compile(r"[A-Za-z0-9_][\w-]*", re.ASCII)


class SharingMixin:
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub``, with the meaning that users of the Hub know.

    Not huggingface_hub's mixin: that one saves a ``state_dict``, which is empty here, and checks no hashes.
    """

    @classmethod
    def from_pretrained(cls: type[Self], source: str | os.PathLike[str], **options: Any) -> Self:
        """A loss with the weights of a folder, a file or a Hub repository: the constructor by its usual name.

        Args:
            source: ``pretrained`` of the constructor.
            options: the constructor's others: ``revision``, ``reduction``, ...

        Raises:
            As the constructor.
        """
        return cls(source, **options)  # type: ignore[call-arg]

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        *,
        license: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Writes ``{task}.safetensors``, its manifest and a model card into a folder, which is made if need be.

        The bytes depend on the loss and the arguments alone, and the weight file of a loss that came from a file is
        that file. Options such as ``reduction`` are not weights and are not saved.

        Args:
            license: licence of the weights, as an identifier of the Hub (``"mit"``); default: what the weights say.
            metrics: figures for the model card, by name.

        Raises:
            ValueError: the loss holds only some scales, or its weights are for no task.
            OSError: the folder cannot be written.
        """
        folder = Path(directory).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        # The manifest comes last: until it is there, nothing claims to be complete.
        for name, content in self._files(None, license, metrics).items():
            replace_file(folder / name, content)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        metrics: Mapping[str, float] | None = None,
        commit_message: str | None = None,
        private: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> str:
        """Uploads what :meth:`save_pretrained` writes, in one commit, and checks what arrived.

        A repository holds one loss: pushing again replaces it, and its model card. Pushing the same again makes no
        commit.

        Args:
            repo_id: ``"owner/repo"``; made if need be.
            license, metrics: as for :meth:`save_pretrained`.
            commit_message: default ``"Upload the {task} loss"``.
            private: whether a repository that is made is private.
            token: with write access; default: the saved one.
            endpoint: address of the Hub; default: HF_ENDPOINT, or the public one.

        Returns:
            The commit, 40 hexadecimal digits: ``revision`` to load exactly this.

        Raises:
            ValueError: as for :meth:`save_pretrained`.
            huggingface_hub.errors.HfHubHTTPError: the Hub refused, for want of rights for example.
            WeightsError: the upload could not be read back.
        """
        files = self._files(repo_id, license, metrics)
        options = HubOptions(token=token, endpoint=endpoint)
        message = commit_message or f"Upload the {_checked_task(self)} loss"
        commit = hub.upload(repo_id, files, message, options, private=private)
        hub.check_upload(repo_id, commit, files, options)
        return commit

    def _files(self, repo_id: str | None, license: str | None, metrics: Mapping[str, float] | None) -> dict[str, bytes]:
        """Name -> content of all that is to be saved, the manifest last."""
        task = _checked_task(self)
        data = _serialized(self)
        filename = f"{task}.safetensors"
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
        return {filename: data, "README.md": model_card(content).encode(), MANIFEST: manifest_bytes(content)}


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _checked_task(mixin: SharingMixin) -> str:
    task = cast("TaskLoss", mixin).weights_info.get("task")
    if not isinstance(task, str) or not _TASK.fullmatch(task):
        raise ValueError(
            f"cannot save weights for the task {task!r}: the task must be letters, digits, '_' and '-', since the file "
            "is named after it; use SRLoss, DenoiseLoss or JPEGLoss, or train with --task"
        )
    return task


def _serialized(mixin: SharingMixin) -> bytes:
    """The weight file of a loss."""
    loss = cast("TaskLoss", mixin)
    if len(loss.scales) < loss.architecture.scales:
        raise ValueError(
            f"cannot save a loss that holds only the scales {list(loss.scales)} of {loss.architecture.scales}; "
            "make it with scales=None"
        )
    tensors = {}
    for scale, discriminator in zip(loss.scales, loss.discriminators, strict=True):
        for layer, (weight, bias) in enumerate(discriminator.layers(), start=1):  # type: ignore[operator]
            name = f"scale{scale}.conv{layer}"
            tensors[f"{name}.weight"] = weight.to("cpu", torch.float32)
            tensors[f"{name}.bias"] = bias.to("cpu", torch.float32)
    return serialize_weights(tensors, loss.architecture, loss.weights_info)
