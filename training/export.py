"""Turns a finished run into a weight file for ``task_losses``.

    python training/export.py runs/jpeg                     # runs/jpeg/jpeg.safetensors
    python training/export.py runs/jpeg --release v2        # into the package and its manifest
    python training/export.py runs/jpeg --taps 1 4 --distance absolute   # the same critics, compared otherwise

Folds BatchNorm and the input range into the convolutions, scales the features, writes the file, reads it back
through ``task_losses``, compares its features with the trained networks', and writes the manifest's entry.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

import task_losses
from task_losses import TaskLoss, WeightsError
from task_losses.architecture import Architecture
from task_losses.discriminator import FrozenDiscriminator
from task_losses.files import write_file
from task_losses.texts import take_any_name
from task_losses.weights import MANIFEST, describe, named_layers, parse_weights, serialize_weights
from training.batchnorm import fold_batchnorm
from training.builtin import BUILTIN
from training.config import Config, add_flags, given_settings
from training.distortions import OwnSource
from training.material import Material, changes
from training.networks import Block, Discriminator
from training.provenance import RETIRED, ROOT
from training.recipes import RECIPES
from training.run_folder import RunFolder
from training.scaling import Examples, Layers, feature_scale, random_scale, scaled, texture_weight, weight_beside_l1

# Largest difference between a trained network's features and the file's, relative to the features' largest value.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Trained:
    """What a finished run left.

    Attributes:
        discriminators: in evaluation mode, coarsest first.
        material: what they were trained on.
        examples: of each scale, what they were to tell apart.
        origin: the code, versions and machine that trained them, and ``seconds``.
    """

    config: Config
    discriminators: list[Discriminator]
    material: Material
    examples: list[Examples]
    origin: dict[str, Any]


# Settings that say how the loss compares, not how its critics are trained.
FORM = (
    "taps",
    "distance",
    "image_exponent",
    "image_share",
    "texture_taps",
    "texture_skips",
    "texture_pull",
    "periods",
    "periodic_weight",
)


def open_run(folder: RunFolder, form: Mapping[str, Any] | None = None) -> Trained:
    """Reads a finished run.

    Args:
        form: values of settings in ``FORM`` to use in the place of the run's.

    Raises:
        ValueError: the run is not finished, or a setting has no such value.
        OSError: there is no run.
    """
    if not folder.checkpoint_path.exists():
        ended = "ended before its first checkpoint: train it again" if folder.begun else "is not there: train it first"
        raise FileNotFoundError(f"the run in {folder.path} {ended}, `python -m training.train --out {folder.path} ...`")
    checkpoint = folder.load_checkpoint()
    config = replace(Config.from_dict(json.loads(checkpoint["config"])), **(form or {}))
    states = checkpoint["finished"]
    if len(states) < config.scales:
        raise ValueError(
            f"the run in {folder.path} has finished {len(states)} of {config.scales} scales: "
            f"continue it with `python training/train.py --resume --out {folder.path}`"
        )
    discriminators = []
    for state, width in zip(states, config.architecture.channels, strict=True):
        discriminator = Discriminator(width).eval().requires_grad_(False)
        discriminator.load_state_dict(state)
        discriminators.append(discriminator)
    material = Material.loaded(checkpoint["material"])
    examples = [Examples(*pair) for pair in zip(material.levels, checkpoint["examples"], strict=True)]
    return Trained(config, discriminators, material, examples, json.loads(checkpoint["origin"]))


def fold(discriminator: Discriminator, input_range: tuple[float, float]) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of each convolution, with BatchNorm and the map from [0, 1] to the input range inside.

    Exact up to rounding: a convolution followed by an affine map of its channels is a convolution, and without
    padding so is one preceded by an affine map. Computed in float64.
    """
    layers = []
    for block in discriminator.blocks:
        assert isinstance(block, Block)
        norm = block.norm
        folded = fold_batchnorm(
            block.conv.weight,
            None,
            mean=norm.get_buffer("running_mean"),
            variance=norm.get_buffer("running_var"),
            scale=norm.weight,
            shift=norm.bias,
            eps=norm.eps,
        )
        layers.append(folded)
    last_bias = discriminator.last.get_parameter("bias")
    layers.append((discriminator.last.weight.double(), last_bias.double()))
    low, high = input_range
    weight, bias = layers[0]
    layers[0] = (weight * (high - low), bias + low * weight.sum(dim=(1, 2, 3)))
    return [(weight.detach().float(), bias.detach().float()) for weight, bias in layers]


def weight_file(trained: Trained, licence: str | None = None) -> bytes:
    """The bytes of the weight file of a run, with its provenance; ``licence`` is of the weights."""
    config = trained.config
    folded = [fold(discriminator, config.input_range) for discriminator in trained.discriminators]
    factor = feature_scale(folded, config, examples=trained.examples)
    discriminators = [scaled(layers, factor) for layers in folded]
    architecture = replace(config.architecture, texture_weight=texture_weight(discriminators, config, trained.examples))
    info = {
        "task": config.task,
        "config": json.loads(json.dumps(config.used)),
        "image": asdict(trained.material.image),
        "distortion": _distortion(config, trained.material.distortion),
        "command": _command(config),
        "feature_scale": factor,
        "random_scale": random_scale(config, trained.examples),
        "weight_beside_l1": recommendation(discriminators, architecture, config, trained.examples[-1]),
        **({} if (said := licence or _own_licence(config)) is None else {"license": said}),
        "code_commit": trained.origin["commit"],
        "versions": {"task_losses": task_losses.__version__, "torch": trained.origin["torch"]},
    }
    return serialize_weights(named_layers(discriminators), architecture, info)


def recommendation(
    discriminators: Sequence[Layers], form: Architecture, config: Config, example: Examples
) -> dict[str, Any]:
    """The weight to begin with beside L1, and what it was measured on."""
    height, width = example.level.shape[-2:]
    treatment = ["enlarged from a coarser level"] if config.upscale else []
    treatment += ["distorted"] if config.distortions != ("sr",) else []
    treatment += [f"restored by a linear filter of {config.wiener}x{config.wiener} pixels"] if config.wiener else []
    return {
        "weight": weight_beside_l1(discriminators, form, example),
        "measured_on": f"the training image of {width}x{height} pixels, {', '.join(treatment)}",
    }


def _own_licence(config: Config) -> str | None:
    """This project's, for what its recipes make of scikit-image's photographs. Others are whoever's made them."""
    return "MIT" if config.task in RECIPES and config.image.startswith("skimage:") and not config.distortion else None


def _distortion(config: Config, own: OwnSource | None) -> dict[str, Any]:
    """Names, the hash of the source where it is the user's own, and the ranges of the strengths."""
    strengths = {
        strength.setting: list(getattr(config, strength.setting))
        for name in config.distortions
        if name in BUILTIN
        for strength in BUILTIN[name].strengths
    }
    return {
        "name": ", ".join(config.distortions),
        **({} if own is None else {"sha256": own.sha256}),
        **({"strengths": strengths} if strengths else {}),
    }


def _command(config: Config) -> str:
    """The training's, with the settings that differ from the task's recipe."""
    recipe = {**{f.name: f.default for f in fields(Config)}, **RECIPES.get(config.task, {})}
    flags = [_flag(name, value) for name, value in config.used.items() if name != "task" and value != recipe[name]]
    return " ".join(["python training/train.py --task", config.task, *flags])


@torch.no_grad()
def largest_error(trained: Trained, loss: TaskLoss) -> float:
    """Largest relative difference of the exported features from the trained networks', over the image's pyramid.

    NaN if one is none.
    """
    low, high = trained.config.input_range
    errors = []
    for level, discriminator, found in zip(
        trained.material.levels, trained.discriminators, loss.discriminators, strict=True
    ):
        frozen = cast(FrozenDiscriminator, found)
        outputs = discriminator.outputs(low + (high - low) * level)
        for tap, exported in zip(frozen.taps, frozen(level), strict=True):
            if tap == 0:  # the image itself
                continue
            expected = loss.weights_info["feature_scale"] * outputs[tap - 1]
            errors.append((exported - expected).abs().max() / expected.abs().max())
    return torch.stack(errors).max().item()  # Python's max would drop what is not a number


def manifest_entry(filename: str, data: bytes, origin: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of a weight file.

    The cost of the training stands here and not in the file, whose bytes a second training is to reproduce.
    """
    weights = parse_weights(data, source=filename)
    entry = describe(data, filename)
    del entry["config"]  # the command says it in short
    return {
        **entry,
        "input": {"range": [0, 1], "color": "sRGB", "min_size": weights.architecture.receptive_field},
        "cost": {key: origin[key] for key in ("seconds", "processor", "threads", "gpu", "kernels") if key in origin},
    }


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return shlex.join([f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])])


def release(entry: dict[str, Any], task: str, data: bytes, root: Path = ROOT) -> None:
    """Puts a weight file into the package and its manifest.

    Raises:
        ValueError: a file of that name was released with other bytes, now or ever. A released weight never changes.
    """
    path, retired_path, name = root / MANIFEST, root / RETIRED, entry["filename"]
    manifest = json.loads(path.read_text(encoding="utf-8"))
    retired = json.loads(retired_path.read_text(encoding="utf-8")) if retired_path.exists() else {}
    listed = {old["filename"]: old["sha256"] for old in manifest["weights"].values()}
    if Path(name).name != name:
        raise ValueError(f"{name!r} cannot be the name of a file: give a version like v2")
    if {**retired, **listed}.get(name, entry["sha256"]) != entry["sha256"]:
        raise ValueError(f"{name} was released with other bytes: give the new weights another version")
    old = manifest["weights"].get(task)
    folder = root / "task_losses" / "weights"
    folder.mkdir(exist_ok=True)
    write_file(folder / name, data)
    replaced = old is not None and old["filename"] != name
    if replaced:  # before it leaves the manifest
        retired[old["filename"]] = old["sha256"]
        write_file(retired_path, (json.dumps(retired, indent=2, sort_keys=True) + "\n").encode())
    # New weights are not on the Hub yet: the old revision does not hold them.
    manifest["weights"][task] = entry
    if old is None or old["sha256"] != entry["sha256"]:
        manifest["revision"] = None
    write_file(path, (json.dumps(manifest, indent=2) + "\n").encode())
    if replaced:
        (folder / old["filename"]).unlink(missing_ok=True)


def export(
    folder: RunFolder,
    version: str | None = None,
    form: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> Path:
    """Writes, reads back and compares; see the module's description.

    Args:
        version: also release the file under this version, like ``v2``.
        form: see :func:`open_run`.
        licence: of the weights.

    Raises:
        ValueError: the run is not finished, or the version is taken.
        WeightsError: the written file cannot be read back, or its features differ from the trained networks'.
    """
    trained = open_run(folder, form)
    for change in changes(trained.config, trained.material):
        if change is not None:
            print(f"warning: {change}; the file tells of what the run was trained on", file=sys.stderr)
    task = trained.config.task
    data = weight_file(trained, licence)
    path = folder.path / f"{task}.safetensors"
    write_file(path, data)
    try:
        error = largest_error(trained, TaskLoss(path))
        if not error <= TOLERANCE:
            raise WeightsError(
                f"the exported features differ from the trained networks' by {error:.1e} of their range, allowed are "
                f"{TOLERANCE:.0e}; the file was removed"
            )
    except WeightsError:
        path.unlink()
        raise
    filename = f"{task}-{version}.safetensors" if version else path.name
    entry = manifest_entry(filename, data, trained.origin)
    write_file(folder.path / "manifest_entry.json", (json.dumps(entry, indent=2) + "\n").encode())
    print(f"{path}: {len(data)} bytes, sha256 {entry['sha256']}")
    if "license" not in entry:
        print("the weights have no licence yet, and others may not use them: --licence says it, such as cc-by-4.0")
    print(f"features equal the trained networks' to {error:.1e} of their range")
    if version:
        release(entry, task, data)
        print(f"released as {filename}")
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python training/export.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--release", metavar="VERSION", help="also put it into the package, as TASK-VERSION")
    parser.add_argument("--licence", metavar="TEXT", help="of the weights, as the Hub names it: mit, cc-by-4.0, ...")
    add_flags(parser, FORM)
    take_any_name()
    arguments = parser.parse_args(argv)
    try:
        export(RunFolder(arguments.run), arguments.release, given_settings(arguments, FORM), arguments.licence)
    except (ValueError, OSError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
