"""``weight_for``: the weight at which a loss pulls as hard as another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses import DenoiseLoss, JPEGLoss, TaskLoss, weight_for


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 48, 40, generator=generator)
    return target + 0.05 * torch.randn(target.shape, generator=generator), target


def norm(loss: Callable[[Tensor, Tensor], Tensor], pred: Tensor, target: Tensor) -> float:
    image = pred.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image, target), image)
    return float(gradient.norm())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("pull", [1.0, 0.3])
@pytest.mark.parametrize("kind", [JPEGLoss, DenoiseLoss])
def test_weighted_loss_pulls_as_hard_as_asked(
    kind: type[TaskLoss], pull: float, device: str, pair: tuple[Tensor, Tensor]
) -> None:
    loss, pair = kind().to(device), (pair[0].to(device), pair[1].to(device))
    weight = weight_for(loss, *pair, pull=pull)
    assert norm(lambda x, y: weight * loss(x, y), *pair) == pytest.approx(pull * norm(F.l1_loss, *pair), rel=1e-4)


def test_another_loss_can_be_the_measure(pair: tuple[Tensor, Tensor]) -> None:
    assert weight_for(F.l1_loss, *pair, beside=F.mse_loss) == pytest.approx(1 / weight_for(F.mse_loss, *pair), rel=1e-5)


def test_weight_is_for_the_loss_as_it_is_reduced(pair: tuple[Tensor, Tensor]) -> None:
    weights = {way: weight_for(JPEGLoss(reduction=way), *pair) for way in ("mean", "sum", "none")}
    assert weights["none"] == pytest.approx(weights["mean"], rel=1e-5)
    assert weights["sum"] == pytest.approx(weights["mean"] / 2, rel=1e-5)  # two images


def test_weight_is_for_the_loss_weight_and_range_that_it_has(pair: tuple[Tensor, Tensor]) -> None:
    plain = weight_for(JPEGLoss(), *pair)
    assert weight_for(JPEGLoss(loss_weight=4), *pair) == pytest.approx(plain / 4, rel=1e-5)
    pred, target = (255 * x for x in pair)
    assert weight_for(JPEGLoss(data_range=255), pred, target) == pytest.approx(255 * plain, rel=1e-3)


def test_nothing_is_left_behind(pair: tuple[Tensor, Tensor]) -> None:
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    loss, pred = JPEGLoss(), network(pair[0])
    state = torch.get_rng_state()
    first = weight_for(loss, pred, pair[1])
    assert weight_for(loss, pred, pair[1]) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert pred.requires_grad
    assert network.weight.grad is None
    F.l1_loss(pred, pair[1]).backward()  # its graph is whole


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_no_gradient_is_recorded(mode: Callable[[], object], pair: tuple[Tensor, Tensor]) -> None:
    expected = weight_for(JPEGLoss(), *pair)
    with mode():  # type: ignore[attr-defined]
        pred, target = (x * 1 for x in pair)
        assert weight_for(JPEGLoss(), pred, target) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_lose_the_gradient(dtype: torch.dtype) -> None:
    target = torch.rand(1, 3, 32, 32).expand(64, -1, -1, -1)  # so many that 1 / count rounds away in half precision
    pred = target + 0.1 * torch.randn_like(target)
    exact = weight_for(F.mse_loss, pred.to(dtype).float(), target.to(dtype).float())
    assert weight_for(F.mse_loss, pred.to(dtype), target.to(dtype)) == pytest.approx(exact, rel=1e-4)


def test_bad_input_is_refused_in_words(pair: tuple[Tensor, Tensor]) -> None:
    pred, target = pair
    with pytest.raises(ValueError, match=r"gradient of loss by pred has the norm 0"):
        weight_for(JPEGLoss(), target, target)
    with pytest.raises(ValueError, match="gradient of beside by pred has the norm nan"):
        weight_for(F.mse_loss, pred, target, beside=lambda x, y: (x - y).sum() * float("nan"))
    with pytest.raises(ValueError, match="does not depend on pred"):
        weight_for(lambda x, y: y.mean(), pred, target)
    with pytest.raises(ValueError, match="pull must be positive"):
        weight_for(JPEGLoss(), pred, target, pull=0)
    with pytest.raises(TypeError, match="must return a tensor"):
        weight_for(lambda x, y: 1.0, pred, target)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="loss must be a function"):
        weight_for("jpeg", pred, target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same shape"):
        weight_for(JPEGLoss(), pred, target[:1])
