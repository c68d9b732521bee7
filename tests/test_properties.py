"""What holds for any images that a loss takes, and what any others are told. See properties.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from properties import FLOATS, Pair, holds, loss_of, masks, pairs
from torch import Tensor

from task_losses import TaskLoss
from task_losses.pyramid import resize, resize_adjoint, resize_area

pytestmark = pytest.mark.filterwarnings("ignore:images reach:UserWarning")


def gradient(loss: TaskLoss, pred: Tensor, *others: Tensor | None) -> Tensor:
    image = pred.detach().requires_grad_()
    return torch.autograd.grad(loss(image, *others).sum(), image)[0]


def close(found: Tensor, expected: Tensor, rtol: float = 1e-3) -> None:
    """Within a share of the largest number: sums of another order, and resampling that cancels."""
    assert found.shape == expected.shape
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * largest + 1e-12, check_stride=False)


@contextmanager
def accepted_or(*errors: type[Exception], names: tuple[str, ...]) -> Iterator[None]:
    """Nothing else is raised than these errors, and they begin with one of some names."""
    try:
        yield
    except errors as error:
        if not str(error).startswith(names):
            raise AssertionError(f"the message names none of {names}") from error


@holds(pair=pairs())
def test_value_and_gradient_are_finite_and_of_the_promised_shape_and_dtype(pair: Pair) -> None:
    loss = loss_of(pair.options)
    value, found = loss(pair.pred, pair.target), gradient(loss, pair.pred, pair.target)
    assert value.shape == (pair.pred.shape[:-3] if pair.options["reduction"] == "none" else ())
    assert value.dtype == (torch.float64 if pair.options["double"] else torch.float32)
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert (found.shape, found.dtype) == (pair.pred.shape, pair.pred.dtype)
    assert found.isfinite().all()


@holds(pair=pairs())
def test_equal_images_have_no_distance_and_no_gradient(pair: Pair) -> None:
    loss = loss_of(pair.options)
    target = pair.pred.clone()
    for reference in (target, target.clone().requires_grad_()):  # written out, and by autograd
        assert not loss(pair.pred, reference).any()
        assert not gradient(loss, pair.pred, reference).any()


@holds(pair=pairs())
def test_images_may_be_exchanged(pair: Pair) -> None:
    loss = loss_of(pair.options)
    close(loss(pair.target, pair.pred), loss(pair.pred, pair.target), rtol=1e-4)


@holds(pair=pairs())
def test_layout_and_dtype_say_nothing(pair: Pair) -> None:
    """Value and gradient are those of the same numbers, contiguous, in the precision of the loss."""
    loss = loss_of(pair.options)
    precise = torch.float64 if pair.options["double"] else torch.float32
    plain = pair.changed(lambda image: image.contiguous().to(precise))
    close(loss(pair.pred, pair.target), loss(plain.pred, plain.target), rtol=1e-5)
    expected = gradient(loss, plain.pred, plain.target).to(pair.pred.dtype)
    close(gradient(loss, pair.pred, pair.target), expected, rtol=4 * torch.finfo(pair.pred.dtype).eps + 1e-4)


@holds(pair=pairs(exact=True))
def test_the_written_out_gradient_is_autograds(pair: Pair) -> None:
    loss = loss_of(pair.options)
    by_autograd = gradient(loss, pair.pred, pair.target.clone().requires_grad_())
    close(gradient(loss, pair.pred, pair.target), by_autograd, rtol=1e-7)


@holds(pair=pairs(exact=True))
def test_a_batch_is_its_images(pair: Pair) -> None:
    loss = loss_of({**pair.options, "reduction": "none"})
    x, y = (image.flatten(0, -4) if image.ndim > 3 else image[None] for image in (pair.pred, pair.target))
    each = torch.stack([loss(*images) for images in zip(x, y, strict=True)])
    close(loss(pair.pred, pair.target).flatten(), each, rtol=1e-9)


@holds(pair=pairs(exact=True))
def test_scales_and_the_map_add_up_to_the_loss(pair: Pair) -> None:
    loss = loss_of({**pair.options, "reduction": "none", "loss_weight": 1.0})
    value, where = loss(pair.pred, pair.target, return_map=True)
    assert where.shape == (*pair.pred.shape[:-3], 1, *pair.pred.shape[-2:])
    assert where.min() >= 0
    close(where.mean(dim=(-3, -2, -1)), value, rtol=1e-9)
    close(torch.stack([*loss.per_scale(pair.pred, pair.target).values()]).sum(dim=0), value, rtol=1e-9)


@holds(data=st.data())
def test_what_a_mask_leaves_out_has_no_effect_and_no_gradient(data: Any) -> None:
    pair = data.draw(pairs())
    mask = data.draw(masks(pair.pred))
    loss = loss_of(pair.options)
    outside = (mask == 0).expand_as(pair.pred)
    nonsense = data.draw(st.sampled_from([0.0, -5.0, math.nan, math.inf]))
    value, found = loss(pair.pred, pair.target, mask), gradient(loss, pair.pred, pair.target, mask)
    assert value.isfinite().all()
    assert found.isfinite().all()
    assert not found[outside].any()
    other = pair.changed(lambda image: image.masked_fill(outside, nonsense))
    assert torch.equal(loss(other.pred, other.target, mask), value)
    assert torch.equal(gradient(loss, other.pred, other.target, mask), found)
    assert not loss.distance_map(other.pred, other.target, mask)[
        (mask == 0).expand(*pair.pred.shape[:-3], 1, -1, -1)
    ].any()


@holds(data=st.data())
def test_other_devices_have_the_same_shapes_and_dtypes(data: Any) -> None:
    """On meta, which has no numbers: nothing waits for them."""
    pair = data.draw(pairs())
    mask = data.draw(st.none() | masks(pair.pred))
    loss = loss_of(pair.options)
    here = loss(pair.pred, pair.target, mask), gradient(loss, pair.pred, pair.target, mask)
    away = pair.changed(lambda image: image.to("meta"))
    elsewhere = None if mask is None else mask.to("meta")
    loss.to("meta")
    there = loss(away.pred, away.target, elsewhere), gradient(loss, away.pred, away.target, elsewhere)
    for one, other in zip(here, there, strict=True):
        assert (one.shape, one.dtype, other.device.type) == (other.shape, other.dtype, "meta")


KINDS = [*FLOATS, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any shape and dtype, mostly no images."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 10, 11, 24]), max_size=6).map(tuple))
    image = torch.zeros(shape, dtype=draw(st.sampled_from(KINDS)))
    return image.to(draw(st.sampled_from(["cpu", "meta"])))


@holds(
    pred=tensors(),
    target=st.none() | tensors(),
    mask=st.none() | tensors(),
    channels=st.sampled_from(["rgb", "per_channel"]),
)
def test_any_tensors_give_a_value_or_the_documented_error(
    pred: Tensor, target: Tensor | None, mask: Tensor | None, channels: str
) -> None:
    loss = loss_of({"form": "every term", "channels": channels})
    target = pred.clone() if target is None else target
    for compute in (loss, loss.per_scale, loss.distance_map):
        with accepted_or(TypeError, ValueError, names=("pred ", "target ", "mask ", "images ")):
            compute(pred, target, mask)


NUMBERS = st.integers() | st.floats() | st.booleans() | st.integers(10**300, 10**400) | st.fractions()
ANYTHING = (
    st.none()
    | NUMBERS
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.lists(NUMBERS | st.text(max_size=2), max_size=3)
    | st.tuples(NUMBERS, NUMBERS)
    | st.sampled_from(["mean", "none", "rgb", "full", torch.ones(2), object()])
)
OPTIONS = ["loss_weight", "texture", "fidelity", "reduction", "channels", "data_range", "scales", "resolution"]


@holds(name=st.sampled_from(OPTIONS), value=ANYTHING)
def test_any_option_works_or_is_refused_by_name(name: str, value: Any) -> None:
    with accepted_or(TypeError, ValueError, names=(name,)):
        loss = loss_of({"form": "every term", name: value})
        image = torch.full((1, 3, 24, 24), loss.low, dtype=torch.float32)
        found = gradient(loss, image, image + 0.5 * (loss.high - loss.low))
        assert found.isfinite().all()


@holds(
    size=st.tuples(st.integers(1, 60) | st.integers(250, 330), st.integers(1, 60) | st.integers(250, 330)),
    new=st.tuples(st.integers(1, 60) | st.integers(250, 330), st.integers(1, 60) | st.integers(250, 330)),
)
def test_resampling_is_torchs_and_its_adjoint_the_transpose(size: tuple[int, int], new: tuple[int, int]) -> None:
    """Small sizes take one matrix, large ones a band of it."""
    draws = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, *size, dtype=torch.float64, generator=draws)
    other = torch.rand(1, 1, *new, dtype=torch.float64, generator=draws)
    found = resize(image, new)
    close(found, F.interpolate(image, new, mode="bicubic", antialias=True), rtol=1e-9)
    torch.testing.assert_close((found * other).sum(), (image * resize_adjoint(other, size)).sum(), rtol=1e-9, atol=1e-9)
    area = resize_area(image, new)
    assert (area >= 0).all()
    torch.testing.assert_close(area.mean(), image.mean(), rtol=1e-9, atol=0)
