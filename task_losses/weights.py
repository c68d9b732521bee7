"""Weight files: what they hold, how they are found, verified and read.

A file is safetensors. Its tensors are ``scale{k}.conv{l}.weight`` and ``.bias``, k from 0 (coarsest), l from 1; its
only metadata key, ``task_losses``, holds JSON with the task, the architecture and the provenance. (One key, because
the safetensors library writes several in random order, and then equal weights would not have equal hashes.)
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from task_losses.discriminator import SLOPE, Architecture

METADATA_KEY = "task_losses"
SCHEMA = 1
MANIFEST = "weights_manifest.json"


class WeightsError(RuntimeError):
    """Weights could not be had. The message says what was looked for, why it failed and what to do."""


class WeightsNotFound(WeightsError):
    """There is no such file or entry."""


class WeightsIntegrity(WeightsError):
    """A file was read, but it is not what it should be."""


@dataclass(frozen=True)
class Weights:
    """Tensors of all discriminators of a loss, with where they came from.

    Attributes:
        source: ``"embedded"``, ``"random"``, or the path of a file.
        sha256: of the file's bytes; None for random weights.
        info: the file's metadata: task, image and its licence, recipe, versions.
    """

    architecture: Architecture
    tensors: dict[str, Tensor]
    source: str
    sha256: str | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def layers(self, scale: int) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of each convolution of one scale."""
        names = [f"scale{scale}.conv{layer}" for layer in range(1, self.architecture.depth + 1)]
        return [(self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]) for name in names]


def load_weights(source: bool | str | os.PathLike[str], task: str | None) -> Weights:
    """Weights for a task.

    Args:
        source: True for the released weights of ``task``, or the path of a weight file.
        task: the task that the weights must be for; None takes any (and then needs a path).

    Raises:
        TypeError, ValueError: the source is no such thing.
        WeightsError: the weights are missing or damaged, or are for another task.
    """
    if source is True:
        if task is None:
            raise ValueError(
                "TaskLoss has no released weights of its own: use SRLoss, DenoiseLoss or JPEGLoss, "
                "or pass pretrained=PATH"
            )
        return embedded_weights(task)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"pretrained must be True, False or a path, got {source!r} ({type(source).__name__})")
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsNotFound(
            f"cannot read the weight file {str(path)!r}: {error.strerror or error}; "
            "`python -m training.export RUN` writes one, pretrained=True uses the released weights"
        ) from error
    weights = parse_weights(data, source=str(path))
    if task is not None and weights.info["task"] != task:
        raise WeightsIntegrity(
            f"{path} holds weights for the task {weights.info['task']!r}, expected {task!r}; "
            "TaskLoss(pretrained=PATH) takes any task"
        )
    return weights


def embedded_weights(task: str) -> Weights:
    """The released weights of a task, from the copy inside the package, verified against the manifest."""
    entry = manifest_entry(task)
    path = Path(__file__).parent / "weights" / entry["filename"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsNotFound(
            f"the package's own copy of the {task} weights is missing ({path}): reinstall task-losses"
        ) from error
    verify(data, entry, name=str(path))
    return replace(parse_weights(data, source=str(path)), source="embedded")


def random_weights(task: str | None) -> Weights:
    """Random weights in the architecture of a task's released ones, from torch's global generator.

    Kaiming's initialisation for the discriminators' LeakyReLU keeps the features of all layers at one magnitude.
    """
    architecture = Architecture() if task is None else architecture_from_dict(manifest_entry(task)["architecture"])
    tensors = {}
    for name, shape in tensor_shapes(architecture).items():
        tensor = torch.zeros(shape, device="cpu")  # also inside torch.device("meta"), where big models are built
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(tensor, a=SLOPE)
        tensors[name] = tensor
    return Weights(architecture, tensors, source="random", info={"task": task})


@cache
def manifest() -> dict[str, Any]:
    """The manifest of the released weights."""
    # Inside an installed package it lies beside this file; in a checkout, at the top.
    here = Path(__file__).parent
    for path in (here / MANIFEST, here.parent / MANIFEST):
        if path.is_file():
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content.get("schema") != SCHEMA:
                raise WeightsIntegrity(f"{path} has schema {content.get('schema')!r}, expected {SCHEMA}")
            return content
    raise WeightsNotFound(f"{MANIFEST} is missing from the package: reinstall task-losses")


def manifest_entry(task: str) -> dict[str, Any]:
    entries = manifest()["weights"]
    if task not in entries:
        raise WeightsNotFound(f"no released weights for the task {task!r}; there are {', '.join(sorted(entries))}")
    entry: dict[str, Any] = entries[task]
    return entry


def verify(data: bytes, entry: dict[str, Any], name: str) -> None:
    """Raises WeightsIntegrity unless the bytes are those that a manifest entry names."""
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise WeightsIntegrity(
            f"{name} is damaged or not the released file: expected sha256 {entry['sha256']} ({entry['size']} bytes), "
            f"found {found} ({len(data)} bytes)"
        )


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for scale in range(architecture.scales):
        for layer, (inputs, outputs) in enumerate(architecture.layer_shapes(scale), start=1):
            shapes[f"scale{scale}.conv{layer}.weight"] = (outputs, inputs, 3, 3)
            shapes[f"scale{scale}.conv{layer}.bias"] = (outputs,)
    return shapes


def serialize_weights(tensors: dict[str, Tensor], architecture: Architecture, info: dict[str, Any]) -> bytes:
    """The bytes of a weight file. Equal input gives equal bytes.

    Args:
        info: ``task`` and the provenance, in types that JSON has.
    """
    from safetensors.torch import save

    content = {**info, "schema": SCHEMA, "architecture": {**asdict(architecture), "slope": SLOPE}}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={METADATA_KEY: text})


def parse_weights(data: bytes, source: str) -> Weights:
    """Reads the bytes of a weight file, strictly.

    Raises:
        WeightsIntegrity: not safetensors, metadata missing, a name, shape or dtype unexpected, a value not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    def refuse(reason: str) -> WeightsIntegrity:
        return WeightsIntegrity(f"{source} is not a weight file of task-losses: {reason}")

    try:
        info = json.loads(_metadata(data)[METADATA_KEY])
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise refuse(f"{type(error).__name__}: {error}") from error
    if not isinstance(info, dict) or info.get("schema") != SCHEMA or not isinstance(info.get("task"), str):
        raise refuse(f"its metadata must name a task and have schema {SCHEMA}")
    try:
        architecture = architecture_from_dict(info["architecture"])
    except (KeyError, TypeError, ValueError) as error:
        raise refuse(f"its architecture cannot be used: {error}") from error
    expected = tensor_shapes(architecture)
    if set(tensors) != set(expected):
        missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
        raise refuse(f"tensors missing: {missing or 'none'}; unexpected: {extra or 'none'}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name] or tensor.dtype != torch.float32:
            raise refuse(
                f"{name} must be float32 of shape {expected[name]}, found {tensor.dtype} {tuple(tensor.shape)}"
            )
        if not tensor.isfinite().all():
            raise refuse(f"{name} has values that are not finite")
    return Weights(architecture, tensors, source=source, sha256=hashlib.sha256(data).hexdigest(), info=info)


def architecture_from_dict(content: dict[str, Any]) -> Architecture:
    """The inverse of what :func:`serialize_weights` writes."""
    if content["slope"] != SLOPE:
        raise ValueError(f"LeakyReLU slope {content['slope']} differs from {SLOPE}")
    return Architecture(
        channels=tuple(int(width) for width in content["channels"]),
        ratio=float(content["ratio"]),
        depth=int(content["depth"]),
        taps=tuple(int(tap) for tap in content["taps"]),
    )


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: its first 8 bytes are the length of the JSON header that follows."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 + length:
        raise ValueError("the file is cut short")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata
