"""How hard a loss pulls, by the size of its gradient, and the weight at which two losses pull alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from task_losses.checks import check_number
from task_losses.images import check_pair

Loss = Callable[[Tensor, Tensor], Tensor]


def weight_for(loss: Loss, pred: Tensor, target: Tensor, pull: float = 1.0, beside: Loss = F.l1_loss) -> float:
    """The weight at which a loss pulls ``pull`` times as hard as another: for ``beside(...) + weight * loss(...)``.

    A loss's pull is the norm of its gradient by the restored images. It depends on the network, its training and the
    range of the images, so it is measured on what your network makes. A batch of patches after some training with
    ``beside`` alone is a good moment: at the very start, and at the end, the answer is another.

    Args:
        loss: takes (pred, target). What returns a value for each image counts by the mean of them.
        pred: restored images (N, C, H, W), in the range that both losses expect. Nothing is propagated into their
            graph, and nothing about losses, images or random generators changes.
        target: their references.
        pull: 1 for as hard, 0.5 for half as hard.
        beside: the loss to compare with; default: the mean absolute error.

    Raises:
        TypeError: an argument is of another type, or a loss does not return a tensor.
        ValueError: shapes or devices do not fit; ``pull`` is not positive; a loss does not depend on ``pred``, or its
            gradient is zero (as where ``pred`` is ``target``) or not finite.

    Example:
        >>> loss, pred, target = JPEGLoss(), torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
        >>> weight = weight_for(loss, pred, target)
        >>> total = F.l1_loss(pred, target) + weight * loss(pred, target)
    """
    check_pair(pred, target, "per_channel")  # how many there may be, the losses say
    factor = check_number("pull", pull)
    if factor <= 0:
        raise ValueError(f"pull must be positive, got {pull!r}; leave the loss out where it shall not pull")
    for name, given in (("loss", loss), ("beside", beside)):
        if not callable(given):
            raise TypeError(f"{name} must be a function of pred and target, got {given!r} ({type(given).__name__})")
    norms = {"loss": gradient_norm(loss, pred, target), "beside": gradient_norm(beside, pred, target)}
    for name, norm in norms.items():
        if norm == 0 or not math.isfinite(norm):
            raise ValueError(
                f"the gradient of {name} by pred has the norm {norm:g} here, so no weight can be told: pass what your "
                "network makes of a batch, which is neither its target nor without end"
            )
    return factor * norms["beside"] / norms["loss"]


def gradient_norm(loss: Loss, pred: Tensor, target: Tensor) -> float:
    """Euclidean norm of the gradient of ``loss(pred, target)`` by ``pred``; of several values, of their mean.

    Raises:
        TypeError: the loss does not return a tensor.
        ValueError: it does not depend on ``pred``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Copies, as tensors that were made in inference mode have no gradient. In half precision L1's would vanish:
        # it is one over the number of pixels.
        image, reference = (_precise(x) for x in (pred, target))
        image.requires_grad_()
        value = loss(image, reference)
        if not isinstance(value, Tensor):
            raise TypeError(f"a loss must return a tensor, got {value!r} ({type(value).__name__})")
        gradient = torch.autograd.grad(value.mean(), image, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise ValueError("a loss does not depend on pred: its result has no gradient; is it computed under no_grad()?")
    return float(gradient.norm())


def _precise(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32), copy=True)
