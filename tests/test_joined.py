"""Several levels as one network: the same numbers, fewer operations, nothing that a CUDA graph could not hold."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss, constants, joined, joined_terms, pyramid
from task_losses.constants import BySize, ByWeights
from task_losses.discriminator import FrozenDiscriminator
from task_losses.distance import distance_and_gradient, split
from task_losses.joined import groups

HOST_READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique", "masked_select")


def random_pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    pred, target = (torch.rand(shape, dtype=dtype, generator=generator) for _ in range(2))
    return pred, target


def computed(loss: TaskLoss, pred: Tensor, target: Tensor, join: bool) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return distance_and_gradient(pred, target, loss._levels_for(pred, pred), join=join)


def is_joined(loss: TaskLoss, pred: Tensor) -> list[list[int]]:
    """Scales of each group that is computed as one."""
    levels = loss._levels_for(pred, pred)
    found = split(levels, 2 * len(pred), (pred.shape[2], pred.shape[3]))[1]
    return [[level.scale for level in group] for group in found]


@pytest.mark.parametrize("kind", [SRLoss, DenoiseLoss, JPEGLoss])
@pytest.mark.parametrize("shape", [(4, 3, 96, 96), (2, 3, 70, 50), (1, 3, 128, 151), (1, 3, 11, 15)])
def test_value_and_gradient_are_those_of_one_level_after_the_other(
    kind: type[TaskLoss], shape: tuple[int, ...]
) -> None:
    loss = kind().double()
    pred, target = random_pair(*shape)
    assert is_joined(loss, pred)
    value, gradient = computed(loss, pred, target, join=True)
    expected, expected_gradient = computed(loss, pred, target, join=False)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12 * expected_gradient.abs().max().item())


@pytest.mark.parametrize("kind", [SRLoss, JPEGLoss])
def test_in_float32_to_rounding(kind: type[TaskLoss]) -> None:
    loss = kind()
    pred, target = random_pair(8, 3, 96, 96, dtype=torch.float32)
    exact, exact_gradient = computed(kind().double(), pred.double(), target.double(), join=False)
    for join in (True, False):
        value, gradient = computed(loss, pred, target, join)
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
        error = (gradient.double() - exact_gradient).norm() / exact_gradient.norm()
        assert error < 1e-3  # an absolute difference turns where rounding turns its sign


def test_full_resolution_and_some_scales() -> None:
    for options in ({"resolution": "full"}, {"scales": [0, 3, 7]}, {"scales": [2]}):
        loss = JPEGLoss(**cast(Any, options)).double()
        pred, target = random_pair(2, 3, 80, 88)
        for found, expected in zip(
            computed(loss, pred, target, True), computed(loss, pred, target, False), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)


def skipping(skips: int) -> DenoiseLoss:
    """DenoiseLoss without texture at so many of the finest scales."""
    loss = DenoiseLoss().double()
    form = replace(loss.architecture, texture_skips=skips)
    for scale, part in enumerate(loss._frozen):
        loss.discriminators[scale] = FrozenDiscriminator(part.layers(), form.terms(scale))
    return loss


@pytest.mark.parametrize("skips", [1, 3])
def test_parts_with_texture_and_without(skips: int) -> None:
    loss = skipping(skips)
    pred, target = random_pair(4, 3, 96, 96)
    assert any({7 - skips, 8 - skips} <= set(group) for group in is_joined(loss, pred))
    found, expected = (computed(loss, pred, target, join) for join in (True, False))
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-18)
    assert not torch.equal(expected[0], computed(skipping(0), pred, target, False)[0])


def test_images_that_are_no_number_stay_alone() -> None:
    """What fills up one level must not carry another image's numbers."""
    loss = JPEGLoss().double()
    pred, target = random_pair(3, 3, 96, 96)
    expected = computed(loss, pred, target, join=True)
    pred[1] = torch.nan
    for found, before in zip(computed(loss, pred, target, join=True), expected, strict=True):
        assert torch.equal(found[[0, 2]], before[[0, 2]])
        assert found[1].isnan().all()


class TestChoice:
    SIZES = tuple((side, side) for side in (13, 17, 23, 30, 41, 54, 72, 96))
    NEIGHBOURS = (True, *(False,) * 7)

    def test_launches_that_cost_nothing_join_nothing(self) -> None:
        assert groups(self.SIZES, self.NEIGHBOURS, 16, 0) == [range(i, i + 1) for i in range(8)]

    def test_launches_that_cost_everything_join_all(self) -> None:
        assert groups(self.SIZES, self.NEIGHBOURS, 16, 10**9) == [range(8)]

    def test_levels_that_are_set_apart_stay_so(self) -> None:
        apart = (True, False, False, True, False, False, False, False)
        assert groups(self.SIZES, apart, 16, 10**9) == [range(3), range(3, 8)]

    def test_a_group_is_bounded(self) -> None:
        for part in groups(self.SIZES, self.NEIGHBOURS, 16, 20_000):
            assert len(part) == 1 or 16 * self.SIZES[part[-1]][0] ** 2 * len(part) <= 40_000

    @pytest.mark.parametrize("worth", [1000, 20_000, 150_000])
    def test_no_other_choice_costs_less(self, worth: int) -> None:
        def cost(parts: list[range]) -> float:
            pixels = [16 * self.SIZES[part[-1]][0] ** 2 * len(part) for part in parts]
            too_large = any(len(part) > 1 and p > 2 * worth for part, p in zip(parts, pixels, strict=True))
            return math.inf if too_large else sum(worth + p for p in pixels)

        def choices(start: int) -> Iterator[list[range]]:
            if start == 8:
                yield []
            for stop in range(start + 1, 9):
                yield from ([range(start, stop), *rest] for rest in choices(stop))

        chosen = groups(self.SIZES, self.NEIGHBOURS, 16, worth)
        assert cost(chosen) == min(map(cost, choices(0)))

    def test_where_people_train_two_groups_and_on_the_cpu_none(self) -> None:
        loss = JPEGLoss()
        assert is_joined(loss, torch.zeros(8, 3, 96, 96)) == [[0, 1, 2, 3, 4, 5], [6, 7]]
        assert is_joined(loss, torch.zeros(1, 3, 1024, 1024)) == []
        levels = loss._levels_for(*random_pair(8, 3, 96, 96))
        pred, target = random_pair(8, 3, 96, 96, dtype=torch.float32)
        with torch.no_grad(), _operations() as seen:
            distance_and_gradient(pred, target, levels)
        assert "aten.cat.default" not in seen  # predictions and references in one batch

    def test_a_kind_that_compares_otherwise_is_not_joined(self) -> None:
        class Other(FrozenDiscriminator):
            pass

        loss = JPEGLoss()
        for part in loss._frozen[:4]:
            part.__class__ = Other
        assert is_joined(loss, torch.zeros(8, 3, 96, 96)) == [[4, 5], [6, 7]]


class TestWeights:
    def test_follow_when_the_loss_moves(self) -> None:
        loss = JPEGLoss()
        pred, target = random_pair(2, 3, 40, 40)
        computed(loss, pred.float(), target.float(), join=True)
        value, _ = computed(loss.double(), pred, target, join=True)
        torch.testing.assert_close(
            value, computed(JPEGLoss().double(), pred, target, join=False)[0], rtol=1e-12, atol=0
        )

    @pytest.mark.parametrize("join", [True, False])
    def test_follow_when_they_are_written_to(self, join: bool) -> None:
        loss, other = JPEGLoss().double(), JPEGLoss(pretrained=False).double()
        pred, target = random_pair(2, 3, 40, 40)
        computed(loss, pred, target, join)
        for part, another in zip(loss._frozen, other._frozen, strict=True):
            for name, buffer in part.named_buffers():
                buffer.copy_(another.get_buffer(name) * 2)
        fresh = copy.deepcopy(loss)
        for found, expected in zip(
            computed(loss, pred, target, join), computed(fresh, pred, target, join), strict=True
        ):
            assert torch.equal(found, expected)

    def test_are_made_once_and_go_with_the_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = ByWeights()
        monkeypatch.setattr(joined, "FROM_WEIGHTS", made)
        loss = JPEGLoss()
        pred, target = random_pair(2, 3, 40, 40, dtype=torch.float32)
        for _ in range(2):
            computed(loss, pred, target, join=True)
        assert [len(kept) for kept in made._kept.values()] == [1]
        assert not loss.state_dict()
        del loss
        assert not len(made._kept)


@contextmanager
def _operations() -> Iterator[list[str]]:
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    with Seen():
        yield names


class TestCapture:
    """What torch.cuda.graph asks of a step after its warm-up, as far as a machine without CUDA can tell."""

    @pytest.mark.parametrize("join", [True, False])
    @pytest.mark.parametrize("kind", [SRLoss, JPEGLoss])
    def test_no_value_is_read_and_nothing_made_anew(
        self, monkeypatch: pytest.MonkeyPatch, kind: type[TaskLoss], join: bool
    ) -> None:
        stores = BySize(), BySize()
        monkeypatch.setattr(pyramid, "_CONSTANTS", stores[0])
        monkeypatch.setattr(joined_terms, "_CONSTANTS", stores[1])
        loss = kind()
        pred, target = random_pair(2, 3, 96, 300, dtype=torch.float32)
        computed(loss, pred, target, join)
        kept = [len(store) for store in stores]
        with _operations() as seen:
            computed(loss, pred, target, join)
        assert [len(store) for store in stores] == kept
        assert kept[0] > 0
        assert (kept[1] > 0) == join
        assert len(seen) > 50
        assert not [name for name in seen if any(read in name for read in HOST_READS)]
        assert not [name for name in seen if "_to_copy" in name or "arange" in name]

    def test_forward_and_backward_read_no_value(self) -> None:
        loss = JPEGLoss()
        pred, target = random_pair(2, 3, 96, 96, dtype=torch.float32)
        pred.requires_grad_()
        loss(pred, target).backward()
        with _operations() as seen:
            loss(pred, target).backward()
        assert len(seen) > 100
        assert not [name for name in seen if any(read in name for read in HOST_READS)]

    def test_what_a_graph_holds_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = BySize(limit=100)
        held = store.get("held", lambda: torch.zeros(10))
        monkeypatch.setattr(constants, "_capturing", lambda: True)
        assert store.get("held", lambda: torch.ones(1)) is held
        monkeypatch.setattr(constants, "_capturing", lambda: False)
        for key in range(5):
            store.get(key, lambda: torch.zeros(20))
        assert store.get("held", lambda: torch.ones(1)) is held
        assert store.get(0, lambda: torch.ones(1)).numel() == 1
