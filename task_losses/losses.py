"""The losses: distances between the features of frozen, task-specific discriminators.

    L(x, y) = mean(|x - y|^q) + sum over scales k, taps l of  mean(|D_k^l(x) - D_k^l(y)|^p)

after Mustafa et al., "Training a Task-Specific Image Reconstruction Loss", WACV 2022 (arXiv 2103.14616). Each
discriminator sees the pyramid level of its own scale. The weights say whether p is 2 or 1, which q from 1 to 2, and
whether the image's own term is there. See docs/method.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from task_losses.checks import check_choice, check_data_range, check_number, check_pair, check_scales
from task_losses.discriminator import Architecture, FrozenDiscriminator
from task_losses.hub import HubOptions
from task_losses.pyramid import level_size, resize, resize_adjoint, resize_area
from task_losses.sharing import SharingMixin
from task_losses.sources import check_no_hub_options, load_weights
from task_losses.weights import Weights, random_weights

REDUCTIONS = ("mean", "sum", "none")
RESOLUTIONS = ("pyramid", "full")


class TaskLoss(SharingMixin, nn.Module):
    """A loss for training image-restoration networks, made from frozen discriminators.

    Use :class:`SRLoss`, :class:`DenoiseLoss` or :class:`JPEGLoss` for the released weights, or this class with
    weights that you or others trained for another distortion.

    The loss is zero if all features agree, and positive otherwise. It has no parameters, its ``state_dict()`` is
    empty, and ``train()`` changes nothing, so it can be a submodule of anything.

    Args:
        pretrained: True for the released weights of this class's task; a path for a ``.safetensors`` file or a
            folder written by :meth:`save_pretrained`; ``"owner/repo"`` for a Hub repository written by
            :meth:`push_to_hub`; False for random weights (a control for experiments). A string is a path if it
            ends with ``.safetensors`` or starts with ``.``, ``/`` or ``~``.
        loss_weight: factor of the result.
        reduction: ``"mean"`` over the images of a batch, ``"sum"`` over them, or ``"none"``: one value per image.
        data_range: range of the images. A number r means [0, r]; a pair means [low, high]. Values outside are
            allowed and never clipped.
        scales: which discriminators take part, as indices from 0 (coarsest) up; None for all. Weights that compare the
            image itself do so at the finest scale, and without that one not at all.
        resolution: ``"pyramid"`` feeds each discriminator the pyramid level of its scale; ``"full"`` feeds every one
            the image itself, the rule of the authors' code (slower, see docs/method.md).
        revision: branch, tag or commit of a Hub repository; None for its main branch.
        token, cache_dir, endpoint, local_files_only: how to reach the Hub, as in huggingface_hub.

    Attributes:
        weights_source: where the weights came from: ``"embedded"``, ``"cache"``, ``"hub"``, ``"owner/repo@commit"``,
            a path, or ``"random"``.
        weights_sha256: hash of the weight file; None for random weights.
        weights_info: the metadata of the weight file.

    Raises:
        TypeError, ValueError: an option has the wrong type or value.
        WeightsError: the weights could not be found, read or verified; its subclasses in task_losses.weights tell
            which.

    Example:
        >>> loss = JPEGLoss()
        >>> restored = torch.rand(2, 3, 64, 48, requires_grad=True)
        >>> loss(restored, torch.rand(2, 3, 64, 48)).backward()
    """

    task: ClassVar[str | None] = None

    def __init__(
        self,
        pretrained: bool | str | os.PathLike[str] = True,
        *,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        data_range: float | Sequence[float] = 1.0,
        scales: Sequence[int] | None = None,
        resolution: str = "pyramid",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        endpoint: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        self.loss_weight = check_number("loss_weight", loss_weight)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.resolution = check_choice("resolution", resolution, RESOLUTIONS)
        self.low, self.high = check_data_range(data_range)
        options = HubOptions(token, cache_dir, endpoint, local_files_only)
        if pretrained is None or pretrained is False:
            check_no_hub_options("random weights", revision, options)
            weights = random_weights(self.task)
        else:
            weights = load_weights(pretrained, self.task, revision, options)
        self._adopt(weights, scales)
        self.eval()

    def _adopt(self, weights: Weights, scales: Sequence[int] | None) -> None:
        self.architecture: Architecture = weights.architecture
        self.scales = check_scales(scales, self.architecture.scales)
        self.weights_source = weights.source
        self.weights_sha256 = weights.sha256
        self.weights_info = weights.info
        self.discriminators = nn.ModuleList(
            FrozenDiscriminator(
                weights.layers(scale),
                self.architecture.taps_of(scale),
                self.architecture.distance,
                self.architecture.image_exponent,
            )
            for scale in self.scales
        )

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Distance of restored images from their references.

        Args:
            pred: (N, 3, H, W) or (N, 1, H, W), floating point, in ``data_range``; H and W at least 11 (more if
                ``scales`` leaves out the finest). Gradients flow into it.
            target: same shape, dtype and device. It takes part in differentiation only if it requires grad.

        Returns:
            A scalar, or (N,) for ``reduction="none"``; float32, or float64 after ``.double()``.

        Raises:
            TypeError: an argument is no floating-point tensor, or dtypes differ outside autocast.
            ValueError: shapes or devices do not fit.
        """
        levels = self._levels_for(pred, target)
        with _full_precision(pred.device):
            pred, target = self._prepare(pred), self._prepare(target)
            needs_gradient = torch.is_grad_enabled() and pred.requires_grad
            if not needs_gradient or target.requires_grad or torch.compiler.is_compiling():
                per_image = _distance(pred, target, levels)
            else:
                per_image, _ = _Distance.apply(pred, target, levels)  # type: ignore[no-untyped-call]
            if self.reduction == "mean":
                per_image = per_image.mean()
            elif self.reduction == "sum":
                per_image = per_image.sum()
            return per_image * self.loss_weight

    def per_scale(self, pred: Tensor, target: Tensor) -> dict[int, Tensor]:
        """Each scale's share of the distance, for logs: scale -> (N,), without ``loss_weight`` and reduction.

        The finest scale's holds the image's own term, where the weights have one.
        A scale whose pyramid level is too small for its discriminator is missing, as it is from the loss.
        Arguments and errors as for :meth:`forward`.
        """
        levels = self._levels_for(pred, target)
        with _full_precision(pred.device):
            pred, target = self._prepare(pred), self._prepare(target)
            return {level.scale: _distance(pred, target, [level]) for level in levels}

    def distance_map(self, pred: Tensor, target: Tensor) -> Tensor:
        """Where the distance comes from, for pictures and masks: (N, 1, H, W), not negative.

        Its mean over the pixels of an image is that image's loss, without ``loss_weight`` and reduction. Each
        feature difference is spread over the pixels that the feature sees, at the resolution of its scale, so
        details are no finer than 3 pixels.
        Differentiable. Arguments and errors as for :meth:`forward`.
        """
        levels = self._levels_for(pred, target)
        size = (pred.shape[2], pred.shape[3])
        with _full_precision(pred.device):
            pred, target = self._prepare(pred), self._prepare(target)
            maps = [
                level.discriminator.distance_map(resize(pred, level.size), resize(target, level.size))
                for level in levels
            ]
            return torch.stack([resize_area(level_map, size) for level_map in maps]).sum(dim=0)

    def train(self, mode: bool = True) -> TaskLoss:
        """Stays in evaluation mode: a frozen network has no other."""
        return super().train(False)

    def extra_repr(self) -> str:
        source = f"task={self.task!r}, source={self.weights_source!r}"
        low, high = self.low, self.high
        options = f"loss_weight={self.loss_weight}, reduction={self.reduction!r}, data_range=({low}, {high})"
        return f"{source}, {options}, scales={list(self.scales)}, resolution={self.resolution!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TaskLoss:
        # model.half() must not round the discriminators: half precision inputs are computed in float32 anyway.
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype in (torch.float32, torch.float64) else tensor.to(moved.device)

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the discriminators."""
        return cast(Tensor, self.discriminators[0].weight0)

    def _prepare(self, image: Tensor) -> Tensor:
        """The image in [0, 1], three channels, in the precision of the discriminators."""
        image = image.to(self._like.dtype)
        if (self.low, self.high) != (0.0, 1.0):
            image = (image - self.low) / (self.high - self.low)
        return image.expand(-1, 3, -1, -1)

    def _levels_for(self, pred: Tensor, target: Tensor) -> list[_Level]:
        check_pair(pred, target)
        if self._like.device != pred.device:
            raise ValueError(
                f"images are on {pred.device}, the loss is on {self._like.device}; "
                f"move it with loss.to({str(pred.device)!r})"
            )
        height, width = pred.shape[-2:]
        smallest = self.architecture.receptive_field
        levels = []
        for scale, discriminator in zip(self.scales, self.discriminators, strict=True):
            # The finest discriminator sees the image itself, each coarser one a level further down.
            down = self.architecture.scales - 1 - scale if self.resolution == "pyramid" else 0
            size = level_size((height, width), self.architecture.ratio, down)
            if min(size) >= smallest:
                levels.append(_Level(scale, size, cast(FrozenDiscriminator, discriminator)))
        if not levels:
            raise ValueError(
                f"images of {height} x {width} are too small: the finest chosen scale, {max(self.scales)}, needs "
                f"sides of at least {self._smallest_side()} pixels; use larger patches or finer scales"
            )
        return levels

    def _smallest_side(self) -> int:
        down = self.architecture.scales - 1 - max(self.scales) if self.resolution == "pyramid" else 0
        field = self.architecture.receptive_field
        return math.ceil((field - 0.5) / self.architecture.ratio**down)


class SRLoss(TaskLoss):
    """Loss for super-resolution networks. Options as for :class:`TaskLoss`."""

    task = "sr"


class DenoiseLoss(TaskLoss):
    """Loss for denoising networks. Options as for :class:`TaskLoss`."""

    task = "denoise"


class JPEGLoss(TaskLoss):
    """Loss for networks that remove JPEG artefacts. Options as for :class:`TaskLoss`."""

    task = "jpeg"


class _Level(NamedTuple):
    """A discriminator and the size of the image that it is to see."""

    scale: int
    size: tuple[int, int]
    discriminator: FrozenDiscriminator


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Inside, autocast does nothing. A device that has none, like meta, needs no switching off."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def _distance(pred: Tensor, target: Tensor, levels: Sequence[_Level]) -> Tensor:
    """Each image's distance, (N,), in operations that autograd can differentiate any number of times."""
    distances = [level.discriminator.distance(resize(pred, level.size), resize(target, level.size)) for level in levels]
    return torch.stack(distances).sum(dim=0)


class _Distance(torch.autograd.Function):
    """:func:`_distance` and its gradient by ``pred`` in one pass, for a target without gradient.

    Images do not mix, so the gradient of any reduction is each image's own gradient times a number. Making it at
    once lets every level free its feature maps before the next begins, and only one image-sized tensor waits for
    the backward pass.
    """

    @staticmethod
    def forward(pred: Tensor, target: Tensor, levels: Sequence[_Level]) -> tuple[Tensor, Tensor]:
        total = pred.new_zeros(len(pred))
        gradient = torch.zeros_like(pred)
        for level in reversed(levels):  # the finest first: the memory it frees is enough for all others
            distance, level_gradient = level.discriminator.distance_and_gradient(
                resize(pred, level.size), resize(target, level.size)
            )
            total += distance
            gradient += resize_adjoint(level_gradient, (pred.shape[2], pred.shape[3]))
        return total, gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pred, target, ctx.levels = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(pred, target, output[1])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        pred, target, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the caller will differentiate this gradient too
            with _full_precision(pred.device):
                distance = _distance(pred, target, ctx.levels)
                (gradient,) = torch.autograd.grad(distance, pred, grad_output, create_graph=True)
            return gradient, None, None
        return gradient * grad_output[:, None, None, None], None, None
