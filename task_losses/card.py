"""The model card: a manifest told to people. What others wrote into it is shown as it stands, never as markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from task_losses.levels import Selection
from task_losses.origin import facts
from task_losses.texts import markdown
from task_losses.weights import architecture_from_dict

PAPER = "arXiv 2103.14616"
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")  # of a licence, as the Hub lists them

# Facts of a file itself; everything else in an entry is provenance and is listed as it stands.
_OF_THE_FILE = ("filename", "sha256", "size", "architecture", "metrics", "weight_beside_l1")


def model_card(manifest: Mapping[str, Any], class_name: str, previews: Mapping[str, str] | None = None) -> str:
    """README.md of a repository or folder: YAML front matter, use, and a section per weight file.

    Args:
        manifest: content of a weights manifest; ``repo_id`` and ``license`` may be None.
        class_name: of the loss that the example makes from these weights.
        previews: task -> name of a picture that lies beside the card.
    """
    entries: Mapping[str, Mapping[str, Any]] = manifest["weights"]
    blocks = [_front_matter(manifest.get("license"), sorted(entries)), *_introduction(manifest, class_name)]
    for task in sorted(entries):
        blocks += [f"## {markdown(task)}", *_section(entries[task])]
        if previews and task in previews:
            blocks.append(f"![what the critics were to tell apart]({previews[task]})")
    return "\n\n".join(blocks) + "\n"


def _front_matter(license: str | None, tasks: list[str]) -> str:
    tags = ["task-losses", "loss", "image-restoration", *tasks]
    lines = ["library_name: task-losses", "tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    if license and _IDENTIFIER.fullmatch(license.lower()):
        lines.insert(0, f"license: {json.dumps(license.lower())}")
    return "\n".join(["---", *lines, "---"])


def _introduction(manifest: Mapping[str, Any], class_name: str) -> Iterator[str]:
    repo_id = manifest.get("repo_id")
    tasks = sorted(manifest["weights"])
    yield f"# {markdown(repo_id or 'Weights of a loss')}"
    yield (
        "Frozen discriminators, each trained on one image, that serve as a loss for training image-restoration "
        f"networks ({PAPER}). Tasks: {', '.join(map(markdown, tasks))}."
    )
    source = json.dumps(repo_id or "./this-folder")
    yield "\n".join(
        [
            "```python",
            "import torch",
            f"from task_losses import {class_name}",
            "",
            f"loss = {class_name}({source})  # pip install task-losses",
            "restored = torch.rand(2, 3, 64, 48, requires_grad=True)",
            "loss(restored, torch.rand(2, 3, 64, 48)).backward()",
            "```",
        ]
    )
    yield f"Licence of the weights: {_text(manifest.get('license') or None)}."


def _section(entry: Mapping[str, Any]) -> Iterator[str]:
    provenance = {key: value for key, value in facts(entry).items() if key not in _OF_THE_FILE}
    architecture = entry["architecture"]
    form = architecture_from_dict(architecture)
    file = {
        "file": f"`{entry['filename']}`, {entry['size']} bytes",
        "sha256": f"`{entry['sha256']}`",
        "scales": f"{len(architecture['channels'])}, of {_text(architecture['channels'])} channels",
        "convolutions per scale": _text(architecture["depth"]),
        "compared layers": _text(architecture["taps"]),
        "distance": architecture.get("distance", "squared"),
    }
    whole = Selection(form, (0,), "pyramid").smallest_side
    file |= {
        "images": "RGB or grey, in [0, 1]; others by `data_range`",
        "smallest side": f"{form.receptive_field} pixels; {whole} for all scales",
        "weight beside L1": _weight_beside_l1(entry),
    }
    if "image_exponent" in architecture:
        file["exponent of the image's distance"] = _text(architecture["image_exponent"])
    yield _table("", "", {**file, **_flat(provenance)})
    if entry.get("metrics"):
        yield "Measured:"
        yield _table("metric", "value", _flat(entry["metrics"]))


def _weight_beside_l1(entry: Mapping[str, Any]) -> str:
    measure = "`task_losses.weight_for(loss, restored, reference)`, on what your network makes"
    said = entry.get("weight_beside_l1")
    if said is None:
        return measure
    return f"{said['weight']:g} to begin with, measured on {_text(said['measured_on'])}; better by {measure}"


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested objects as ``outer.inner`` keys, in alphabetical order, as Markdown."""
    flat: dict[str, str] = {}
    for key in sorted(content):
        if isinstance(content[key], Mapping):
            flat.update(_flat(content[key], f"{prefix}{key}."))
        else:
            flat[_text(f"{prefix}{key}")] = _text(content[key])
    return flat


def _table(left: str, right: str, rows: Mapping[str, str]) -> str:
    return "\n".join([f"| {left} | {right} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return "not stated" if value is None else markdown(" ".join(str(value).split()))
