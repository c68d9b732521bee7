"""Images as people have them: shapes, channels, masks, and errors that show what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from weight_files import ABSOLUTE, EVERY_TERM, random_file

from task_losses import TaskLoss, range_warning
from task_losses.architecture import Architecture
from task_losses.distance import distance_and_gradient
from task_losses.losses import FILL
from task_losses.pyramid import resize_area

FORMS = {
    "all terms": EVERY_TERM,
    "squared": Architecture(channels=(3, 4, 5), taps=(0, 1, 5)),
    "absolute": ABSOLUTE,
}
Make = Callable[..., TaskLoss]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: folder / f"{name}.safetensors" for name in FORMS}
    for name, form in FORMS.items():
        paths[name].write_bytes(random_file(form))
    return paths


@pytest.fixture
def make(files: dict[str, Path]) -> Make:
    def construct(form: str = "all terms", **options: Any) -> TaskLoss:
        return TaskLoss(files[form], **{"reduction": "none", **options}).double()

    return construct


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    pred, target = (torch.rand(shape, generator=draws, dtype=torch.float64) for _ in range(2))
    return pred.requires_grad_(), target


def some_mask(*shape: int, seed: int = 1) -> Tensor:
    """Of fractions, with a region of zeros."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    mask[..., 5:12, 8:] = 0
    return mask


def gradient(loss: TaskLoss, pred: Tensor, *others: Tensor | None) -> Tensor:
    return torch.autograd.grad(loss(pred, *others).sum(), pred)[0]


class TestShapes:
    def test_video_is_compared_frame_by_frame(self, make: Make) -> None:
        pred, target = pair(2, 3, 3, 24, 20)
        loss, flat = make(), pred.detach().flatten(0, 1).requires_grad_()
        values = loss(pred, target)
        assert values.shape == (2, 3)
        torch.testing.assert_close(values.flatten(), loss(flat, target.flatten(0, 1)))
        torch.testing.assert_close(
            gradient(loss, pred, target).flatten(0, 1), gradient(loss, flat, target.flatten(0, 1))
        )

    def test_one_image_is_a_batch_of_one(self, make: Make) -> None:
        for channels in (1, 3):
            pred, target = pair(channels, 24, 20)
            loss = make()
            assert loss(pred, target).shape == ()
            assert torch.equal(loss(pred, target), loss(pred[None], target[None])[0])
            assert torch.equal(
                gradient(loss, pred, target), gradient(loss, pred[None].detach().requires_grad_(), target[None])[0]
            )

    @pytest.mark.parametrize("shape", [(2, 2, 24, 20), (1, 4, 24, 20), (12, 20, 24), (2, 2, 5, 24, 20), (1, 1, 24, 20)])
    def test_per_channel_is_the_mean_of_grey_images(self, make: Make, shape: tuple[int, ...]) -> None:
        pred, target = pair(*shape)
        loss = make(channels="per_channel")
        expected = torch.stack(
            [make()(x.unsqueeze(-3), y.unsqueeze(-3)) for x, y in zip(pred.unbind(-3), target.unbind(-3), strict=True)]
        ).mean(dim=0)
        torch.testing.assert_close(loss(pred, target), expected)
        (by_pred,) = torch.autograd.grad(expected.sum(), pred)
        torch.testing.assert_close(gradient(loss, pred, target), by_pred)

    def test_reductions_are_over_images_and_frames(self, make: Make) -> None:
        pred, target = pair(2, 2, 3, 24, 20)
        each = make()(pred, target)
        torch.testing.assert_close(make(reduction="mean")(pred, target), each.mean())
        torch.testing.assert_close(make(reduction="sum")(pred, target), each.sum())

    def test_without_need_nothing_is_reshaped(self, make: Make) -> None:
        """So that batches of RGB images keep their bits and their operations."""
        pred, target = pair(2, 3, 24, 20)
        loss = make()
        x, _, weights = loss._prepare(pred, target, None)
        assert x is pred or x._base is pred
        assert weights is None


SHAPES = [
    ((2, 3, 24, 20), "rgb"),
    ((3, 24, 20), "rgb"),
    ((2, 2, 1, 24, 20), "rgb"),
    ((2, 4, 24, 20), "per_channel"),
    ((1, 2, 2, 24, 20), "per_channel"),
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "channels"), SHAPES)
class TestConsistency:
    @pytest.fixture
    def loss(self, make: Make, channels: str) -> TaskLoss:
        return make(channels=channels, loss_weight=3.0)

    @pytest.fixture
    def arguments(self, shape: tuple[int, ...], masked: bool) -> tuple[Tensor | None, ...]:
        return (*pair(*shape), some_mask(*shape[:-3], 1, *shape[-2:]) if masked else None)

    def test_scales_add_up_to_the_loss(self, loss: TaskLoss, arguments: tuple[Tensor, ...]) -> None:
        shares = loss.per_scale(*arguments)
        assert list(shares) == [0, 1, 2]
        torch.testing.assert_close(torch.stack(list(shares.values())).sum(0) * 3, loss(*arguments))

    def test_the_mean_of_the_map_is_the_loss(self, loss: TaskLoss, arguments: tuple[Tensor, ...]) -> None:
        pred, _, mask = arguments
        found = loss.distance_map(*arguments)
        assert found.shape == (*pred.shape[:-3], 1, *pred.shape[-2:])
        assert found.min() >= 0
        torch.testing.assert_close(found.mean(dim=(-3, -2, -1)) * 3, loss(*arguments))
        assert mask is None or not found[mask == 0].any()
        (by_map,) = torch.autograd.grad(found.mean(dim=(-3, -2, -1)).sum() * 3, pred)
        torch.testing.assert_close(gradient(loss, *arguments), by_map)

    def test_the_map_comes_with_the_loss(self, loss: TaskLoss, arguments: tuple[Tensor, ...]) -> None:
        value, found = loss(*arguments, return_map=True)
        assert torch.equal(value, loss(*arguments))
        assert torch.equal(found, loss.distance_map(*arguments))
        assert value.requires_grad
        assert not found.requires_grad

    def test_features_have_the_leading_dimensions(
        self, loss: TaskLoss, arguments: tuple[Tensor, ...], channels: str
    ) -> None:
        pred, _, mask = arguments
        leading = pred.shape[:-2] if channels == "per_channel" else pred.shape[:-3]
        found = loss.features(pred, mask)
        assert [list(of_scale) for of_scale in found.values()] == [[1, 4, 5], [1, 4, 5], [0, 1, 4, 5]]
        assert found[2][0].shape == (*leading, 3, 24, 20)
        assert found[1][4].shape == (*leading, 4, 18 - 8, 15 - 8)
        assert found[2][5].requires_grad


class TestFeatures:
    @pytest.mark.parametrize("masked", [False, True])
    def test_the_loss_is_their_differences(self, make: Make, masked: bool) -> None:
        pred, target = pair(2, 3, 24, 20)
        mask = some_mask(2, 1, 24, 20) if masked else torch.ones(2, 1, 24, 20, dtype=torch.float64)
        loss = make("squared")
        x, y = loss.features(pred, mask), loss.features(target, mask)
        total = torch.zeros(2, dtype=torch.float64)
        for scale in x:
            for layer in x[scale]:
                height, width = (side + 2 * layer for side in x[scale][layer].shape[-2:])
                weights = torch.nn.functional.avg_pool2d(resize_area(mask, (height, width)), 2 * layer + 1, 1)
                squares = (x[scale][layer] - y[scale][layer]).square()
                total += (squares * weights).mean(dim=(1, 2, 3)) / mask.mean(dim=(1, 2, 3))
        torch.testing.assert_close(total, loss(pred, target, mask if masked else None))

    def test_layer_0_is_the_image_in_its_range(self, make: Make) -> None:
        image = pair(1, 3, 24, 20)[1]
        found = make(data_range=(-1, 1)).features(image * 2 - 1)
        torch.testing.assert_close(found[2][0], image)

    def test_bad_input_is_refused(self, make: Make) -> None:
        with pytest.raises(ValueError, match="image has its channels last"):
            make().features(torch.rand(1, 24, 20, 3))
        with pytest.raises(ValueError, match="mask must have one value"):
            make().features(torch.rand(1, 3, 24, 20), torch.ones(24, 20))


@pytest.mark.parametrize("form", FORMS)
class TestMask:
    def test_nothing_outside_has_an_effect(self, make: Make, form: str) -> None:
        """Neither what should have been there nor what is no number; and no gradient leads there."""
        pred, target = pair(2, 3, 24, 20)
        mask = some_mask(2, 1, 24, 20)
        outside = (mask == 0).expand_as(pred)
        loss = make(form)
        value, by_pred = loss(pred, target, mask), gradient(loss, pred, target, mask)
        assert not by_pred[outside].any()
        assert by_pred[~outside].all()
        for nonsense in (0.0, -9999.0, torch.nan, torch.inf):
            x = pred.detach().masked_fill(outside, nonsense).requires_grad_()
            y = target.masked_fill(outside, nonsense)
            assert torch.equal(loss(x, y, mask), value)
            assert torch.equal(gradient(loss, x, y, mask), by_pred)
            plain = gradient(loss, x, y.clone().requires_grad_(), mask)  # by autograd
            torch.testing.assert_close(plain, by_pred)

    def test_it_is_the_mean_of_the_map_over_the_mask(self, make: Make, form: str) -> None:
        pred, target = pair(2, 3, 24, 20)
        mask = some_mask(2, 1, 24, 20)
        loss = make(form)
        filled = (image.masked_fill(mask == 0, FILL) for image in (pred, target))
        expected = (loss.distance_map(*filled) * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
        torch.testing.assert_close(loss(pred, target, mask), expected)

    def test_the_written_out_gradient_is_autograds(self, make: Make, form: str) -> None:
        pred, target = pair(2, 3, 24, 20)
        mask = some_mask(2, 1, 24, 20)
        for loss in (make(form), make(form, resolution="full", data_range=(-1, 2))):
            plain = gradient(loss, pred, target.clone().requires_grad_(), mask)
            torch.testing.assert_close(gradient(loss, pred, target, mask), plain)

    @pytest.mark.parametrize("level", [1.0, 0.25, 3.0, True])
    def test_one_value_everywhere_is_no_mask(self, make: Make, form: str, level: float) -> None:
        pred, target = pair(2, 3, 24, 20)
        mask, loss = torch.full((2, 1, 24, 20), level), make(form)
        torch.testing.assert_close(loss(pred, target, mask), loss(pred, target))
        torch.testing.assert_close(gradient(loss, pred, target, mask), gradient(loss, pred, target))

    def test_zeros_alone_are_a_distance_of_0(self, make: Make, form: str) -> None:
        pred, target = pair(2, 3, 24, 20)
        mask = torch.stack([torch.zeros(1, 24, 20), torch.ones(1, 24, 20)])
        loss = make(form)
        values, by_pred = loss(pred, target, mask), gradient(loss, pred, target, mask)
        assert values[0] == 0
        assert not by_pred[0].any()
        assert not loss.distance_map(pred, target, mask)[0].any()
        torch.testing.assert_close(values[1], loss(pred, target)[1])

    def test_weights_add_up(self, make: Make, form: str) -> None:
        """Where nothing is left out, the loss times the mask's sum is linear in the mask."""
        pred, target = pair(1, 3, 24, 20)
        one, other = (some_mask(1, 1, 24, 20, seed=seed) + 0.1 for seed in (1, 2))
        loss = make(form)
        total = sum(loss(pred, target, mask) * mask.sum() for mask in (one, other))
        torch.testing.assert_close(loss(pred, target, one + other) * (one + other).sum(), total)

    def test_levels_are_never_joined(self, make: Make, form: str) -> None:
        loss, (pred, target), mask = make(form), pair(2, 3, 24, 20), some_mask(2, 1, 24, 20)
        levels = loss._levels_for(pred, target)
        with torch.no_grad():
            joined, alone = (distance_and_gradient(pred, target, levels, join, mask) for join in (True, False))
        torch.testing.assert_close(joined, alone, rtol=0, atol=0)


class TestMaskForms:
    def test_gradcheck(self, make: Make) -> None:
        pred, target = pair(1, 1, 12, 11)
        mask = torch.rand(1, 1, 12, 11, generator=torch.Generator().manual_seed(1)) * (torch.arange(11) > 3)
        assert gradcheck(lambda x: make()(x, target, mask), pred, fast_mode=True)

    def test_images_of_a_batch_do_not_mix(self, make: Make) -> None:
        pred, target = pair(3, 3, 24, 20)
        mask = some_mask(3, 1, 24, 20)
        alone = torch.cat([make()(pred[i : i + 1], target[i : i + 1], mask[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(make()(pred, target, mask), alone)

    @pytest.mark.parametrize(("shape", "channels"), SHAPES)
    def test_leading_dimensions_of_1_are_for_all(self, make: Make, shape: tuple[int, ...], channels: str) -> None:
        pred, target = pair(*shape)
        one = some_mask(*[1] * (len(shape) - 2), *shape[-2:])
        each = one.expand(*shape[:-3], 1, -1, -1)
        loss = make(channels=channels)
        assert torch.equal(loss(pred, target, one), loss(pred, target, each))

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16, torch.float32])
    def test_any_floats_and_bool(self, make: Make, dtype: torch.dtype) -> None:
        pred, target = pair(2, 3, 24, 20)
        mask = some_mask(2, 1, 24, 20) > 0
        loss = make()
        assert torch.equal(loss(pred, target, mask.to(dtype)), loss(pred, target, mask.double()))

    def test_no_gradient_flows_into_it(self, make: Make) -> None:
        pred, target = pair(1, 3, 24, 20)
        mask = some_mask(1, 1, 24, 20).requires_grad_()
        for reference in (target, target.clone().requires_grad_()):  # written out, and by plain operations
            make()(pred, reference, mask).sum().backward()
        assert mask.grad is None

    def test_a_second_call_makes_nothing_anew(self, make: Make) -> None:
        """As a CUDA graph needs it: no matrix comes from the host."""
        pred, target = pair(1, 3, 33, 41)
        loss, mask = make(), some_mask(1, 1, 33, 41)
        first, second = (
            counts(lambda: gradient(loss, pred, target, mask), "aten::arange", "aten::item") for _ in range(2)
        )
        assert first["aten::arange"] > 0
        assert second == {}

    @pytest.mark.parametrize(
        ("mask", "error", "message"),
        [
            (np.ones((1, 1, 24, 20)), TypeError, r"got ndarray; convert it with torch.as_tensor\(mask\)"),
            (torch.ones(1, 1, 24, 20, dtype=torch.uint8), TypeError, r"got torch.uint8; convert it with mask.bool\(\)"),
            (torch.ones(1, 24, 20), ValueError, r"\(1, 1, 24, 20\) for these images, got shape \(1, 24, 20\)"),
            (torch.ones(1, 3, 24, 20), ValueError, r"mask.amin\(-3, keepdim=True\) joins"),
            (torch.ones(2, 1, 24, 20), ValueError, r"one value for each pixel"),
            (torch.ones(1, 1, 24, 1), ValueError, r"one value for each pixel"),
            (torch.ones(1, 1, 24, 20, device="meta"), ValueError, "mask is on meta, the images are on cpu; move"),
        ],
    )
    @pytest.mark.parametrize("method", ["forward", "per_scale", "distance_map"])
    def test_what_does_not_fit_is_refused(
        self, make: Make, method: str, mask: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            getattr(make(), method)(*pair(1, 3, 24, 20), mask)


def picture() -> Any:
    return pytest.importorskip("PIL.Image").new("L", (20, 24))


BYTES = np.zeros((24, 20, 3), np.uint8)
FLOAT = torch.zeros(1, 3, 24, 20)
REFUSED: dict[str, tuple[Any, type[Exception], str, str]] = {
    # What was given, the error, its beginning, and what it tells to write.
    "bytes (H, W, C)": (
        BYTES,
        TypeError,
        "pred must be a torch.Tensor, got ndarray",
        "torch.from_numpy(pred).permute(2, 0, 1).float() / 255",
    ),
    "bytes (N, H, W, C)": (BYTES[None], TypeError, "", "torch.from_numpy(pred).permute(0, 3, 1, 2).float() / 255"),
    "bytes (H, W)": (BYTES[..., 0], TypeError, "", "torch.from_numpy(pred)[None].float() / 255"),
    "16 bits": (
        BYTES.astype(np.uint16),
        TypeError,
        "",
        "torch.from_numpy(pred).permute(2, 0, 1).float() / 65535",
    ),
    "floats (C, H, W)": (np.zeros((3, 24, 20)), TypeError, "", "torch.from_numpy(pred).float()"),
    "a picture": (
        picture,
        TypeError,
        "pred must be a torch.Tensor, got Image",
        "torch.from_numpy(numpy.array(pred.convert('RGB'))).permute(2, 0, 1).float() / 255",
    ),
    "a list of tensors": (list(FLOAT), TypeError, "pred must be a torch.Tensor, got list", "torch.stack(pred)"),
    "lists of numbers": (FLOAT.tolist(), TypeError, "", "torch.tensor(pred)"),
    "uint8": (FLOAT.byte(), TypeError, "pred must be floating point, got torch.uint8", "pred.float() / 255"),
    "uint16": (
        FLOAT.to(torch.uint16),
        TypeError,
        "pred must be floating point, got torch.uint16; convert it with pred.float() and say its range",
        "pred.float()",
    ),
    "int64": (FLOAT.long(), TypeError, "pred must be floating point, got torch.int64", "pred.float()"),
    "bool": (FLOAT.bool(), TypeError, "pred must be floating point, got torch.bool", "pred.float()"),
    "complex": (FLOAT.to(torch.complex64), TypeError, "pred must be floating point, got torch.complex64", "pred.abs()"),
    "complex, in parts": (
        torch.zeros(2, 1, 24, 20, dtype=torch.complex64),
        TypeError,
        "",
        "torch.view_as_real(pred).movedim(-1, -3).flatten(-4, -3)",
    ),
    "sparse": (FLOAT.to_sparse(), TypeError, "pred must be dense, got layout torch.sparse_coo", "pred.to_dense()"),
    "quantized": (
        lambda: torch.quantize_per_tensor(FLOAT, 0.1, 0, torch.quint8),
        TypeError,
        "pred must be floating point, got torch.quint8",
        "pred.dequantize()",
    ),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(3, 24, 20), torch.zeros(3, 20, 24)]),
        TypeError,
        "pred must be one tensor, got a nested one",
        "pred.to_padded_tensor(0)",
    ),
    "(H, W)": (torch.zeros(24, 20), ValueError, "pred must be (N, C, H, W), an image (C, H, W) or video", "pred[None]"),
    "six dimensions": (torch.zeros(1, 2, 1, 3, 24, 20), ValueError, "pred must be (N, C, H, W)", "pred.flatten(0, 2)"),
    "(H, W, C)": (
        torch.zeros(24, 20, 3),
        ValueError,
        "pred has its channels last, (H, W, C): got shape (24, 20, 3)",
        "pred.permute(2, 0, 1)",
    ),
    "(N, H, W, C)": (
        torch.zeros(2, 24, 20, 1),
        ValueError,
        "pred has its channels last, (N, H, W, C)",
        "pred.permute(0, 3, 1, 2)",
    ),
    "(N, T, H, W, C)": (
        torch.zeros(1, 2, 24, 20, 3),
        ValueError,
        "pred has its channels last, (N, T, H, W, C)",
        "pred.permute(0, 1, 4, 2, 3)",
    ),
    "RGBA without alpha": (
        torch.zeros(1, 4, 24, 20),
        ValueError,
        "pred must have 3 channels (RGB) or 1 (grey, repeated to RGB), got 4",
        "pred[..., :3, :, :]",
    ),
    "RGBA over a background": (
        torch.zeros(1, 2, 4, 24, 20),
        ValueError,
        "pred must have 3 channels",
        "pred[..., :3, :, :] * pred[..., 3:, :, :] + background * (1 - pred[..., 3:, :, :])",
    ),
    "a volume": (
        torch.zeros(1, 1, 16, 24, 20),
        ValueError,
        "pred must have 3 channels (RGB) or 1 (grey, repeated to RGB), got 16 in shape (1, 1, 16, 24, 20); videos are",
        "pred.transpose(1, 2)",
    ),
    "(N, C, T, H, W)": (torch.zeros(1, 3, 7, 24, 20), ValueError, "", "pred.transpose(1, 2)"),
    "grey (N, H, W)": (torch.zeros(5, 24, 20), ValueError, "pred must have 3 channels", "pred[:, None]"),
    "12 channels": (torch.zeros(1, 12, 24, 20), ValueError, "pred must have 3 channels", "channels='per_channel'"),
    "no channel": (torch.zeros(1, 0, 24, 20), ValueError, "pred must have 3 channels (RGB) or 1", ""),
    "no frame": (torch.zeros(1, 0, 3, 24, 20), ValueError, "pred must hold an image, but the batch is empty", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_error_shows_the_conversion_and_that_works(make: Make, name: str) -> None:
    image, error, beginning, conversion = REFUSED[name]
    image = image() if callable(image) else image
    loss = make()
    with pytest.raises(error) as raised:
        loss(image, FLOAT)
    message = str(raised.value)
    assert message.startswith(beginning)
    assert conversion in message
    if conversion.startswith("channels="):
        make(channels="per_channel")(image, image)
    elif conversion:
        if "in parts" in name:
            loss = make(channels="per_channel")
        converted = eval(conversion, {"pred": image, "torch": torch, "numpy": np, "background": 1.0})
        assert loss(converted, converted).sum() == 0
    if isinstance(image, Tensor) and error is ValueError:
        with pytest.raises(error, match=r"^target (must|has)"):
            loss(torch.zeros(1, 3, 24, 20), image)


def test_what_an_object_is_that_nobody_knows(make: Make) -> None:
    with pytest.raises(TypeError, match=r"^pred must be a torch\.Tensor, got object"):
        make()(object(), FLOAT)


class TestRangeWarning:
    @pytest.fixture(autouse=True)
    def in_a_new_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(range_warning, "_warned", set())

    def test_bytes_in_the_unit_range_are_told_once(self, make: Make, recwarn: pytest.WarningsRecorder) -> None:
        pred, target = (image.detach() * 255 for image in pair(1, 3, 24, 20))
        with pytest.warns(UserWarning, match=r"images reach 25\d\.\d+, .* made for \[0, 1\]: pass data_range=255"):
            make()(pred, target)
        make()(pred, target)
        assert not recwarn.list

    @pytest.mark.parametrize(
        ("factor", "options"), [(255, {"data_range": 255}), (8, {}), (255, {"data_range": (-1, 30)}), (torch.nan, {})]
    )
    def test_what_may_be_meant_is_left_alone(
        self, make: Make, recwarn: pytest.WarningsRecorder, factor: float, options: dict[str, Any]
    ) -> None:
        """Images in their range, highlights, and no numbers at all."""
        pred, target = (image.detach() * factor for image in pair(1, 3, 24, 20))
        make(**options)(pred, target)
        assert not recwarn.list

    def test_a_type_without_a_largest_value_is_looked_at_too(self, make: Make) -> None:
        pred, target = ((image.detach() * 255).to(torch.float8_e5m2) for image in pair(1, 3, 24, 20))
        with pytest.warns(UserWarning, match="pass data_range=255"):
            make()(pred, target)

    def test_only_a_losss_first_call_looks_at_values(self, make: Make) -> None:
        pred, target = pair(1, 3, 24, 20)
        loss = make()
        first, second = (counts(lambda: loss(pred, target), *LOOKS) for _ in range(2))
        assert first == {"aten::amax": 1, "aten::item": 1}
        assert second == {}

    def test_no_device_is_waited_for(self, make: Make) -> None:
        """Values of another device are never asked for; meta has none to give."""
        pred, target = (image.detach().to("meta") for image in pair(1, 3, 24, 20))
        loss = make().to("meta")
        assert counts(lambda: loss(pred, target), *LOOKS) == {}
        assert not loss._range_seen

    def test_transformed_images_are_left_alone(self, make: Make) -> None:
        pred, target = (image.detach().float() for image in pair(2, 3, 24, 20))
        loss = make().float()
        torch.func.vmap(loss)(pred, target)
        torch.compile(loss, fullgraph=True, backend="eager")(pred, target)
        assert not loss._range_seen


LOOKS = ("aten::amax", "aten::max", "aten::item", "aten::min", "aten::amin")  # for the largest value, or at one


def counts(compute: Callable[[], object], *operations: str) -> dict[str, int]:
    """How often each of some operations ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        compute()
    return {event.key: event.count for event in profile.key_averages() if event.key in operations}
