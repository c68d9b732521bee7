"""Resampling: level sizes, banded products, and what of them is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from task_losses import JPEGLoss, pyramid
from task_losses.constants import BySize
from task_losses.pyramid import level_size, resize, resize_adjoint, resize_levels, resize_levels_adjoint, rows_outermost

LARGE = (((300, 517), (225, 388)), ((300, 517), (13, 40)), ((1000, 257), (133, 34)), ((128, 100), (300, 600)))
SIZES = [(40, 30), (54, 41), (96, 72)]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> BySize:
    """An empty store of resampling weights."""
    store = BySize()
    monkeypatch.setattr(pyramid, "_CONSTANTS", store)
    return store


def random(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


class TestLevelSize:
    def test_is_what_the_float_formula_says_for_every_side_and_level(self) -> None:
        for level in range(9):
            scale = 0.75**level
            for side in range(11, 10_001):
                assert level_size((side, 1), 0.75, level)[0] == int(side * scale + 0.5)

    def test_other_ratios_are_the_fraction_that_the_float_is(self) -> None:
        assert level_size((4096, 100), 0.7071, 3) == (1448, 35)
        assert level_size((5, 25), 0.7, 1) == (
            3,
            17,
        )  # the float is a little less than 0.7: 3.5 and 17.5 are not reached
        assert level_size((5, 25), 0.5, 1) == (3, 13)

    def test_resizing_takes_symbols(self) -> None:
        """One program for all sizes, without a choice that holds for some of them only."""

        class Levels(torch.nn.Module):
            def forward(self, image: Tensor) -> list[Tensor]:
                size = (image.shape[2], image.shape[3])
                return [resize(image, level_size(size, 0.75, level)) for level in (0, 1, 7)]

        sides = {2: torch.export.Dim("height", min=79, max=4096), 3: torch.export.Dim("width", min=79, max=4096)}
        program = torch.export.export(Levels(), (torch.rand(1, 3, 90, 100),), dynamic_shapes=({**sides},)).module()
        for size in ((79, 96), (300, 120)):
            image = torch.rand(1, 3, *size)
            for level, found in zip((0, 1, 7), program(image), strict=True):
                torch.testing.assert_close(found, resize(image, level_size(size, 0.75, level)))


class TestBanded:
    @pytest.mark.parametrize(("size", "new"), LARGE)
    def test_equals_torchs_antialiased_bicubic(self, size: tuple[int, int], new: tuple[int, int]) -> None:
        image = random(2, 3, *size)
        expected = F.interpolate(image, new, mode="bicubic", antialias=True)
        # That kernel's a is -0.5 with antialiasing, as ours.
        torch.testing.assert_close(resize(image, new), expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("size", "new"), LARGE)
    def test_equals_the_dense_product(
        self, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], new: tuple[int, int]
    ) -> None:
        image, gradient = random(2, 3, *size), random(2, 3, *new)
        banded = resize(image, new), resize_adjoint(gradient, size)
        monkeypatch.setattr(pyramid, "DENSE", 10_000)
        for found, expected in zip(banded, (resize(image, new), resize_adjoint(gradient, size)), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)

    def test_can_be_differentiated_any_number_of_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pyramid, "DENSE", 8)
        image = random(1, 1, 40, 9).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: resize(x, (30, 7)), image)
        assert torch.autograd.gradgradcheck(lambda x: resize(x, (30, 7)).square(), image)

    def test_the_gradient_by_autograd_is_the_adjoint(self) -> None:
        image, gradient = random(1, 3, 300, 20).requires_grad_(), random(1, 3, 100, 15)
        (found,) = torch.autograd.grad(resize(image, (100, 15)), image, gradient)
        torch.testing.assert_close(found, resize_adjoint(gradient, (300, 20)), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_any_layout_and_batch(self, layout: torch.memory_format) -> None:
        image = random(3, 3, 300, 280)
        found = resize(image.contiguous(memory_format=layout), (100, 90))
        for one, alone in zip(image, found, strict=True):
            torch.testing.assert_close(resize(one[None], (100, 90))[0], alone, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("transform", [torch.func.vmap, lambda f: lambda x: torch.stack([f(a) for a in x])])
    def test_vmap(self, transform: Callable[..., Any]) -> None:
        stack = random(2, 1, 3, 300, 20)
        expected = resize(stack.flatten(0, 1), (225, 15)).unflatten(0, (2, 1))
        torch.testing.assert_close(transform(lambda x: resize(x, (225, 15)))(stack), expected, rtol=0, atol=1e-13)


class TestLevels:
    def test_each_level_is_resized_and_filled_up_with_zeros(self) -> None:
        image = random(2, 3, 96, 72)
        levels = resize_levels(image, SIZES).unflatten(1, (3, 3))
        assert levels.shape == (2, 3, 3, 96, 72)
        for index, (height, width) in enumerate(SIZES):
            level = levels[:, index]
            torch.testing.assert_close(level[..., :height, :width], resize(image, (height, width)), rtol=0, atol=1e-13)
            assert not level[..., height:, :].any()
            assert not level[..., width:].any()

    def test_the_adjoint_is_the_transpose(self) -> None:
        image = random(2, 3, 96, 72)
        levels = resize_levels(image, SIZES)
        gradient = torch.where(levels != 0, random(*levels.shape), 0)
        expected = (levels * gradient).sum()
        found = (image * resize_levels_adjoint(gradient, SIZES, (96, 72))).sum()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)

    def test_the_adjoint_is_added_to_another_result(self) -> None:
        gradient, other = random(2, 9, 96, 72), random(2, 3, 96, 72)
        alone = resize_levels_adjoint(gradient, SIZES, (96, 72))
        for before in (other, resize_levels_adjoint(-gradient, SIZES, (96, 72))):
            found = resize_levels_adjoint(gradient, SIZES, (96, 72), onto=before)
            torch.testing.assert_close(found, alone + before, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_rows_outermost_are_the_same_images_and_are_read_without_a_copy(self, layout: torch.memory_format) -> None:
        images = [random(2, 3, 96, 72).contiguous(memory_format=layout) for _ in range(2)]
        pair = rows_outermost(images)
        assert torch.equal(pair, torch.cat(images))
        assert pair.permute(2, 0, 1, 3).is_contiguous()
        assert torch.equal(resize_levels(pair, SIZES), resize_levels(torch.cat(images), SIZES))


class TestKept:
    def test_four_photo_sizes_take_little(self, kept: BySize) -> None:
        for size in ((1080, 1920), (1200, 1600), (2048, 1536), (1333, 2000)):
            image = torch.zeros(1, 1, *size)
            for level in range(1, 8):
                resize_adjoint(resize(image, level_size(size, 0.75, level)), size)
        assert 2**20 < kept.nbytes < 24 * 2**20  # 601 MB as dense matrices, without the adjoints

    def test_is_bounded_and_the_latest_stays(self) -> None:
        store = BySize(limit=1000)
        made = [store.get(key, lambda: torch.zeros(100, dtype=torch.uint8)) for key in range(20)]
        assert store.nbytes == 1000
        assert store.get(19, lambda: torch.ones(1)) is made[19]
        assert store.get(0, lambda: torch.ones(1)) is not made[0]
        large = store.get("large", lambda: torch.zeros(5000))
        assert store.get("large", lambda: torch.ones(1)) is large

    def test_a_second_step_makes_nothing(self, kept: BySize) -> None:
        image = torch.rand(1, 3, 300, 40, requires_grad=True)
        loss = JPEGLoss(pretrained=False)
        loss(image, image.detach() / 2).backward()
        count = len(kept)
        loss(image, image.detach() / 2).backward()
        assert len(kept) == count > 0

    def test_what_is_made_in_inference_mode_serves_training(self, kept: BySize) -> None:
        with torch.inference_mode():
            resize(torch.rand(1, 3, 300, 40), (20, 30))
        resize(torch.rand(1, 3, 300, 40, requires_grad=True), (20, 30)).sum().backward()


def _fake_mode(loss: JPEGLoss, pred: Tensor, target: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        loss(mode.from_tensor(pred).requires_grad_(), mode.from_tensor(target)).backward()


def _traced(mode: Literal["real", "fake", "symbolic"]) -> Callable[[JPEGLoss, Tensor, Tensor], None]:
    def trace(loss: JPEGLoss, pred: Tensor, target: Tensor) -> None:
        make_fx(loss, tracing_mode=mode, _allow_non_fake_inputs=True)(pred, target)

    return trace


@pytest.mark.parametrize(
    "pass_without_data",
    [_fake_mode, _traced("fake"), _traced("symbolic"), _traced("real")],
    ids=["FakeTensorMode", "make_fx fake", "make_fx symbolic", "make_fx real"],
)
def test_a_pass_without_data_leaves_nothing_behind(
    kept: BySize, pass_without_data: Callable[[JPEGLoss, Tensor, Tensor], None]
) -> None:
    loss = JPEGLoss(pretrained=False, scales=[4, 6])
    pred, target = torch.rand(1, 3, 48, 300), torch.rand(1, 3, 48, 300)
    pass_without_data(loss, pred, target)
    after = pred.clone().requires_grad_()
    value = loss(after, target)
    value.backward()
    kept._kept.clear()
    fresh = pred.clone().requires_grad_()
    expected = loss(fresh, target)
    expected.backward()
    assert type(value) is type(after.grad) is Tensor
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(after.grad, fresh.grad, rtol=0, atol=0)
