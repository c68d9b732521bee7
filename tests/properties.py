"""What hypothesis draws: losses, images of any shape, dtype, layout and range for them, and masks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weight_files import ABSOLUTE, DIFFERENCES, EVERY_TERM, random_file

from task_losses import TaskLoss

FEW = settings(max_examples=12, derandomize=True, database=None, deadline=None)
MANY = settings(max_examples=1000, database=None, deadline=None, print_blob=True)

FORMS = {
    "differences": DIFFERENCES,
    "every term": EVERY_TERM,
    "absolute": ABSOLUTE,
}
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
RANGES: list[Any] = [1.0, 255, (-1, 1), 65535, (-1000, 400), (0.0, 1e-3)]


def holds(**drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of a property: with few examples, always the same, and with ``-m slow`` with thousands of new ones."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        def test(amount: settings) -> None:
            amount(given(**drawn)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        amounts = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
        return pytest.mark.parametrize("amount", amounts)(test)

    return decorate


class Pair(NamedTuple):
    """Two images, and the options of a loss that takes them."""

    pred: Tensor
    target: Tensor
    options: dict[str, Any]

    def changed(self, change: Callable[[Tensor], Tensor], **options: Any) -> Pair:
        return Pair(change(self.pred), change(self.target), {**self.options, **options})


@cache
def _file(form: str) -> Path:
    path = Path(tempfile.mkdtemp()) / f"{form.replace(' ', '-')}.safetensors"
    path.write_bytes(random_file(FORMS[form]))
    return path


def loss_of(options: dict[str, Any]) -> TaskLoss:
    own = dict(options)
    double = own.pop("double", False)
    loss = TaskLoss(_file(own.pop("form")), **own)
    return loss.double() if double else loss


SIDES = st.integers(11, 40)  # the finest scale alone takes part up to 13, all do from 19 on


@st.composite
def values(draw: st.DrawFn, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """float64, mostly in a range: noise, one value, its ends, a slope; sometimes far outside."""
    kind = draw(st.sampled_from(["noise", "constant", "ends", "slope", "outside"]))
    noise = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    unit = {
        "noise": noise,
        "constant": torch.full_like(noise, draw(st.sampled_from([0.0, 0.25, 1.0]))),
        "ends": noise.round(),
        "slope": torch.linspace(0, 1, max(shape[-1], 1), dtype=torch.float64).expand(shape),
        "outside": 20 * noise - 10,
    }[kind]
    return low + (high - low) * unit


@st.composite
def laid_out(draw: st.DrawFn, image: Tensor) -> Tensor:
    """The same numbers in another layout in memory."""
    kinds = ["contiguous", "transposed", "strided", "offset", "reversed dimensions"]
    kinds += ["channels last"] * (image.ndim == 4) + ["channels last 3d"] * (image.ndim == 5)
    kind = draw(st.sampled_from(kinds))
    if kind.startswith("channels last"):
        return image.contiguous(memory_format=torch.channels_last if image.ndim == 4 else torch.channels_last_3d)
    if kind == "transposed":
        return image.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "reversed dimensions":
        return image.permute(*reversed(range(image.ndim))).contiguous().permute(*reversed(range(image.ndim)))
    if kind in ("strided", "offset"):
        step = 2 if kind == "strided" else 1
        wide = image.new_zeros(*image.shape[:-1], step * image.shape[-1] + 3)
        window = wide[..., 3::step][..., : image.shape[-1]]
        return window.copy_(image)
    return image.contiguous()


@st.composite
def pairs(draw: st.DrawFn, exact: bool = False) -> Pair:
    """Images that a loss takes.

    Args:
        exact: of float64, with a loss in float64.
    """
    channels = draw(st.sampled_from(["rgb", "per_channel"]))
    count = draw(st.sampled_from([1, 3]) if channels == "rgb" else st.integers(1, 4))
    leading = draw(st.lists(st.integers(1, 2), max_size=2).map(tuple))
    shape = (*leading, count, draw(SIDES), draw(SIDES))
    dtype = torch.float64 if exact else draw(st.sampled_from(FLOATS))
    data_range = draw(st.sampled_from(RANGES))
    low, high = data_range if isinstance(data_range, tuple) else (0, data_range)
    most = torch.finfo(dtype).max
    pred, target = (draw(laid_out(draw(values(shape, low, high)).clamp(-most, most).to(dtype))) for _ in range(2))
    scales = draw(st.sampled_from([None, [2], [1, 2], [0, 2]]))
    options = {
        "form": draw(st.sampled_from(list(FORMS))),
        "channels": channels,
        "data_range": data_range,
        "scales": scales,
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "resolution": draw(st.sampled_from(["pyramid", "full"])),
        "loss_weight": draw(st.sampled_from([1.0, 0.0, 0.5, 100.0])),
        "double": exact or draw(st.booleans()),
    }
    return Pair(pred, target, options)


@st.composite
def masks(draw: st.DrawFn, like: Tensor) -> Tensor:
    """bool or fractions, with a block of zeros that may be all of it or nothing; leading dimensions possibly 1."""
    leading = [draw(st.sampled_from([1, side])) for side in like.shape[:-3]]
    height, width = like.shape[-2:]
    seed = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    mask = torch.rand((*leading, 1, height, width), dtype=torch.float64, generator=seed) + 0.1
    top, left = draw(st.integers(0, height)), draw(st.integers(0, width))
    mask[..., top : draw(st.integers(top, height)), left:] = 0
    return draw(laid_out(mask.to(draw(st.sampled_from([torch.bool, *FLOATS])))))
