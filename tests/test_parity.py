"""The authors' algorithm and ours agree: on made-up weights always, on the released ones where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from legacy_writer import state_dict
from make_golden import CASES, CHANNELS, GOLDEN
from torch import Tensor, nn

from task_losses import TaskLoss
from training.bench.authors import AuthorsLoss
from training.convert_official import CLASSES, convert
from training.legacy_pickle import read_legacy

RELATIVE = 1e-5
Golden = dict[str, np.ndarray]


def measure(per_image: Callable[[Tensor, Tensor], Tensor], golden: Golden, case: str, dtype: torch.dtype) -> Golden:
    """What a per-image distance makes of a golden case, under the golden file's names."""
    pred = torch.from_numpy(golden[f"{case}_pred"]).to(dtype).requires_grad_()
    distances = per_image(pred, torch.from_numpy(golden[f"{case}_target"]).to(dtype))
    (gradient,) = torch.autograd.grad(distances.mean(), pred)
    found = {"loss": distances.mean(), "per_image": distances, "grad": gradient}
    return {name: tensor.detach().double().numpy() for name, tensor in found.items()}


def assert_equal(found: Golden, expected: Golden) -> None:
    """Values each to 1e-5 of themselves, gradients to 1e-5 of the largest component of the gradient."""
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=RELATIVE, atol=0)
    np.testing.assert_allclose(found["per_image"], expected["per_image"], rtol=RELATIVE, atol=0)
    largest = np.abs(expected["grad"]).max()
    np.testing.assert_allclose(found["grad"], expected["grad"], rtol=0, atol=RELATIVE * largest)


def case_of(golden: Golden, case: str) -> Golden:
    return {name: golden[f"{case}_{name}"] for name in ("loss", "per_image", "grad")}


def reference(data: bytes, channels: tuple[int, ...]) -> AuthorsLoss:
    """The authors' algorithm with the weights of one of their files, not converted."""
    loss = AuthorsLoss(channels)
    for discriminator, node in zip(loss.discriminators, read_legacy(data, CLASSES), strict=False):
        discriminator.load_state_dict(state_dict(node))
    return loss


def converted(data: bytes, path: Path, task: str | None = None, **options: Any) -> TaskLoss:
    path.write_bytes(convert(data, task))
    return TaskLoss(path, reduction="none", **{"resolution": "full", **options})


class TestMadeUpWeights:
    @pytest.fixture
    def golden(self) -> Golden:
        return dict(np.load(GOLDEN))

    @pytest.fixture
    def data(self, golden: Golden) -> bytes:
        return golden["data"].tobytes()

    @pytest.mark.parametrize("case", CASES)
    def test_reference_reproduces_the_golden_file(self, golden: Golden, data: bytes, case: str) -> None:
        loss = reference(data, CHANNELS[:8]).double()
        assert_equal(measure(loss.per_image, golden, case, torch.float64), case_of(golden, case))

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_converted_loss_equals_the_golden_file(
        self, golden: Golden, data: bytes, case: str, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        loss = converted(data, tmp_path / "converted.safetensors", "jpeg").to(dtype)
        assert_equal(measure(loss, golden, case, dtype), case_of(golden, case))

    def test_pyramid_rule_is_another_loss(self, golden: Golden, data: bytes, tmp_path: Path) -> None:
        """Guards against a golden test that would pass whatever the resolution option does."""
        loss = converted(data, tmp_path / "converted.safetensors", "jpeg", resolution="pyramid")
        found = measure(loss, golden, "b", torch.float32)
        assert abs(found["loss"] / golden["b_loss"] - 1) > 0.05


@pytest.mark.parity
@pytest.mark.parametrize(("name", "task"), [("Ds_JPEG.pth", "jpeg"), ("Ds_SISR.pth", "sr")])
class TestReleasedWeights:
    """Golden values were made by the authors' code in float32, so they carry its rounding: up to 6e-6 in the values
    and 5e-4 in single gradient components, where a LeakyReLU sits at its kink. Hence two steps: the plain reference
    repeats the authors' float32 numbers, and the converted loss equals the reference in float64."""

    @pytest.fixture
    def folder(self) -> Path:
        folder = os.environ.get("TASK_LOSSES_MDF")
        if not folder:
            pytest.skip("TASK_LOSSES_MDF does not name the folder with the authors' files and golden_*.npz")
        return Path(folder)

    @pytest.fixture
    def golden(self, folder: Path, task: str) -> Golden:
        return dict(np.load(folder / f"golden_{'sisr' if task == 'sr' else task}.npz"))

    @pytest.mark.parametrize("case", ["a", "b", "c"])
    def test_reference_repeats_the_authors_code(
        self, folder: Path, golden: Golden, name: str, task: str, case: str
    ) -> None:
        loss = reference((folder / name).read_bytes(), (32,) * 4 + (64,) * 4)
        assert_equal(measure(loss.per_image, golden, case, torch.float32), case_of(golden, case))

    @pytest.mark.parametrize("case", ["a", "b", "c"])
    def test_converted_loss_equals_the_reference(
        self, folder: Path, golden: Golden, name: str, task: str, case: str, tmp_path: Path
    ) -> None:
        data = (folder / name).read_bytes()
        loss: nn.Module = converted(data, tmp_path / "converted.safetensors").double()
        expected = reference(data, (32,) * 4 + (64,) * 4).double()
        found = measure(loss, golden, case, torch.float64)
        assert_equal(found, measure(expected.per_image, golden, case, torch.float64))
        np.testing.assert_allclose(found["loss"], golden[f"{case}_loss"], rtol=RELATIVE, atol=0)
        np.testing.assert_allclose(found["per_image"], golden[f"{case}_per_image"], rtol=RELATIVE, atol=0)

    def test_converted_file_says_where_it_comes_from(self, folder: Path, name: str, task: str, tmp_path: Path) -> None:
        loss = converted((folder / name).read_bytes(), tmp_path / "converted.safetensors")
        origin = loss.weights_info["imported_from"]
        assert loss.weights_info["task"] == task
        assert (origin["repo"], origin["commit"], origin["path"]) == ("gfxdisp/mdf", "3901f23", f"weights/{name}")
        assert loss.weights_info["license_text"] == (folder / "LICENSE").read_text(encoding="utf-8")
