"""A run's checkpoint on the disk: written whole, read whole, and checked before anything is made from it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from task_losses.files import read_file, write_file
from training.config import Config
from training.material import Material
from training.scale import Scale
from training.scaling import DRAWS

LARGEST = 2**32  # bytes of a checkpoint that is read; those of the default settings have a thousandth


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a checkpoint at once: a kill leaves either the old one or the new one.

    Raises:
        OSError: it cannot be written; it says why. (Writing to a path, torch would not say that a disk is full.)
    """
    file = io.BytesIO()
    torch.save(dict(content), file)
    write_file(path, file.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What :func:`write_checkpoint` wrote; nothing in the file is run.

    Raises:
        ValueError: the file is damaged, or of another version.
        OSError: it cannot be read.
    """
    data = read_file(path, LARGEST)
    try:
        # An archive may stand behind anything, and torch would read that instead.
        if not data.startswith(b"PK\x03\x04"):
            raise ValueError("it does not begin as an archive")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is packed, and may hold any amount")
            if damaged := archive.testzip():  # torch does not compare checksums
                raise ValueError(f"{damaged} in it is not what was written")
        content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        fault = next(_faults(content), None)
    except Exception as error:  # zipfile, pickle and torch raise whatever comes
        fault = " ".join(str(error).split())[:200] or type(error).__name__
    if fault is not None:
        raise ValueError(
            f"{path} is damaged or of another version: {fault}; there is no going on from it: delete it and start the "
            "run again, or take it from a copy"
        )
    checkpoint: dict[str, Any] = content
    return checkpoint


def _faults(content: Any) -> Iterator[str]:
    """What is wrong, by name. Whatever is raised here is a fault too."""
    kinds = {
        "config": str, "origin": str, "material": dict, "finished": list, "examples": list, "coarser": Tensor,
        "scale": int, "step": int, "draws": Tensor,
    }  # fmt: skip
    if not isinstance(content, dict):
        yield "it is no checkpoint of a run"
        return
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            yield f"it has no {name}, or none of type {kind.__name__}"
    config = Config.from_dict(json.loads(content["config"]))
    scale, step = content["scale"], content["step"]
    if not (0 <= scale <= config.scales and 0 <= step < config.steps and (scale < config.scales or step == 0)):
        yield f"it is of step {step} at scale {scale}, and the run has {config.scales} scales of {config.steps} steps"
    float(json.loads(content["origin"])["seconds"])
    torch.Generator().set_state(content["draws"])
    material = Material.loaded(content["material"])
    if len(material.levels) != config.scales:
        yield f"it has {len(material.levels)} levels, and the run has {config.scales}"
    if not all(_is_image(x) for x in (material.below, content["coarser"], *material.levels)):
        yield "its levels are no images"
    examples = content["examples"]
    if len(examples) != scale or any(
        x.shape != (DRAWS, *level.shape[1:]) for x, level in zip(examples, material.levels, strict=False)
    ):
        yield "its examples do not fit its levels"
    finished = content["finished"]
    if len(finished) != scale:
        yield f"it has {len(finished)} finished scales, and is at scale {scale}"
    for index, state in enumerate(finished):
        Scale(config, index, torch.device("cpu")).critic.load_state_dict(state)
    if scale > 0 or step > 0:
        yield from _faults_of_networks(content["state"], config, scale if step > 0 else scale - 1)


def _is_image(x: Any) -> bool:
    """Whether it is one, and has all its pixels in the file: strides of 0 would make much of little."""
    return (
        isinstance(x, Tensor)
        and x.is_floating_point()
        and x.dim() == 4
        and x.shape[:2] == (1, 3)
        and 0 < x.numel() * x.element_size() <= x.untyped_storage().nbytes()
    )


def _faults_of_networks(state: Mapping[str, Any], config: Config, scale: int) -> Iterator[str]:
    networks = Scale(config, scale, torch.device("cpu"))
    networks.load_state(dict(state), same_scale=True)
    for name, optimizer in networks.optimizers.items():
        for parameter in networks.networks[name].parameters():
            moments = optimizer.state[parameter]
            if any(moments[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
                yield f"the moments of its {name} are not of its shape"
