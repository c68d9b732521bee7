"""The losses as frameworks call them, without any framework; tests/frameworks has the real ones."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import task_losses
from task_losses import SRLoss
from task_losses.integrations.slots import PerceptualSlot, Slot, UnweightedSlot, WeightedSlot

MEMORY: dict[str, Any] = {"memory_format": torch.channels_last}  # which torch's annotations do not know


class Weighted(WeightedSlot):
    kind = SRLoss


class Perceptual(PerceptualSlot):
    kind = SRLoss


class Unweighted(UnweightedSlot):
    kind = SRLoss


NONE: dict[str, Any] = {}
TEXT: dict[str, Any] = {"perceptual_weight": "1e-1"}


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    pred, target = torch.rand(2, 2, 3, 40, 40, generator=torch.Generator().manual_seed(0)).unbind()
    return pred, target


@pytest.fixture(scope="module")
def value(pair: tuple[Tensor, Tensor]) -> Tensor:
    result: Tensor = SRLoss()(*pair)
    return result


def test_the_weight_multiplies_once(pair, value):
    """Inside where the framework adds results up, outside where it multiplies them itself."""
    torch.testing.assert_close(Weighted(loss_weight=0.5)(*pair), 0.5 * value)
    torch.testing.assert_close(Perceptual(perceptual_weight=0.5)(*pair)[0], 0.5 * value)
    outside = Unweighted(loss_weight=-0.5)
    torch.testing.assert_close(outside(*pair) * abs(outside.loss_weight), 0.5 * value)


def test_weights_of_elements_are_the_mask(pair):
    weight = (torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    torch.testing.assert_close(Weighted(loss_weight=2.0)(*pair, weight), 2 * SRLoss()(*pair, weight))
    torch.testing.assert_close(Weighted()(*pair, weight=None), SRLoss()(*pair))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_scales_add_up_to_the_loss(pair, reduction):
    shares = Unweighted(loss_weight=2.0, per_scale=True, reduction=reduction)(*pair)
    assert all(re.fullmatch(r"scale\d", name) for name in shares)
    torch.testing.assert_close(sum(shares.values()), SRLoss(reduction=reduction)(*pair))


def test_a_target_made_in_inference_mode(pair):
    """As traiNNer-redux makes it for negative weights."""
    with torch.inference_mode():
        target = pair[1] * 1.0
    for per_scale in (False, True):
        pred = pair[0].clone().requires_grad_()
        result = Unweighted(loss_weight=-1.0, per_scale=per_scale)(pred, target)
        (sum(result.values()) if per_scale else result).backward()
        assert pred.grad.any()


def test_weights_of_ones_own(pair, tmp_path):
    """By TaskLoss, the kind of a slot that is told no other."""
    task_losses.JPEGLoss().save_pretrained(tmp_path)
    torch.testing.assert_close(WeightedSlot(pretrained=str(tmp_path))(*pair), task_losses.JPEGLoss()(*pair))


def test_the_perceptual_slot_returns_two_losses(pair, value):
    loss, style = Perceptual()(*pair)
    torch.testing.assert_close(loss, value)
    assert style is None
    assert Perceptual(perceptual_weight=0)(*pair) == (None, None)


def test_the_perceptual_slots_range(pair, value):
    pred, target = (image * 2 - 1 for image in pair)
    torch.testing.assert_close(Perceptual(range_norm=True)(pred, target)[0], value)
    with pytest.raises(ValueError, match=r"range_norm.*data_range"):
        Perceptual(range_norm=True, data_range=255.0)


def test_options_of_vgg_are_left_alone_with_a_warning():
    with pytest.warns(UserWarning, match="layer_weights, use_input_norm: options of VGG"):
        Perceptual(layer_weights={"conv5_4": 1}, use_input_norm=False)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Perceptual(style_weight=1.0), ValueError, "style_weight must be 0, got 1.0"),
        (lambda: Perceptual(loss_weight=1.0), ValueError, "perceptual_weight"),
        (lambda: Perceptual(**TEXT), TypeError, "without quotes"),
        (lambda: Weighted(los_weight=1.0), TypeError, "los_weight"),
        (lambda: Unweighted(**NONE), TypeError, "loss_weight"),
        (lambda: Unweighted(loss_weight=1.0, reduction="none"), ValueError, "reduction"),
        (
            lambda: Weighted()(torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40), torch.ones(1)),
            ValueError,
            "mask must",
        ),
    ],
)
def test_errors_say_what_to_do(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("slot", [Weighted(), Perceptual(), Unweighted(loss_weight=1.0)], ids=nn.Module._get_name)
def test_a_slot_adds_nothing_to_a_model(slot: Slot, pair):
    """Not to checkpoints and optimizers; and it is true, as `if self.cri_pix:` asks."""
    assert bool(slot)
    assert not slot.state_dict()
    assert not list(slot.parameters())
    assert not any(module.training for module in slot.train().loss.modules())
    moved = copy.deepcopy(slot).to("cpu", non_blocking=True, **MEMORY)
    found, expected = moved(*pair), slot(*pair)
    assert torch.equal(*(result[0] if isinstance(result, tuple) else result for result in (found, expected)))
    assert not nn.ModuleList([slot]).state_dict()


def test_the_package_imports_no_integration():
    code = "import sys, task_losses; print([name for name in sys.modules if 'integrations' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "integrations" not in task_losses.__all__
