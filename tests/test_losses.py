"""What the losses promise, one property per test."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from weight_files import DIFFERENCES, random_file

import task_losses
from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss, WeightsError
from task_losses.architecture import Architecture
from task_losses.discriminator import FrozenDiscriminator
from task_losses.pyramid import level_size, resize, resize_adjoint, resize_area
from task_losses.weights import parse_weights, serialize_weights

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
Make = Callable[..., TaskLoss]


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    path.write_bytes(random_file(DIFFERENCES, seed=11))
    return path


@pytest.fixture
def make(small_file: Path) -> Make:
    """The small loss with any options."""

    def construct(**options: Any) -> TaskLoss:
        return TaskLoss(small_file, **options)

    return construct


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A restored image that requires grad, and its reference."""
    generator = torch.Generator().manual_seed(seed)
    pred, target = (torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return pred.requires_grad_(), target


def gradient(loss: Callable[[Tensor, Tensor], Tensor], pred: Tensor, target: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss(pred, target).sum(), pred)
    return result


class TestValue:
    @pytest.mark.parametrize("kind", [SRLoss, DenoiseLoss, JPEGLoss])
    def test_released_losses_train(self, kind: type[TaskLoss]) -> None:
        pred, target = images(2, 3, 64, 48)
        loss = kind(pretrained=True)
        loss(pred, target).backward()
        assert loss.weights_info["task"] == kind.task
        assert pred.grad is not None
        assert pred.grad.isfinite().all()
        assert pred.grad.abs().sum() > 0

    def test_zero_for_equal_images_and_positive_otherwise(self, make: Make) -> None:
        pred, target = images(2, 3, 24, 20)
        loss = make(reduction="none")
        assert torch.equal(loss(target.clone().requires_grad_(), target), torch.zeros(2))
        assert (loss(pred, target) > 0).all()

    def test_symmetric(self, make: Make) -> None:
        pred, target = images(2, 3, 24, 20, dtype=torch.float64)
        loss = make().double()
        torch.testing.assert_close(loss(pred, target), loss(target, pred.detach()), rtol=1e-12, atol=0)

    def test_same_numbers_every_time(self, make: Make) -> None:
        pred, target = images(2, 3, 24, 20)
        loss = make()
        assert torch.equal(loss(pred, target), loss(pred, target))
        assert torch.equal(gradient(loss, pred, target), gradient(loss, pred, target))

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_result_is_float32_for_every_input(self, make: Make, dtype: torch.dtype) -> None:
        pred, target = images(2, 3, 20, 17, dtype=dtype)
        result = make()(pred, target)
        assert (result.dtype, result.shape) == (torch.float32, ())
        assert gradient(make(), pred, target).dtype == dtype

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, make: Make, dtype: torch.dtype) -> None:
        pred, target = images(2, 3, 20, 17, dtype=dtype)
        wide = pred.detach().float().requires_grad_()
        assert torch.equal(make()(pred, target), make()(wide, target.float()))
        assert torch.equal(gradient(make(), pred, target), gradient(make(), wide, target.float()).to(dtype))

    def test_double_computes_in_float64(self, make: Make) -> None:
        pred, target = images(1, 3, 20, 17, dtype=torch.float64)
        result = make().double()(pred, target)
        assert result.dtype == torch.float64
        assert result != make()(pred, target).double()

    def test_autocast_changes_nothing(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17)
        outside = make()(pred, target), gradient(make(), pred, target)
        with torch.autocast("cpu", torch.bfloat16):
            inside = make()(pred, target), gradient(make(), pred, target)
            mixed = make()(pred.bfloat16(), target)  # a network's output and its reference
        assert torch.equal(outside[0], inside[0])
        assert torch.equal(outside[1], inside[1])
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, make()(pred.bfloat16().float(), target), rtol=0, atol=0)

    def test_a_call_asks_nothing_of_autocast_that_older_torch_cannot_compile(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(kind: str) -> bool:
            raise AssertionError(f"torch 2.11 breaks a compiled graph here ({kind})")

        pred, target = images(1, 3, 20, 17)
        loss = make()
        monkeypatch.setattr(torch.amp, "is_autocast_available", refuse)
        loss(pred, target).backward()
        with torch.autocast("cpu", torch.bfloat16):
            loss(pred.bfloat16(), target).backward()  # two dtypes are a question of autocast

    def test_a_gradient_penalty_made_inside_autocast_is_float32(self, make: Make) -> None:
        """Forward and first gradient inside; the last backward pass outside, as torch asks for."""
        pred, target = images(1, 3, 20, 17)

        def first_gradient() -> Tensor:
            return torch.autograd.grad(make()(pred, target), pred, create_graph=True)[0]

        outside = first_gradient()
        with torch.autocast("cpu", torch.bfloat16):
            inside = first_gradient()
        assert torch.equal(inside, outside)
        (found,) = torch.autograd.grad(inside.square().sum(), pred)
        (expected,) = torch.autograd.grad(outside.square().sum(), pred)
        assert torch.equal(found, expected)

    def test_reductions(self, make: Make) -> None:
        pred, target = images(3, 3, 20, 17)
        per_image = make(reduction="none")(pred, target)
        assert (per_image.shape, per_image.dtype) == ((3,), torch.float32)
        torch.testing.assert_close(make()(pred, target), per_image.mean())
        torch.testing.assert_close(make(reduction="sum")(pred, target), per_image.sum())

    def test_weight_is_a_factor_of_value_and_gradient(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17)
        for reduction in ("mean", "sum", "none"):
            once, thrice = make(reduction=reduction), make(reduction=reduction, loss_weight=3)
            torch.testing.assert_close(thrice(pred, target), 3 * once(pred, target))
            torch.testing.assert_close(gradient(thrice, pred, target), 3 * gradient(once, pred, target))

    @pytest.mark.parametrize(
        ("data_range", "low", "high"), [(255, 0, 255), ((-1, 1), -1, 1), ([0.25, 0.75], 0.25, 0.75)]
    )
    def test_data_range_maps_to_the_unit_range(self, make: Make, data_range: Any, low: float, high: float) -> None:
        pred, target = images(2, 3, 20, 17, dtype=torch.float64)
        scaled = (low + (high - low) * pred.detach()).requires_grad_()
        unit, ranged = make().double(), make(data_range=data_range).double()
        scaled_target = low + (high - low) * target
        torch.testing.assert_close(ranged(scaled, scaled_target), unit(pred, target))
        expected = gradient(unit, pred, target) / (high - low)
        torch.testing.assert_close(gradient(ranged, scaled, scaled_target), expected)

    def test_values_outside_the_range_are_not_clipped(self, make: Make) -> None:
        pred, target = images(1, 3, 20, 17)
        assert make()(pred + 1, target) > make()(pred.clamp(max=1), target)
        assert gradient(make(), (pred.detach() + 5).requires_grad_(), target).abs().min() > 0

    def test_values_are_never_checked(self, make: Make) -> None:
        pred, target = images(1, 3, 20, 17)
        assert make()(torch.full_like(pred, torch.nan), target).isnan()

    def test_grey_is_repeated_to_rgb(self, make: Make) -> None:
        pred, target = images(2, 1, 20, 17, dtype=torch.float64)
        loss = make().double()
        colour = pred.detach().repeat(1, 3, 1, 1).requires_grad_()
        torch.testing.assert_close(loss(pred, target), loss(colour, target.repeat(1, 3, 1, 1)))
        expected = gradient(loss, colour, target.repeat(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        torch.testing.assert_close(gradient(loss, pred, target), expected)

    def test_images_of_a_batch_do_not_mix(self, make: Make) -> None:
        pred, target = images(3, 3, 20, 17)
        loss = make(reduction="none")
        single = [images_of.clone().detach().requires_grad_() for images_of in pred.split(1)]
        values = torch.cat([loss(x, y) for x, y in zip(single, target.split(1), strict=True)])
        gradients = torch.cat([gradient(loss, x, y) for x, y in zip(single, target.split(1), strict=True)])
        torch.testing.assert_close(loss(pred, target), values, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient(loss, pred, target), gradients, rtol=1e-4, atol=1e-6)

    def test_layout_in_memory_does_not_matter(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17)
        value, expected = make()(pred, target), gradient(make(), pred, target)
        wide = torch.zeros(2, 3, 40, 34)
        wide[:, :, ::2, ::2] = pred.detach()
        layouts = {
            "channels last": pred.detach().to(memory_format=torch.channels_last),
            "strided": wide[:, :, ::2, ::2],
            "transposed": pred.detach().transpose(2, 3).contiguous().transpose(2, 3),
        }
        for image in layouts.values():
            assert not image.is_contiguous()
            torch.testing.assert_close(make()(image.requires_grad_(), target), value)
            torch.testing.assert_close(gradient(make(), image, target), expected)
            torch.testing.assert_close(make()(pred, image.detach()), torch.zeros(()))

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_inputs_stay_as_they_are(self, make: Make, memory_format: torch.memory_format) -> None:
        pred, target = (image.detach().contiguous(memory_format=memory_format) for image in images(2, 3, 20, 17))
        before = pred.clone(), target.clone()
        make()(pred.requires_grad_(), target).backward()
        assert torch.equal(pred, before[0])
        assert torch.equal(target, before[1])

    @pytest.mark.parametrize("kind", [SRLoss, DenoiseLoss, JPEGLoss])
    def test_the_dial_turns_the_scales_that_compare_texture(self, kind: type[TaskLoss]) -> None:
        """All but the finest: networks gain strength there by dots."""
        pred, target = images(1, 3, 128, 128)  # the coarsest level is 17 x 17, its fourth layer 9 x 9
        off, on = (kind(texture=texture).double().per_scale(pred, target) for texture in (0.0, 1.0))
        textured = [scale for scale in on if not torch.equal(on[scale], off[scale])]
        assert textured == list(range(7))

    def test_per_scale_adds_up_to_the_loss(self, make: Make) -> None:
        pred, target = images(2, 3, 24, 20)
        shares = make().per_scale(pred, target)
        assert list(shares) == [0, 1, 2]
        torch.testing.assert_close(torch.stack(list(shares.values())).sum(0), make(reduction="none")(pred, target))

    def test_scales_option_chooses(self, make: Make) -> None:
        pred, target = images(2, 3, 24, 20)
        shares = make().per_scale(pred, target)
        chosen = make(scales=[2, 0], reduction="none")
        assert chosen.scales == (0, 2)
        torch.testing.assert_close(chosen(pred, target), shares[0] + shares[2])

    @pytest.mark.parametrize("resolution", ["pyramid", "full"])
    def test_map_has_the_loss_as_its_mean(self, make: Make, resolution: str) -> None:
        pred, target = images(2, 3, 24, 20, dtype=torch.float64)
        loss = make(resolution=resolution, reduction="none").double()
        distances = loss.distance_map(pred, target)
        assert distances.shape == (2, 1, 24, 20)
        assert (distances >= 0).all()
        torch.testing.assert_close(distances.mean(dim=(1, 2, 3)), loss(pred, target), rtol=1e-12, atol=0)
        (expected,) = torch.autograd.grad(distances.mean(dim=(1, 2, 3)).sum(), pred)
        torch.testing.assert_close(gradient(loss, pred, target), expected)

    def test_map_shows_where_the_images_differ(self, make: Make) -> None:
        _, target = images(1, 3, 40, 36)
        pred = target.clone()
        pred[:, :, 30, 7] += 0.5
        distances = make(scales=[2]).distance_map(pred, target)[0, 0]
        assert divmod(int(distances.argmax()), 36) == (30, 7)
        touched = distances.nonzero()
        assert touched.min(dim=0).values.tolist() == [20, 0]  # two receptive fields of 11 pixels around
        assert touched.max(dim=0).values.tolist() == [39, 17]


FORMS = [
    ((1, 4, 5), "squared", 2.0),
    ((1, 4), "absolute", 2.0),
    ((0, 4), "squared", 1.5),
    ((0, 4), "squared", 2.0),
    ((0, 2, 5), "absolute", 1.0),
]


@pytest.mark.parametrize(("taps", "distance", "exponent"), FORMS)
class TestForm:
    """Which outputs are compared and how is part of a weight file."""

    @pytest.fixture
    def loss(self, small_file: Path, tmp_path: Path, taps: tuple[int, ...], distance: str, exponent: float) -> TaskLoss:
        weights = parse_weights(small_file.read_bytes(), "the small file")
        architecture = replace(weights.architecture, taps=taps, distance=distance, image_exponent=exponent)
        path = tmp_path / "form.safetensors"
        path.write_bytes(serialize_weights(weights.tensors, architecture, {"task": "jpeg"}))
        return TaskLoss(path, reduction="none").double()

    def test_the_file_remembers(self, loss: TaskLoss, taps: tuple[int, ...], distance: str, exponent: float) -> None:
        form = loss.architecture
        assert (form.taps, form.distance, form.image_exponent) == (taps, distance, exponent)

    def test_the_value_is_the_formula(
        self, loss: TaskLoss, taps: tuple[int, ...], distance: str, exponent: float
    ) -> None:
        pred, target = images(2, 3, 17, 15, dtype=torch.float64)
        expected = torch.zeros(2, dtype=torch.float64)
        for down, discriminator in enumerate(reversed(list(loss.discriminators))):
            size = level_size((17, 15), 0.75, down)
            if min(size) < 11:
                break
            outputs = []
            for image in (pred, target):
                x = resize(image, size)
                outputs.append([x])
                for layer in range(5):
                    weight, bias = (getattr(discriminator, f"{name}{layer}") for name in ("weight", "bias"))
                    x = F.conv2d(x, weight, bias)
                    x = x if layer == 4 else torch.where(x > 0, x, 0.2 * x)
                    outputs[-1].append(x)
            for tap in taps:
                difference = (outputs[0][tap] - outputs[1][tap]).abs()
                if tap == 0 and down == 0 and exponent == 1.5:
                    expected += ((difference**2 + 1e-6) ** 0.75 - 1e-3**1.5).mean(dim=(1, 2, 3))
                elif tap == 0:  # once: the image itself, by the finest scale
                    expected += (difference**exponent).mean(dim=(1, 2, 3)) if down == 0 else 0
                else:
                    expected += (difference**2 if distance == "squared" else difference).mean(dim=(1, 2, 3))
        torch.testing.assert_close(loss(pred, target), expected, rtol=1e-12, atol=0)

    def test_explicit_gradient_equals_autograd(self, loss: TaskLoss) -> None:
        pred, target = images(2, 3, 21, 17, dtype=torch.float64)
        explicit, plain = gradient(loss, pred, target), gradient(loss, pred, target.clone().requires_grad_())
        torch.testing.assert_close(explicit, plain, rtol=1e-10, atol=1e-14)

    def test_the_mean_of_the_map_is_the_loss(self, loss: TaskLoss) -> None:
        pred, target = images(2, 3, 21, 17, dtype=torch.float64)
        found = loss.distance_map(pred, target).mean(dim=(1, 2, 3))
        torch.testing.assert_close(found, loss(pred, target), rtol=1e-10, atol=0)

    def test_equal_images_have_no_distance_and_no_gradient(self, loss: TaskLoss) -> None:
        _, target = images(1, 3, 17, 15, dtype=torch.float64)
        pred = target.clone().requires_grad_()
        assert loss(pred, target).item() == 0
        assert not gradient(loss, pred, target).any()

    def test_the_gradient_can_be_differentiated_where_images_agree(self, loss: TaskLoss) -> None:
        """As they do in saturated regions: a power below two has no finite second derivative at zero by itself."""
        _, target = images(1, 3, 17, 15, dtype=torch.float64)
        pred = target.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(pred, target).sum(), pred, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), pred)
        assert second.isfinite().all()

    def test_the_image_is_compared_by_the_finest_scale_alone(self, loss: TaskLoss, taps: tuple[int, ...]) -> None:
        compared = [part.taps for part in loss.discriminators if isinstance(part, FrozenDiscriminator)]
        assert [0 in of_scale for of_scale in compared] == [False, False, 0 in taps]
        assert all({tap for tap in taps if tap > 0} <= set(of_scale) for of_scale in compared)


@pytest.mark.parametrize(
    "wrong",
    [{"distance": "cosine"}, {"taps": (6,)}, {"taps": (-1,)}, {"taps": ()}, {"taps": (0,)}, {"image_exponent": 0.5}],
)
def test_an_impossible_form_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Architecture(**wrong)


class TestGradient:
    @pytest.mark.parametrize("resolution", ["pyramid", "full"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_explicit_gradient_equals_autograd(self, make: Make, resolution: str, channels: int) -> None:
        pred, target = images(2, channels, 21, 17, dtype=torch.float64)
        loss = make(resolution=resolution, reduction="none", data_range=(-1, 2)).double()
        upstream = torch.tensor([0.3, -2.0], dtype=torch.float64)
        explicit = loss(pred, target)
        plain = loss(pred, target.clone().requires_grad_())
        assert type(explicit.grad_fn.next_functions[0][0]) is not type(plain.grad_fn.next_functions[0][0])
        torch.testing.assert_close(explicit, plain, rtol=1e-12, atol=0)
        (found,) = torch.autograd.grad(explicit, pred, upstream)
        (expected,) = torch.autograd.grad(plain, pred, upstream)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)

    def test_gradcheck(self, make: Make) -> None:
        pred, target = images(2, 3, 14, 13, dtype=torch.float64)
        loss = make(reduction="none").double()
        assert gradcheck(lambda x: loss(x, target), pred)

    def test_gradcheck_in_both_images(self, make: Make) -> None:
        pred, target = images(1, 3, 12, 11, dtype=torch.float64)
        loss = make().double()
        assert gradcheck(loss, (pred, target.requires_grad_()))

    def test_gradgradcheck(self, make: Make) -> None:
        pred, target = images(2, 1, 12, 11, dtype=torch.float64)
        loss = make(reduction="none").double()
        assert gradgradcheck(lambda x: loss(x, target), pred)

    def test_create_graph_gives_the_same_first_gradient(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17, dtype=torch.float64)
        loss = make().double()
        (with_graph,) = torch.autograd.grad(loss(pred, target), pred, create_graph=True)
        assert with_graph.requires_grad
        torch.testing.assert_close(with_graph, gradient(loss, pred, target), rtol=1e-10, atol=1e-14)

    def test_target_gets_a_gradient_if_it_requires_one(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17, dtype=torch.float64)
        loss = make().double()
        (by_target,) = torch.autograd.grad(loss(pred, target.requires_grad_()), target)
        expected = gradient(loss, target, pred.detach())  # the distance is symmetric
        torch.testing.assert_close(by_target, expected, rtol=1e-10, atol=1e-14)

    def test_only_three_images_wait_for_the_backward_pass(self, make: Make) -> None:
        """Neither feature maps nor anything of the target's branch."""
        pred, target = images(2, 3, 40, 33)
        assert _kept(lambda: make()(pred, target)) == 3 * pred.numel()
        assert _kept(lambda: make()(pred, target.requires_grad_())) > 20 * pred.numel()

    def test_target_branch_of_the_plain_path_keeps_nothing(self, make: Make) -> None:
        discriminator = make().discriminators[2]
        assert isinstance(discriminator, FrozenDiscriminator)
        pred, target = images(2, 3, 24, 24)
        alone = _kept(lambda: [feature.sum() for feature in discriminator(pred)])
        differences = sum(feature.numel() for feature in discriminator(pred.detach()))
        assert _kept(lambda: discriminator.distance(pred, target)) <= alone + differences
        assert _kept(lambda: discriminator.distance(pred, target.requires_grad_())) > 1.5 * alone

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_without_recording(self, make: Make, context: Callable[[], Any]) -> None:
        pred, target = images(2, 3, 20, 17)
        with context():
            result = make()(pred, target)
        assert not result.requires_grad
        torch.testing.assert_close(result, make()(pred, target).detach())

    def test_training_works_after_inference_mode(self, make: Make) -> None:
        """What inference mode computes first (resampling weights) must not be unusable for training."""
        pred, target = images(1, 3, 29, 23)
        loss = make()
        with torch.inference_mode():
            loss(pred, target)
        (first,) = torch.autograd.grad(loss(pred, target), pred, create_graph=True)
        first.sum().backward()
        assert pred.grad is not None

    @pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
    def test_finite_on_constant_and_equal_images(self, make: Make, level: float) -> None:
        constant = torch.full((1, 3, 20, 17), level)
        other = images(1, 3, 20, 17)[1]
        for pred, target in [(constant, constant), (constant, other), (other, constant), (other, other)]:
            found = gradient(make(), pred.clone().requires_grad_(), target)
            assert found.isfinite().all()
            assert bool((found == 0).all()) == (pred is target)

    def test_functional_gradient(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17)
        loss = make()
        found = torch.func.grad(lambda x: loss(x, target))(pred.detach())
        torch.testing.assert_close(found, gradient(loss, pred, target))

    def test_backward_twice(self, make: Make) -> None:
        pred, target = images(1, 3, 20, 17)
        result = make()(pred, target)
        result.backward(retain_graph=True)
        assert pred.grad is not None
        first = pred.grad.clone()
        result.backward()
        torch.testing.assert_close(pred.grad, 2 * first)

    def test_it_trains(self, make: Make) -> None:
        pred, target = images(1, 3, 24, 20)
        optimiser = torch.optim.Adam([pred], lr=0.05)
        loss = make()
        start = loss(pred, target).item()
        for _ in range(60):
            optimiser.zero_grad()
            loss(pred, target).backward()
            optimiser.step()
        assert loss(pred, target).item() < 0.05 * start


class TestFrozen:
    def test_no_parameters_and_an_empty_state(self, make: Make) -> None:
        loss = make()
        assert list(loss.parameters()) == []
        assert loss.state_dict() == {}
        assert len(list(loss.buffers())) == 3 * 5 * 2

    def test_adds_nothing_to_a_parents_checkpoint(self, make: Make) -> None:
        network = nn.Conv2d(3, 3, 1)
        parent = nn.ModuleDict({"network": network, "loss": make()})
        assert set(parent.state_dict()) == {"network.weight", "network.bias"}
        parent.load_state_dict(nn.ModuleDict({"network": network}).state_dict(), strict=True)

    def test_training_mode_of_a_parent_changes_nothing(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17)
        loss = make()
        before = loss(pred, target)
        nn.ModuleList([loss]).train()
        assert not any(module.training for module in loss.modules())
        assert torch.equal(loss(pred, target), before)

    def test_requires_grad_and_optimisers_do_not_reach_the_weights(self, make: Make) -> None:
        loss = make()
        loss.requires_grad_(True)
        assert not any(buffer.requires_grad for buffer in loss.buffers())
        loss.zero_grad()

    @pytest.mark.parametrize(
        "copy_of", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))], ids=["deepcopy", "pickle"]
    )
    def test_copies_are_equal_and_independent(self, make: Make, copy_of: Callable[[TaskLoss], TaskLoss]) -> None:
        pred, target = images(2, 3, 20, 17)
        loss = make(reduction="sum", loss_weight=2, data_range=(-1, 1), scales=[1, 2])
        other = copy_of(loss)
        assert torch.equal(other(pred, target), loss(pred, target))
        assert (other.weights_sha256, other.weights_source) == (loss.weights_sha256, loss.weights_source)
        for buffer in loss.buffers():
            buffer.zero_()
        assert other(pred, target) > 0

    @pytest.mark.parametrize("convert", [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float16)])
    def test_half_precision_models_keep_a_precise_loss(
        self, make: Make, convert: Callable[[nn.Module], nn.Module]
    ) -> None:
        pred, target = images(2, 3, 20, 17)
        loss = make()
        before = loss(pred, target)
        convert(nn.ModuleList([loss]))
        assert {buffer.dtype for buffer in loss.buffers()} == {torch.float32}
        assert torch.equal(loss(pred, target), before)

    def test_double_and_back_is_exact(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17)
        loss = make()
        before = loss(pred, target)
        assert {buffer.dtype for buffer in loss.double().buffers()} == {torch.float64}
        assert torch.equal(loss.float()(pred, target), before)

    def test_repr_says_what_it_is(self, make: Make) -> None:
        text = repr(make(loss_weight=0.5, scales=[1]))
        for word in ("TaskLoss", "small.safetensors", "loss_weight=0.5", "scales=[1]", "reduction='mean'"):
            assert word in text


class TestMetaDevice:
    def test_built_under_the_meta_device_it_still_has_its_weights(self, make: Make) -> None:
        """Big models are built under it; a loss has no later chance to load."""
        pred, target = images(1, 3, 20, 17)
        with torch.device("meta"):
            loss = make()
        assert {buffer.device.type for buffer in loss.buffers()} == {"cpu"}
        assert torch.equal(loss(pred, target), make()(pred, target))

    def test_random_weights_are_real_under_the_meta_device(self) -> None:
        with torch.device("meta"):
            loss = JPEGLoss(pretrained=False)
        assert {buffer.device.type for buffer in loss.buffers()} == {"cpu"}

    def test_shapes_go_through_on_the_meta_device(self, make: Make) -> None:
        pred, target = images(2, 3, 20, 17)
        result = make(reduction="none").to("meta")(pred.to("meta"), target.to("meta"))
        assert (result.shape, result.device.type) == ((2,), "meta")


class TestPyramid:
    @pytest.mark.parametrize(
        ("height", "width", "scales"),
        [
            (11, 11, [2]),  # level 1 would be 8.25 pixels
            (13, 40, [2]),  # 9.75, rounds to 10; the shorter side decides
            (40, 14, [1, 2]),  # 10.5 rounds up to 11; level 2 would be 7.9
            (18, 18, [1, 2]),  # level 2: 10.1
            (19, 19, [0, 1, 2]),  # level 2: 10.7, rounds to 11
        ],
    )
    def test_levels_under_11_pixels_drop_out(self, make: Make, height: int, width: int, scales: list[int]) -> None:
        pred, target = images(1, 3, height, width)
        shares = make().per_scale(pred, target)
        assert list(shares) == scales
        torch.testing.assert_close(make()(pred, target), torch.cat(list(shares.values())).sum())
        assert gradient(make(), pred, target).abs().sum() > 0

    def test_full_resolution_keeps_every_scale(self, make: Make) -> None:
        assert list(make(resolution="full").per_scale(*images(1, 3, 11, 11))) == [0, 1, 2]

    def test_each_scale_sees_its_own_level(self, make: Make) -> None:
        pred, target = images(1, 3, 40, 31, dtype=torch.float64)
        for scale, size in [(2, (40, 31)), (1, (30, 23)), (0, (23, 17))]:
            assert level_size((40, 31), 0.75, 2 - scale) == size
            in_pyramid = make(scales=[scale]).double()(pred, target)
            alone = make(scales=[scale], resolution="full").double()
            torch.testing.assert_close(in_pyramid, alone(resize(pred, size), resize(target, size)))

    @pytest.mark.parametrize(("scales", "smallest"), [(None, 11), ([1], 14), ([0], 19), ([0, 1], 14)])
    def test_error_names_the_smallest_side_that_works(
        self, make: Make, scales: list[int] | None, smallest: int
    ) -> None:
        loss = make(scales=scales)
        assert loss(*images(1, 3, smallest, smallest)) > 0
        with pytest.raises(ValueError, match=f"at least {smallest} pixels; use larger patches or finer scales"):
            loss(*images(1, 3, smallest, smallest - 1))

    @pytest.mark.parametrize("size", [(11, 12), (23, 17), (24, 30), (40, 31), (61, 47), (80, 62), (1, 1)])
    def test_resize_equals_torchs_antialiased_bicubic(self, size: tuple[int, int]) -> None:
        image = images(2, 3, 40, 31, dtype=torch.float64)[1]
        expected = F.interpolate(image, size, mode="bicubic", antialias=True)
        torch.testing.assert_close(resize(image, size), expected, rtol=1e-9, atol=1e-9)
        found = resize(image.float(), size)
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("size", [(11, 12), (40, 31), (61, 47)])
    def test_adjoint_is_the_transpose(self, size: tuple[int, int]) -> None:
        image = images(2, 3, 40, 31, dtype=torch.float64)[1]
        other = images(2, 3, *size, dtype=torch.float64, seed=1)[1]
        left, right = (resize(image, size) * other).sum(), (image * resize_adjoint(other, (40, 31))).sum()
        torch.testing.assert_close(left, right, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("size", [(11, 12), (23, 17), (40, 31), (61, 47), (80, 62), (1, 1)])
    def test_area_resampling_keeps_mean_and_sign(self, size: tuple[int, int]) -> None:
        image = images(2, 3, 40, 31, dtype=torch.float64)[1]
        found = resize_area(image, size)
        assert found.shape == (2, 3, *size)
        assert (found >= 0).all()
        torch.testing.assert_close(found.mean(dim=(2, 3)), image.mean(dim=(2, 3)), rtol=1e-12, atol=0)

    def test_area_resampling_averages_and_repeats(self) -> None:
        image = torch.arange(16.0).view(1, 1, 4, 4)
        torch.testing.assert_close(resize_area(image, (2, 2)), F.avg_pool2d(image, 2))
        torch.testing.assert_close(resize_area(image, (8, 8)), F.interpolate(image, scale_factor=2.0))
        torch.testing.assert_close(resize_area(image, (4, 4)), image)


class TestBadInput:
    def refused(self, loss: nn.Module, error: type[Exception], message: str, pred: Any, target: Any) -> None:
        with pytest.raises(error, match=message):
            loss(pred, target)

    def test_shapes_differ(self, make: Make) -> None:
        pred, target = torch.rand(2, 3, 20, 20), torch.rand(1, 3, 20, 20)
        message = r"same shape, got \(2, 3, 20, 20\) and \(1, 3, 20, 20\)"
        self.refused(make(), ValueError, message, pred, target)

    @pytest.mark.parametrize("size", [(10, 40), (40, 10), (1, 1), (0, 20)])
    def test_too_small(self, make: Make, size: tuple[int, int]) -> None:
        image = torch.rand(1, 3, *size)
        for channels in ("rgb", "per_channel"):
            loss = make(channels=channels)
            self.refused(loss, ValueError, f"images of {size[0]} x {size[1]} are too small.*at least 11", image, image)
            with pytest.raises(ValueError, match="too small"):
                loss(image, image, torch.ones(1, 1, *size))

    def test_dtypes_differ(self, make: Make) -> None:
        image = torch.zeros(1, 3, 20, 20)
        message = r"one dtype outside autocast, got torch.float16 and torch.float32; convert"
        self.refused(make(), TypeError, message, image.half(), image)
        self.refused(make().to("meta"), TypeError, message, image.half().to("meta"), image.to("meta"))

    def test_devices_differ(self, make: Make) -> None:
        image = torch.zeros(1, 3, 20, 20)
        self.refused(make(), ValueError, "on one device, got meta and cpu; move", image.to("meta"), image)
        image = image.to("meta")
        self.refused(
            make(), ValueError, r"images are on meta, the loss is on cpu; move it with loss.to\('meta'\)", image, image
        )

    @pytest.mark.parametrize("method", ["per_scale", "distance_map"])
    def test_other_methods_check_too(self, make: Make, method: str) -> None:
        with pytest.raises(ValueError, match="same shape"):
            getattr(make(), method)(torch.rand(2, 3, 20, 20), torch.rand(1, 3, 20, 20))

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"loss_weight": "1"}, TypeError, r"loss_weight must be a number, got '1' \(str\)"),
            ({"loss_weight": True}, TypeError, "loss_weight must be a number"),
            (
                {"loss_weight": "1e-1"},
                TypeError,
                r"got '1e-1' \(str\); write 0.1 without quotes \(YAML reads 1e-1 as text",
            ),
            (
                {"loss_weight": np.array([1.0])},
                TypeError,
                r"got array\(\[1\.\]\) \(ndarray\); pass a plain number or list",
            ),
            ({"data_range": np.array([0, 255])}, TypeError, "data_range must be a number.*value.tolist"),
            ({"scales": np.array([0, 1])}, TypeError, "scales must be a list of integers or None.*value.tolist"),
            ({"loss_weight": float("nan")}, ValueError, "loss_weight must be finite, got nan"),
            ({"loss_weight": 10**400}, ValueError, "loss_weight must be finite, got 1000"),
            ({"loss_weight": 10**5000}, ValueError, "loss_weight must be finite, got <int>"),
            ({"loss_weight": -1e13}, ValueError, r"loss_weight must be from -1e\+12 to 1e\+12, got -1"),
            ({"texture": 1e7}, ValueError, r"texture must be 0 or more, at most 1e\+06, got 1"),
            ({"fidelity": 10**400}, ValueError, "fidelity must be finite"),
            ({"fidelity": 1e7}, ValueError, r"fidelity must be 0 or more, at most 1e\+06, got 1"),
            ({"reduction": np.array(["sum"])}, ValueError, "reduction must be one of 'mean'"),
            ({"reduction": "avg"}, ValueError, "reduction must be one of 'mean', 'sum', 'none'; got 'avg'"),
            ({"resolution": "half"}, ValueError, "resolution must be one of 'pyramid', 'full'; got 'half'"),
            ({"data_range": 0}, ValueError, r"must be positive, or a pair with low < high, got 0; use 1.0"),
            ({"data_range": -1.0}, ValueError, "must be positive"),
            ({"data_range": (1, -1)}, ValueError, r"low < high, got \(1, -1\)"),
            ({"data_range": (0, 1, 2)}, ValueError, r"a pair \(low, high\), got \(0, 1, 2\)"),
            ({"data_range": "255"}, TypeError, "data_range must be a number, got '255'"),
            ({"data_range": (0, float("inf"))}, ValueError, "data_range must be finite"),
            ({"data_range": (0, 10**400)}, ValueError, "data_range must be finite"),
            ({"data_range": 5e-324}, ValueError, "data_range must be 1e-12 wide or more, got 5e-324"),
            ({"data_range": (-1, 1e13)}, ValueError, r"data_range must be from -1e\+12 to 1e\+12"),
            ({"data_range": b"\0\1"}, TypeError, "data_range must be a number, got b"),
            ({"scales": []}, ValueError, r"from 0 \(coarsest\) to 2 \(finest\), at least one; got \[\]"),
            ({"scales": [3]}, ValueError, r"got \[3\]"),
            ({"scales": [-1]}, ValueError, r"got \[-1\]"),
            ({"scales": [1, 1]}, ValueError, "different numbers"),
            ({"scales": [0.5]}, TypeError, r"scales must be integers, got \[0.5\]"),
            ({"scales": [True]}, TypeError, "scales must be integers"),
            ({"scales": 2}, TypeError, r"scales must be a list of integers or None, got 2 \(int\)"),
            ({"scales": "01"}, TypeError, "scales must be a list of integers"),
            ({"scales": b"\0\1"}, TypeError, "scales must be a list of integers"),
        ],
    )
    def test_options(self, make: Make, options: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            make(**options)

    def test_numbers_of_numpy_are_numbers(self, make: Make) -> None:
        loss = make(loss_weight=np.float32(0.5), data_range=(np.int64(-1), np.uint8(1)), scales=[np.int64(1)])
        assert (loss.loss_weight, loss.low, loss.high, loss.scales) == (0.5, -1, 1, (1,))
        assert {type(number) for number in (loss.loss_weight, loss.low, loss.high)} == {float}

    def test_options_are_keyword_only(self, small_file: Path) -> None:
        with pytest.raises(TypeError, match="positional"):
            TaskLoss(small_file, 1.0)  # type: ignore[call-arg, arg-type, unused-ignore]

    def test_wrong_weights(self, tmp_path: Path, small_file: Path) -> None:
        with pytest.raises(TypeError, match="pretrained must be"):
            JPEGLoss(3)  # type: ignore[arg-type]
        with pytest.raises(WeightsError, match=r"cannot read.*none\.safetensors"):
            JPEGLoss(tmp_path / "none.safetensors")
        with pytest.raises(WeightsError, match="'jpeg', expected 'sr'"):
            SRLoss(small_file)
        with pytest.raises(ValueError, match="use SRLoss, DenoiseLoss or JPEGLoss"):
            TaskLoss()

    def test_random_weights_are_float32_under_another_default(self) -> None:
        torch.set_default_dtype(torch.float64)
        try:
            assert {buffer.dtype for buffer in JPEGLoss(pretrained=False).buffers()} == {torch.float32}
        finally:
            torch.set_default_dtype(torch.float32)

    def test_random_weights_follow_the_seed_and_differ_from_the_released(self) -> None:
        pred, target = images(1, 3, 32, 32)
        torch.manual_seed(5)
        first = JPEGLoss(pretrained=False)
        torch.manual_seed(5)
        second = JPEGLoss(pretrained=False)
        third = JPEGLoss(pretrained=False)
        assert torch.equal(first(pred, target), second(pred, target))
        assert first(pred, target) != third(pred, target)
        assert first.architecture == JPEGLoss().architecture
        assert first(pred, target) != JPEGLoss()(pred, target)
        assert (first.weights_source, first.weights_sha256) == ("random", None)


class TestImport:
    def test_nothing_but_torch_and_the_standard_library_is_imported(self) -> None:
        program = (
            "import sys, torch; before = set(sys.modules); import task_losses; "
            "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
        )
        loaded = set(_python(program).split()) - set(sys.stdlib_module_names)
        assert {name for name in loaded if not name.startswith("torch")} == {"task_losses"}

    def test_a_loss_needs_no_hub_client_for_its_own_copy(self) -> None:
        program = (
            "import sys, task_losses; task_losses.JPEGLoss(); print(*{'huggingface_hub', 'PIL'} & set(sys.modules))"
        )
        assert _python(program, TASK_LOSSES_WEIGHTS="embedded") == ""

    def test_import_is_quick(self) -> None:
        """50 ms of computing beyond torch. One quick import of three will do: a busy machine is not our fault."""
        program = (
            "import time, torch; start = time.process_time(); import task_losses; print(time.process_time() - start)"
        )
        assert any(float(_python(program)) < 0.05 for _ in range(3))

    def test_public_names(self) -> None:
        assert set(task_losses.__all__) >= {"DenoiseLoss", "JPEGLoss", "SRLoss", "TaskLoss", "WeightsError"}
        assert all(hasattr(task_losses, name) for name in task_losses.__all__)


def _kept(compute: Callable[[], Any]) -> int:
    """How many numbers autograd keeps for the backward pass, weights aside (they are there anyway)."""
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        if not (tensor.ndim in (1, 4) and tensor.shape[-1] in (3, tensor.numel())):
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(compute())
    return sum(kept.values())


def _python(program: str, **environment: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout.strip()
