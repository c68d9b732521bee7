"""``like=``: random weights of another loss's shape and share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss, WeightsError
from task_losses.architecture import Architecture
from task_losses.weights import random_weights, serialize_weights


@pytest.mark.parametrize("kind", [SRLoss, DenoiseLoss, JPEGLoss])
def test_control_has_the_shape_of_a_loss_and_numbers_of_its_own(kind: type[TaskLoss]) -> None:
    loss = kind()
    torch.manual_seed(3)
    control = TaskLoss(pretrained=False, like=loss)
    torch.manual_seed(3)
    again = kind(pretrained=False, like=True)
    assert control.architecture == loss.architecture
    assert control.weights_source == "random"
    assert f"task={loss.task!r}" in repr(control)
    pairs = zip(control.buffers(), again.buffers(), loss.buffers(), strict=True)
    for mine, same, trained in pairs:
        assert torch.equal(mine, same)
        assert mine.ndim == 1 or not torch.equal(mine, trained)


def test_control_follows_the_scale_that_a_file_says(tmp_path: Path) -> None:
    weights = random_weights("own", Architecture(channels=(4,) * 3, taps=(1, 4)))  # without the image
    found = []
    for scale in (0.5, 1.0):
        path = tmp_path / f"scale{scale}.safetensors"
        info = {"task": "own", "random_scale": scale}
        path.write_bytes(serialize_weights(weights.tensors, weights.architecture, info))
        torch.manual_seed(0)
        found.append(TaskLoss(pretrained=False, like=path))
    pred, target = torch.rand(1, 3, 48, 48), torch.rand(1, 3, 48, 48)
    half, whole = (loss(pred, target).item() for loss in found)
    assert half == pytest.approx(whole / 4, rel=1e-4)  # distances of this architecture are squared


@pytest.mark.parametrize("scale", [None, 0, -1.0, "1", True, 1e9])
def test_file_without_a_usable_scale_is_refused(scale: object, tmp_path: Path) -> None:
    weights = JPEGLoss()._weights
    path = tmp_path / "own.safetensors"
    path.write_bytes(serialize_weights(weights.tensors, weights.architecture, {"task": "own", "random_scale": scale}))
    with pytest.raises(ValueError, match=r"own\.safetensors does not say .* export the run again"):
        TaskLoss(pretrained=False, like=path)


def test_like_goes_with_random_weights_of_its_task() -> None:
    with pytest.raises(ValueError, match="goes with pretrained=False"):
        JPEGLoss(like=JPEGLoss())
    with pytest.raises(ValueError, match="use TaskLoss"):
        JPEGLoss(pretrained=False, like=DenoiseLoss())
    with pytest.raises(WeightsError, match="cannot read"):
        TaskLoss(pretrained=False, like="./missing.safetensors")


def test_repr_names_the_task_of_the_weights(tmp_path: Path) -> None:
    JPEGLoss().save_pretrained(tmp_path)
    assert "task='jpeg'" in repr(TaskLoss(tmp_path))
