"""``python -m training.convert_official Ds_JPEG.pth OUT.safetensors``: the authors' weights as a weight file of ours.

Their files (gfxdisp/mdf, BSD-3-Clause) are pickles of whole modules, which nobody should unpickle:
:mod:`training.legacy_pickle` reads them without running anything. Here the structure is checked to be what their loss
computes, BatchNorm is folded into the convolutions, and origin and licence travel in the metadata.

The result equals their loss with ``TaskLoss(pretrained=OUT, resolution="full")``; see docs/official.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from task_losses.architecture import SLOPE, Architecture
from task_losses.files import read_file, write_file
from task_losses.losses import LOSSES
from task_losses.texts import printable, shown
from task_losses.weights import LARGEST_FILE, WeightsError, named_layers, parse_weights, serialize_weights
from training.batchnorm import fold_batchnorm
from training.legacy_pickle import Node, read_legacy

REPOSITORY = "gfxdisp/mdf"
COMMIT = "3901f23"
LICENSE = "BSD-3-Clause"
LICENSE_FILE = Path(__file__).with_name("mdf_license.txt")
SCALES = 8  # how many of their discriminators the authors' loss uses, from the coarsest on

DISCRIMINATOR = "SinGAN.models.WDiscriminator"
BLOCK = "SinGAN.models.ConvBlock"
SEQUENTIAL = "torch.nn.modules.container.Sequential"
CONV = "torch.nn.modules.conv.Conv2d"
NORM = "torch.nn.modules.batchnorm.BatchNorm2d"
ACTIVATION = "torch.nn.modules.activation.LeakyReLU"
CLASSES = frozenset({DISCRIMINATOR, BLOCK, SEQUENTIAL, CONV, NORM, ACTIVATION})

Layer = tuple[Tensor, Tensor]


class StructureError(ValueError):
    """The file was read, but its networks are not those that the authors' loss consists of."""


@dataclass(frozen=True)
class Release:
    """A file that the authors published.

    Attributes:
        path: in their repository.
        task: that the file is named after.
    """

    path: str
    task: str


# By sha256. Their Ds_SISR.pth and Ds_Denoising.pth are the same bytes.
RELEASES = {
    "6eee1fbf452c7789db78cfd70de6ff375ed15efa9e48be34eb0bb88ed511ca46": Release("weights/Ds_JPEG.pth", "jpeg"),
    "69ff954e399176a4869cbc27019df02a32b6600f0f4458f5580c1a7cae8c50b1": Release("weights/Ds_SISR.pth", "sr"),
}


def read_discriminators(data: bytes) -> list[list[Layer]]:
    """The networks of one of the authors' files, coarsest first, BatchNorm folded.

    Args:
        data: the whole file.

    Returns:
        (weight, bias) in float32 of every convolution of every discriminator.

    Raises:
        LegacyFormatError: the file is damaged, of another format, or asks for something a network does not need.
        StructureError: its networks would compute something else.
    """
    content = read_legacy(data, CLASSES)
    if not isinstance(content, list) or not content:
        raise StructureError(f"expected a list of discriminators, found {type(content).__name__}")
    return [_discriminator(node, f"discriminator {index}") for index, node in enumerate(content)]


def fold(convolution: Layer, norm: Node) -> Layer:
    """A convolution that also does the work of the BatchNorm after it."""
    weight, bias = fold_batchnorm(
        *convolution,
        mean=_tensor(norm, "running_mean"),
        variance=_tensor(norm, "running_var"),
        scale=_tensor(norm, "weight"),
        shift=_tensor(norm, "bias"),
        eps=norm.state["eps"],
    )
    return weight.float(), bias.float()


def convert(data: bytes, task: str | None = None, scales: int = SCALES) -> bytes:
    """The bytes of a weight file made from the bytes of one of the authors' files.

    Args:
        task: ``"sr"``, ``"denoise"`` or ``"jpeg"``; None for the one that the released file is named after.
        scales: how many discriminators to take, from the coarsest on.

    Raises:
        ValueError: the file is none of the released ones and no task is given, or it has fewer discriminators;
            LegacyFormatError and StructureError (both ValueError) as for :func:`read_discriminators`.
        WeightsIntegrity: its numbers are not finite.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    release = RELEASES.get(sha256)
    if release is None and task is None:
        raise ValueError(f"sha256 {sha256} is none of the released files; say what it is for with --task")
    discriminators = read_discriminators(data)
    if not 1 <= scales <= len(discriminators):
        raise ValueError(f"the file has {len(discriminators)} discriminators; --scales must be 1 to that, got {scales}")
    architecture = Architecture(channels=tuple(len(layers[0][0]) for layers in discriminators[:scales]))
    origin: dict[str, Any] = {"sha256": sha256}
    if release is not None:
        origin |= {"repo": REPOSITORY, "commit": COMMIT, "path": release.path}
    info = {
        "task": task or (release.task if release else None),
        "imported_from": origin,
        "discriminators": {"taken": scales, "available": len(discriminators)},
        "input_range": [0, 1],
        "authors_resolution": "full",
        "license": LICENSE,
        "license_text": LICENSE_FILE.read_text(encoding="utf-8"),
    }
    result = serialize_weights(named_layers(discriminators[:scales]), architecture, info)
    parse_weights(result, source="the converted file")  # whatever is wrong should show here, not at the user's
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.convert_official", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="Ds_JPEG.pth, Ds_SISR.pth or Ds_Denoising.pth of gfxdisp/mdf")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--task", choices=LOSSES, help="default: the task of the released file")
    parser.add_argument(
        "--scales", type=int, default=SCALES, help="discriminators to take, coarsest first (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        result = convert(read_file(options.source, LARGEST_FILE), options.task, options.scales)
        write_file(options.out, result)
    except (ValueError, OSError, WeightsError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {len(result)} bytes, sha256 {hashlib.sha256(result).hexdigest()}")
    return 0


def _discriminator(node: Any, where: str) -> list[Layer]:
    parts = _children(node, DISCRIMINATOR, ("head", "body", "tail"), where)
    body = _children(parts["body"], SEQUENTIAL, ("block1", "block2", "block3"), f"{where}, body")
    blocks = {"head": parts["head"], **body}
    layers = [_block(block, f"{where}, {name}") for name, block in blocks.items()]
    layers.append(_convolution(parts["tail"], f"{where}, tail"))
    width = len(layers[0][0])
    expected = Architecture(channels=(width,)).layer_shapes(0)
    found = [(weight.shape[1], weight.shape[0]) for weight, _ in layers]
    if found != expected:
        raise StructureError(f"{where}: expected convolutions (inputs, outputs) {expected}, found {found}")
    return layers


def _block(node: Any, where: str) -> Layer:
    parts = _children(node, BLOCK, ("conv", "norm", "LeakyRelu"), where)
    convolution = _convolution(parts["conv"], where)
    norm, activation = parts["norm"], parts["LeakyRelu"]
    _children(norm, NORM, (), where)
    _children(activation, ACTIVATION, (), where)
    _expect(activation, where, negative_slope=SLOPE)
    _expect(norm, where, eps=1e-5, affine=True, track_running_stats=True)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if _tensor(norm, name).shape != convolution[1].shape:
            raise StructureError(f"{where}: {name} of BatchNorm has shape {tuple(_tensor(norm, name).shape)}")
    return fold(convolution, norm)


def _convolution(node: Any, where: str) -> Layer:
    _children(node, CONV, (), where)
    _expect(
        node,
        where,
        kernel_size=(3, 3),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        transposed=False,
        padding_mode="zeros",
    )
    weight, bias = _tensor(node, "weight"), _tensor(node, "bias")
    if weight.ndim != 4 or weight.shape[2:] != (3, 3) or bias.shape != weight.shape[:1]:
        raise StructureError(f"{where}: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} are no 3x3 layer")
    return weight, bias


def _children(node: Any, name: str, children: tuple[str, ...], where: str) -> dict[str, Any]:
    """The submodules of a module of the expected class, in evaluation mode, with nothing hooked onto it."""
    if not isinstance(node, Node) or node.name != name:
        raise StructureError(f"{where}: expected {name}, found {getattr(node, 'name', type(node).__name__)}")
    _expect(node, where, training=False)
    filled = [key for key, value in node.state.items() if value is not None and not _same(value, {})]
    hooks = printable(", ".join(key for key in filled if key.endswith("hooks")), 300)
    if hooks:
        raise StructureError(f"{where}: {name} carries {hooks}, which cannot be carried over")
    found = node.state.get("_modules", {})
    if not isinstance(found, dict) or tuple(found) != children:
        raise StructureError(f"{where}: expected the submodules {children} of {name}, found {shown(found)}")
    return found


def _expect(node: Node, where: str, **attributes: Any) -> None:
    for key, expected in attributes.items():
        found = node.state.get(key)
        if not _same(found, expected):
            raise StructureError(
                f"{where}: {key} of {node.name} must be {expected!r}, found {shown(found)}; the authors' loss is "
                "another network"
            )


def _same(found: Any, expected: Any) -> bool:
    """Equality with something simple. ``==`` goes as deep as a hostile file, and makes tensors of tensors."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return not found if expected == {} else bool(found == expected)


def _tensor(node: Node, name: str) -> Tensor:
    for kind in ("_parameters", "_buffers"):
        tensors = node.state.get(kind)
        if isinstance(tensors, dict) and isinstance(tensors.get(name), Tensor):
            tensor: Tensor = tensors[name]
            if tensor.dtype == torch.float32:
                return tensor
    raise StructureError(f"{node.name} has no float32 tensor {name!r}")


if __name__ == "__main__":
    sys.exit(main())
