"""Trunks of classifiers: their layers, their loss, and VGG16's weights from a file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.bench.study.peers import VGG_MEANS, Sources, find_peer
from training.bench.trunks import TrunkLoss, alexnet, vgg16

WIDTHS = {1: (64, 64), 2: (128, 128), 3: (256, 256, 256), 4: (512, 512, 512)}  # by block


def test_the_trunks_have_the_layers_of_their_papers() -> None:
    image = torch.zeros(1, 3, 224, 224)
    shapes = {
        name: [tuple(x.shape[1:]) for x in TrunkLoss(trunk).features(image)]
        for name, trunk in (("vgg16", vgg16()), ("alexnet", alexnet()))
    }
    assert shapes["vgg16"] == [(64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28)]
    assert shapes["alexnet"] == [(64, 55, 55), (192, 27, 27), (384, 13, 13), (256, 13, 13), (256, 13, 13)]
    assert sum(p.numel() for p in vgg16().parameters()) == 7_635_264
    assert sum(p.numel() for p in alexnet().parameters()) == 2_469_696


@pytest.mark.parametrize("trunk", [vgg16, alexnet])
def test_the_loss_compares_what_every_part_makes(trunk) -> None:
    torch.manual_seed(0)
    loss = TrunkLoss(trunk(), lambda image: 2 * image)
    pred, target = torch.rand(2, 1, 3, 64, 64).requires_grad_()
    value = loss(pred, target)
    expected, x, y = 0.0, 2 * pred, 2 * target
    for part in loss.parts:
        x, y = part(x), part(y)
        expected += (x - y).square().mean().item()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    (gradient,) = torch.autograd.grad(value, pred)
    assert gradient.abs().sum() > 0


def vgg_by_hand(weights: dict[tuple[int, int], tuple[Tensor, Tensor]], image: Tensor) -> list[Tensor]:
    x = 255 * image[:, [2, 1, 0]] - torch.tensor(VGG_MEANS)[:, None, None]
    outputs = []
    for block, widths in WIDTHS.items():
        x = F.max_pool2d(x, 2) if block > 1 else x
        for index in range(len(widths)):
            x = F.conv2d(x, *weights[block, index], padding=1).relu()
        outputs.append(x)
    return outputs


def test_vgg_takes_its_weights_from_a_file_of_keras(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py, which reads VGG16's weights, is not installed")
    torch.manual_seed(0)
    inputs = [3, *(width for widths in WIDTHS.values() for width in widths)]
    shapes = iter(pairwise(inputs))
    weights = {}
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        for block, widths in WIDTHS.items():
            for index in range(len(widths)):
                of, to = next(shapes)
                weight, bias = torch.randn(to, of, 3, 3) / (3 * of**0.5), torch.randn(to)
                weights[block, index] = weight, bias
                name = f"block{block}/layers/conv2d{f'_{index}' if index else ''}/vars"
                file[f"{name}/0"], file[f"{name}/1"] = weight.permute(2, 3, 1, 0).numpy(), bias.numpy()
    loss = find_peer("vgg", "sr", Sources(vgg=tmp_path / "vgg.h5")).build(0)
    pred, target = torch.rand(2, 1, 3, 32, 40)
    pairs = zip(vgg_by_hand(weights, pred), vgg_by_hand(weights, target), strict=True)
    assert loss(pred, target).item() == pytest.approx(sum(F.mse_loss(x, y).item() for x, y in pairs), rel=1e-5)
