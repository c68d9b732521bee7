"""Weight files and the manifest that names them: what they hold, how they are written, verified and read.

A file is safetensors. Its tensors are ``scale{k}.conv{l}.weight`` and ``.bias``, k from 0 (coarsest), l from 1; its
only metadata key, ``task_losses``, holds JSON with the task, the architecture and the provenance. (One key, because
the safetensors library writes several in random order, and then equal weights would not have equal hashes.)

A manifest, ``weights_manifest.json``, lists the files of a package, a Hub repository or a folder, one entry per task:
``filename``, ``sha256``, ``size``, ``architecture`` and what is known of the file's origin.

Where files come from is the business of :mod:`task_losses.sources`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from task_losses.architecture import SLOPE, Architecture
from task_losses.files import read_file
from task_losses.texts import LONGEST, printable, read_json, shown

T = TypeVar("T")

METADATA_KEY = "task_losses"
SCHEMA = 1
MANIFEST = "weights_manifest.json"
# Bytes that are read at most. The released files have 0.5 MB, the authors' 4 MB.
LARGEST_FILE, LARGEST_HEADER, LARGEST_MANIFEST = 2**28, 2**20, 2**20
# What a file may recommend as its weight beside L1; those measured so far lie between 0.2 and 20.
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-6, 1e6
# That any feature of an image in [0, 1] may reach. Squared and summed over an image it still fits into float32, many
# times over; the released weights cannot exceed 3.4e5.
LARGEST_FEATURE = 1e12

_FILENAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,199}\.safetensors", re.ASCII)  # no folders: it must not point elsewhere
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class WeightsError(RuntimeError):
    """Weights could not be had. The message says what was looked for, why it failed and what to do.

    It is one line of bounded length, whatever a file or a server wrote into it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, LONGEST))


class WeightsNotFound(WeightsError):
    """There is no such repository, revision, file or entry, or no access to it."""


class WeightsUnavailable(WeightsError):
    """The file may well exist, but it could not be fetched: offline, no answer, a failing server, a full disk."""


class WeightsIntegrity(WeightsError):
    """A file was read, but it is not what it should be."""


@dataclass(frozen=True)
class Weights:
    """Tensors of all discriminators of a loss, with where they came from.

    Attributes:
        source: ``"embedded"``, ``"cache"`` or ``"hub"`` for released weights (the same bytes each time),
            ``"owner/repo@commit"``, the path of a file, or ``"random"``.
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
        names = [_layer_names(scale, layer) for layer in range(1, self.architecture.depth + 1)]
        return [(self.tensors[weight], self.tensors[bias]) for weight, bias in names]


def named_layers(discriminators: Iterable[Sequence[tuple[T, T]]]) -> dict[str, T]:
    """What belongs to the layers of all scales, by the names of a weight file; :meth:`Weights.layers` takes it apart.

    Args:
        discriminators: for each scale, coarsest first, for each convolution, what belongs to its weight and its bias.
    """
    return {
        name: part
        for scale, layers in enumerate(discriminators)
        for layer, parts in enumerate(layers, start=1)
        for name, part in zip(_layer_names(scale, layer), parts, strict=True)
    }


def _layer_names(scale: int, layer: int) -> tuple[str, str]:
    return f"scale{scale}.conv{layer}.weight", f"scale{scale}.conv{layer}.bias"


def embedded_weights(task: str) -> Weights:
    """The released weights of a task, from the copy inside the package, verified against the manifest."""
    entry = manifest_entry(task)
    path = Path(__file__).parent / "weights" / entry["filename"]
    try:
        data = read_file(path, LARGEST_FILE)
    except OSError as error:
        raise WeightsNotFound(
            f"the package's own copy of the {task} weights is missing ({path}): reinstall task-losses"
        ) from error
    return replace(parse_entry(data, task, entry, source=str(path)), source="embedded")


def random_weights(task: str | None, architecture: Architecture | None = None) -> Weights:
    """Random weights, by default in the architecture of a task's released ones, from torch's global generator.

    Kaiming's initialisation for the discriminators' LeakyReLU keeps the features of all layers at one magnitude.
    """
    if architecture is None:
        architecture = Architecture() if task is None else architecture_from_dict(manifest_entry(task)["architecture"])
    tensors = {}
    for name, shape in tensor_shapes(architecture).items():
        # Also inside torch.device("meta"), where big models are built, and under another default dtype.
        tensor = torch.zeros(shape, dtype=torch.float32, device="cpu")
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(tensor, a=SLOPE)
        tensors[name] = tensor
    return Weights(architecture, tensors, source="random", info={"task": task})


def control_weights(like: Weights) -> Weights:
    """Random weights of the shape of others, as strong beside the image as these are on their training image.

    The file says by how much features of such random weights are to be scaled, on average over draws: the export
    measured it on what the critics were to tell apart. For released files the manifest may say it.

    Raises:
        ValueError: neither does, or it is no such number.
    """
    task = like.info.get("task")
    entry = manifest()["weights"].get(task, {})
    released = entry if entry.get("sha256") == like.sha256 else {}
    scale = {**released, **like.info}.get("random_scale")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1e-6 <= scale <= 1e6:
        raise ValueError(
            f"{like.source} does not say how strong random features must be to weigh as much as its own "
            f"(random_scale: {shown(scale)}); export the run again, or leave out like="
        )
    drawn = random_weights(task, like.architecture)
    first = ("conv1.weight",)  # LeakyReLU lets a positive factor through, and no bias is random
    tensors = {name: x * scale if name.endswith(first) else x for name, x in drawn.tensors.items()}
    return replace(drawn, tensors=tensors)


@cache
def manifest() -> dict[str, Any]:
    """The manifest of the released weights."""
    # Inside an installed package it lies beside this file; in a checkout, at the top.
    here = Path(__file__).parent
    for path in (here / MANIFEST, here.parent / MANIFEST):
        if path.is_file():
            return parse_manifest(read_file(path, LARGEST_MANIFEST), source=str(path))
    raise WeightsNotFound(f"{MANIFEST} is missing from the package: reinstall task-losses")


def parse_manifest(data: bytes, source: str) -> dict[str, Any]:
    """Reads the bytes of a manifest, strictly.

    Raises:
        WeightsIntegrity: not JSON, another schema, or something missing or malformed in it.
    """

    def refuse(reason: str) -> WeightsIntegrity:
        return WeightsIntegrity(f"{source} is not a weights manifest of task-losses: {reason}")

    try:
        content = read_json(data)
    except ValueError as error:
        raise refuse(f"not JSON ({error})") from error
    if not isinstance(content, dict) or not _is_schema(content.get("schema")):
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise refuse(f"expected schema {SCHEMA}, found {shown(found)}; a newer file needs a newer task-losses")
    revision, entries = content.get("revision"), content.get("weights")
    if revision is not None and not is_commit(revision):
        raise refuse(f"revision must be null or a commit of 40 hexadecimal digits, found {shown(revision)}")
    if revision is not None and not isinstance(content.get("repo_id"), str):
        raise refuse("a revision needs the repo_id that it belongs to")
    if not isinstance(entries, dict) or not entries:
        raise refuse("it must list at least one entry under 'weights'")
    for task, entry in entries.items():
        wrong = _fault_of_task(task) or _fault_of_entry(entry)
        if wrong:
            raise refuse(f"entry {shown(task)}: {wrong}")
    return content


def _is_schema(value: Any) -> bool:
    return type(value) is int and value == SCHEMA


def _fault_of_task(task: Any) -> str | None:
    if isinstance(task, str) and len(task) <= 100 and task.isprintable():
        return None
    return f"a task must be a name of at most 100 printable characters, found {shown(task)}"


def is_commit(revision: Any) -> bool:
    """Whether a revision is a full commit id, the only kind that can never come to mean other files."""
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def _fault_of_entry(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return f"must be an object, found {type(entry).__name__}"
    filename, sha256, size = entry.get("filename"), entry.get("sha256"), entry.get("size")
    if not isinstance(filename, str) or not _FILENAME.fullmatch(filename):
        return f"filename must be a plain name that ends with .safetensors, found {shown(filename)}"
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        return f"sha256 must be 64 hexadecimal digits, found {shown(sha256)}"
    if type(size) is not int or not 1 <= size <= LARGEST_FILE:
        return f"size must be the file's length in bytes, at most {LARGEST_FILE}, found {shown(size)}"
    try:
        architecture_from_dict(entry.get("architecture"))
    except ValueError as error:
        return f"architecture cannot be used: {error}"
    return _fault_of_recommendation(entry)


def _fault_of_recommendation(info: dict[str, Any]) -> str | None:
    """What is wrong with ``weight_beside_l1`` of a file's metadata or a manifest's entry; older ones have none."""
    if "weight_beside_l1" not in info:
        return None
    said = info["weight_beside_l1"]
    if not isinstance(said, dict) or set(said) != {"weight", "measured_on"}:
        return f"weight_beside_l1 must hold weight and measured_on, found {shown(said)}"
    try:
        weight = _number(said, "weight")
    except ValueError as error:
        return f"weight_beside_l1: {error}"
    if not SMALLEST_WEIGHT <= weight <= LARGEST_WEIGHT:
        return f"weight_beside_l1 must be from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, found {weight:g}"
    measured_on = said["measured_on"]
    if not isinstance(measured_on, str) or len(measured_on) > 300 or not measured_on.isprintable():
        return f"measured_on must be a text of at most 300 printable characters, found {shown(measured_on)}"
    return None


def describe(data: bytes, filename: str) -> dict[str, Any]:
    """The manifest entry of a weight file: its name, hash, size and architecture, and the provenance inside it.

    Raises:
        WeightsIntegrity: the bytes are no weight file.
    """
    weights = parse_weights(data, source=filename)
    provenance = {key: value for key, value in weights.info.items() if key not in ("schema", "task")}
    return {**provenance, "filename": filename, "sha256": weights.sha256, "size": len(data)}


def manifest_entry(task: str) -> dict[str, Any]:
    entries = manifest()["weights"]
    if task not in entries:
        raise WeightsNotFound(f"no released weights for the task {task!r}; there are {', '.join(sorted(entries))}")
    entry: dict[str, Any] = entries[task]
    return entry


def verify(data: bytes, entry: dict[str, Any], name: str) -> None:
    """Raises WeightsIntegrity unless the bytes are those that a manifest entry names."""
    found = hashlib.sha256(data).hexdigest()
    if (found, len(data)) != (entry["sha256"], entry["size"]):
        raise WeightsIntegrity(
            f"{name} is damaged or not the file that its manifest names: expected sha256 {entry['sha256']} "
            f"({entry['size']} bytes), found {found} ({len(data)} bytes)"
        )


def parse_entry(data: bytes, task: str, entry: dict[str, Any], source: str) -> Weights:
    """Reads a file that a manifest names: hash first, then everything that :func:`parse_weights` checks.

    Raises:
        WeightsIntegrity: other bytes, task or architecture than the manifest says, or no weight file.
    """
    verify(data, entry, name=source)
    weights = parse_weights(data, source=source)
    found = (weights.info["task"], weights.architecture)
    expected = (task, architecture_from_dict(entry["architecture"]))
    if found != expected:
        raise WeightsIntegrity(f"{source} contradicts its manifest: expected {expected}, found {found}")
    return weights


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    scales = map(architecture.layer_shapes, range(architecture.scales))
    return named_layers([((outputs, inputs, 3, 3), (outputs,)) for inputs, outputs in shapes] for shapes in scales)


def serialize_weights(tensors: dict[str, Tensor], architecture: Architecture, info: dict[str, Any]) -> bytes:
    """The bytes of a weight file. Equal input gives equal bytes.

    Args:
        info: ``task`` and the provenance, in types that JSON has.
    """
    from safetensors.torch import save

    form = {**architecture.to_dict(), "slope": SLOPE}
    content = {**info, "schema": SCHEMA, "architecture": form}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={METADATA_KEY: text})


def parse_weights(data: bytes, source: str) -> Weights:
    """Reads the bytes of a weight file, strictly. All that it says is checked before anything is made from it.

    Raises:
        WeightsIntegrity: not safetensors, metadata missing, a name, shape or dtype unexpected, a value not finite, or
            values so large that distances would not be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    def refuse(reason: str) -> WeightsIntegrity:
        return WeightsIntegrity(f"{source} is not a weight file of task-losses: {reason}")

    try:
        header = _header(data)
        info = read_json(header.pop("__metadata__")[METADATA_KEY])
    except (ValueError, KeyError, TypeError) as error:
        raise refuse(f"{type(error).__name__}: {error}") from error
    if not isinstance(info, dict) or not _is_schema(info.get("schema")):
        raise refuse(f"its metadata must name a task and have schema {SCHEMA}")
    wrong = _fault_of_task(info.get("task"))
    if wrong:
        raise refuse(f"its metadata must name a task: {wrong}")
    wrong = _fault_of_recommendation(info)
    if wrong:
        raise refuse(wrong)
    try:
        architecture = architecture_from_dict(info.get("architecture"))
    except ValueError as error:
        raise refuse(f"its architecture cannot be used: {error}") from error
    wrong = _fault_of_tensors(header, tensor_shapes(architecture))
    if wrong:
        raise refuse(wrong)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise refuse(f"{type(error).__name__}: {error}") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise refuse(f"{name} has values that are not finite")
    weights = Weights(architecture, tensors, source=source, sha256=hashlib.sha256(data).hexdigest(), info=info)
    feature = max(_largest_feature(weights, scale) for scale in range(architecture.scales))
    if feature > LARGEST_FEATURE:
        raise refuse(
            f"its features could reach {feature:.0e} for images in [0, 1], allowed are {LARGEST_FEATURE:.0e}: "
            "distances would not be finite; scale the weights down"
        )
    return weights


def _fault_of_tensors(header: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> str | None:
    if set(header) != set(expected):
        missing, extra = sorted(set(expected) - set(header)), sorted(set(header) - set(expected))
        return (
            f"tensors missing: {shown(missing) if missing else 'none'}; unexpected: {shown(extra) if extra else 'none'}"
        )
    for name, shape in expected.items():
        tensor = header[name] if isinstance(header[name], dict) else {}
        if tensor.get("dtype") != "F32" or tensor.get("shape") != list(shape):
            found = f"{shown(tensor.get('dtype'))} {shown(tensor.get('shape'))}"
            return f"{name} must be 'F32' (float32) of shape {list(shape)}, found {found}"
    return None


def _largest_feature(weights: Weights, scale: int) -> float:
    """What no feature of a discriminator exceeds, for images in [0, 1]."""
    largest = highest = 1.0
    for weight, bias in weights.layers(scale):
        reach = weight.double().abs().sum(dim=(1, 2, 3)) * largest + bias.double().abs()
        largest = reach.max().item()
        highest = max(highest, largest)
    return highest


def architecture_from_dict(content: Any) -> Architecture:
    """The inverse of what :func:`serialize_weights` writes, of content from anywhere.

    Raises:
        ValueError: something is missing, of another type than it is written with, or out of bounds.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it must be an object, found {type(content).__name__}")
    known = {entry.name for entry in fields(Architecture)} - {"image_weight"} | {"slope"}
    if unknown := sorted(set(content) - known):  # what it says may change the result
        raise ValueError(f"this version does not know {shown(', '.join(unknown))}: a later task-losses may read it")
    if _number(content, "slope") != SLOPE:
        raise ValueError(f"LeakyReLU slope {content['slope']} differs from {SLOPE}")
    distance = content.get("distance", Architecture.distance)
    if not isinstance(distance, str):
        raise ValueError(f"distance must be a string, found {shown(distance)}")
    return Architecture(
        channels=_integers(content, "channels"),
        ratio=_number(content, "ratio"),
        depth=_integer(content, "depth"),
        taps=_integers(content, "taps"),
        distance=distance,
        image_exponent=_number(content, "image_exponent", Architecture.image_exponent),
        texture_taps=_integers(content, "texture_taps", ()),
        texture_weight=_number(content, "texture_weight", 0.0),
        texture_skips=_integer(content, "texture_skips", 0),
        periods=_integers(content, "periods", ()),
        periodic_weight=_number(content, "periodic_weight", 0.0),
    )


def _number(content: dict[str, Any], name: str, default: float | None = None) -> float:
    value = content.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, found {shown(value)}")
    return float(value)


def _integer(content: dict[str, Any], name: str, default: int | None = None) -> int:
    value = content.get(name, default)
    if type(value) is not int:
        raise ValueError(f"{name} must be a whole number, found {shown(value)}")
    return value


def _integers(content: dict[str, Any], name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
    values = content.get(name)
    if default is not None and name not in content:
        return default
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{name} must be whole numbers, found {shown(values)}")
    return tuple(values)


def _header(data: bytes) -> dict[str, Any]:
    """The header of a safetensors file: its first 8 bytes are the length of the JSON object that follows."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 + length:
        raise ValueError("the file is cut short")
    if length > LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes, at most {LARGEST_HEADER} are read")
    header = read_json(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header
