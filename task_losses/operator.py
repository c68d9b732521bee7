"""The distance as one differentiable operation, in the form that suits who asks for it.

- In eager training, an autograd function that makes value and gradient in one pass.
- In ``torch.compile``, the same pass as one operator, ``task_losses::distance``: nothing to reason about for
  the compiler.
- For everything else (a gradient by the target too, torch.func, forward mode, export, tracing), the plain operations.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from task_losses.architecture import Architecture
from task_losses.autocast import full_precision
from task_losses.constants import keeps
from task_losses.discriminator import FrozenDiscriminator
from task_losses.distance import Level, distance_alone, distance_and_gradient, plain_distance
from task_losses.levels import Selection


def distance(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    selection: Selection,
    discriminators: Sequence[FrozenDiscriminator],
) -> Tensor:
    """Each image's distance, (N,).

    Args:
        pred, target: (N, 3, H, W) in [0, 1], in the dtype and on the device of the discriminators.
        mask: weights of the pixels, see :func:`task_losses.distance.plain_distance`.
        discriminators: of the chosen scales.

    Raises:
        ValueError: no level is large enough; compiled code tells it when it runs.
    """
    if _in_compiled_graph():
        return _compiled(pred, target, mask, selection, discriminators)
    levels = selection.levels((pred.shape[2], pred.shape[3]), discriminators)
    by_pred, by_target = (torch.is_grad_enabled() and image.requires_grad for image in (pred, target))
    if by_target or _wants_plain_operations(pred, target):
        return plain_distance(pred, target, levels, mask)
    if not by_pred:
        return distance_alone(pred, target, levels, mask)
    if target.is_inference():  # autograd keeps no such tensor for the backward pass
        target = target.clone()
    per_image: Tensor
    per_image, _ = _WithGradient.apply(pred, target, mask, levels)  # type: ignore[no-untyped-call]
    return per_image


# Before torch 2.8 the tracer tells neither export nor torch.func apart: both get the operator. (2.7 calls all export.)
TELLS_APART = torch.torch_version.TorchVersion(torch.__version__) >= "2.8"


def _in_compiled_graph() -> bool:
    """Whether torch.compile is tracing. Export keeps plain operations, which other programs know."""
    if not torch.compiler.is_compiling() or not TELLS_APART:
        return torch.compiler.is_compiling()
    # The flag itself: tracers of torch 2.8 to 2.11 take the function that returns it for true, always.
    exporting: bool = torch.compiler._is_exporting_flag
    return not (exporting or torch._C._are_functorch_transforms_active())


def _wants_plain_operations(*images: Tensor) -> bool:
    """Whether an autograd function would be in the way: its rules are not torch.func's, and it has no forward mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None  # torch.jit.trace
        or torch._C._are_functorch_transforms_active()
        or any(forward_ad.unpack_dual(image).tangent is not None for image in images)  # type: ignore[no-untyped-call]
    )


class _WithGradient(torch.autograd.Function):
    """The distance and its gradient by ``pred`` in one pass, for a target without gradient.

    Images do not mix, so the gradient of any reduction is each image's own gradient times a number. Making it at
    once lets every level free its feature maps before the next begins, and only one image-sized tensor waits for
    the backward pass.
    """

    @staticmethod
    def forward(pred: Tensor, target: Tensor, mask: Tensor | None, levels: Sequence[Level]) -> tuple[Tensor, Tensor]:
        return distance_and_gradient(pred, target, levels, mask=mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pred, target, mask, ctx.levels = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros, a launch, for the one that has none
        ctx.save_for_backward(pred, target, mask, output[1])

    @staticmethod
    def backward(ctx: Any, by_value: Tensor | None, _: None) -> tuple[Tensor | None, None, None, None]:
        if by_value is None:  # nothing asks for it
            return None, None, None, None
        pred, target, mask, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the caller will differentiate this gradient too
            (differentiable,) = _plain_gradients(pred, target, mask, ctx.levels, [pred], by_value)
            return differentiable, None, None, None
        return _scaled(gradient, by_value), None, None, None


def _scaled(gradient: Tensor, by_value: Tensor) -> Tensor:
    return gradient * by_value[:, None, None, None]


def _plain_gradients(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    levels: Sequence[Level],
    images: list[Tensor],
    by_value: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients by some of the images, that can be differentiated again."""
    with full_precision(pred.device):
        per_image = plain_distance(pred, target, levels, mask)
        return torch.autograd.grad(per_image, images, by_value, create_graph=True)


# Weights are arguments, not looked up by a number: a compiled graph, which torch may also take from its cache of an
# earlier process, then cannot meet another loss's. The selection follows, its architecture field by field.
_TYPES = {"int": "int", "float": "float", "str": "str", "tuple[int, ...]": "int[]"}
_NAMES = [entry.name for entry in fields(Architecture)]
_ARCHITECTURE = ", ".join(f"{_TYPES[str(entry.type)]} {entry.name}" for entry in fields(Architecture))
_SCHEMA = (
    f"(Tensor pred, Tensor target, Tensor? mask, Tensor[] weights, {_ARCHITECTURE}, "
    "int[] scales, str resolution, bool by_pred, bool by_target) -> (Tensor, Tensor, Tensor)"
)


def _compiled(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    selection: Selection,
    discriminators: Sequence[FrozenDiscriminator],
) -> Tensor:
    weights = [tensor for part in discriminators for layer in part.layers() for tensor in layer]
    values = [getattr(selection.architecture, name) for name in _NAMES]
    architecture = [list(value) if isinstance(value, tuple) else value for value in values]
    seen = (list(selection.scales), selection.resolution)
    wanted = [torch.is_grad_enabled() and image.requires_grad for image in (pred, target)]
    per_image: Tensor
    per_image, _, _ = _operator(pred, target, mask, weights, *architecture, *seen, *wanted)
    return per_image


@torch.library.custom_op("task_losses::distance", mutates_args=(), schema=_SCHEMA)
def _operator(
    pred: Tensor, target: Tensor, mask: Tensor | None, weights: list[Tensor], *form: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The distance, (N,), and its gradients by ``pred`` and by ``target``, without elements if not asked for."""
    levels = _levels(pred, weights, form)
    by_pred, by_target = form[-2:]
    gradients = [pred.new_empty(0), pred.new_empty(0)]
    with full_precision(pred.device), torch.no_grad():
        if not by_pred and not by_target:
            per_image = distance_alone(pred, target, levels, mask)
        if by_target:  # the distance is symmetric
            per_image, gradients[1] = distance_and_gradient(target, pred, levels, mask=mask)
        if by_pred:
            per_image, gradients[0] = distance_and_gradient(pred, target, levels, mask=mask)
    return per_image, gradients[0], gradients[1]


def _levels(pred: Tensor, weights: Sequence[Tensor], form: Sequence[Any]) -> list[Level]:
    *values, scales, resolution, _, _ = form
    arguments: list[Any] = [value if isinstance(value, (int, float, str)) else tuple(value) for value in values]
    architecture = Architecture(*arguments)
    selection = Selection(architecture, tuple(scales), resolution)
    return selection.levels((pred.shape[2], pred.shape[3]), _discriminators(weights, selection))


def _discriminators(weights: Sequence[Tensor], selection: Selection) -> list[FrozenDiscriminator]:
    """Made once for the same tensors, so that what follows from weights is made once too."""
    key = (selection, tuple(map(id, weights)))
    made_of, discriminators = _made.get(key, ([], []))
    if not discriminators or any(reference() is not weight for reference, weight in zip(made_of, weights, strict=True)):
        layers = list(zip(weights[::2], weights[1::2], strict=True))
        depth = selection.architecture.depth
        by_scale = (layers[start : start + depth] for start in range(0, len(layers), depth))
        discriminators = selection.discriminators(by_scale)
        if keeps():
            _made[key] = [weakref.ref(weight) for weight in weights], discriminators
            if len(_made) > _MOST_LOSSES:
                _made.pop(next(iter(_made)), None)
    return discriminators


_MOST_LOSSES = 8  # whose discriminators are held at once
_made: dict[Any, tuple[list[weakref.ref[Tensor]], list[FrozenDiscriminator]]] = {}


@_operator.register_fake
def _(
    pred: Tensor, target: Tensor, mask: Tensor | None, weights: Sequence[Tensor], *form: Any
) -> tuple[Tensor, Tensor, Tensor]:
    by_pred, by_target = form[-2:]
    gradient = torch.empty_like(pred) if by_pred else pred.new_empty(0)
    return pred.new_empty(pred.shape[0]), gradient, torch.empty_like(target) if by_target else target.new_empty(0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    pred, target, mask, weights, *ctx.form = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(pred, target, mask, *output[1:], *weights)


def _backward(ctx: Any, by_value: Tensor, *_: Tensor) -> tuple[Any, ...]:
    pred, target, mask, *gradients = ctx.saved_tensors[:5]
    weights = ctx.saved_tensors[5:]
    wanted = ctx.form[-2:]
    if torch.is_grad_enabled():
        images = [image for image, is_wanted in zip((pred, target), wanted, strict=True) if is_wanted]
        made = iter(_plain_gradients(pred, target, mask, _levels(pred, weights, ctx.form), images, by_value))
    else:
        made = iter(_scaled(gradient, by_value) for gradient in gradients if gradient.numel())
    by_images = [next(made) if is_wanted else None for is_wanted in wanted]
    # torch takes an empty list of numbers for a list of tensors, of which there are no gradients.
    others: list[Any] = [[] if isinstance(value, list) and not value else None for value in ctx.form]
    return (*by_images, None, [None] * len(weights), *others)


_operator.register_autograd(_backward, setup_context=_keep)
