"""The losses: distances between the features of frozen, task-specific discriminators.

    L(x, y) = fidelity * mean(|x - y|^q) + sum over scales k, taps l of  mean(|D_k^l(x) - D_k^l(y)|^p)
              + texture * m * sum over scales k, taps l of  mean(|s(D_k^l(x)) - s(D_k^l(y))|^p)

after Mustafa et al., "Training a Task-Specific Image Reconstruction Loss", WACV 2022 (arXiv 2103.14616), with a texture
term: s is the standard deviation in a window. Each discriminator sees the pyramid level of its own scale. The weights
say which terms are there, p, q and m. See docs/method.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from task_losses.autocast import full_precision
from task_losses.checks import (
    LARGEST,
    check_choice,
    check_data_range,
    check_fidelity,
    check_number,
    check_scales,
    check_texture,
)
from task_losses.discriminator import FrozenDiscriminator
from task_losses.distance import Level, plain_distance
from task_losses.hub_options import HubOptions
from task_losses.images import CHANNELS, check_image, check_mask, check_pair, mask_to_batch, to_batch, to_leading
from task_losses.levels import Selection
from task_losses.operator import distance
from task_losses.pyramid import resize, resize_area
from task_losses.range_warning import can_be_read, warn_if_far_outside
from task_losses.sources import check_no_hub_options, load_weights
from task_losses.weights import Weights, control_weights, random_weights

REDUCTIONS = ("mean", "sum", "none")
RESOLUTIONS = ("pyramid", "full")
FILL = 0.5  # of the range: what both images hold where a mask is 0

Self = TypeVar("Self", bound="TaskLoss")


class TaskLoss(nn.Module):
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
        like: beside ``pretrained=False``: a loss, or what ``pretrained`` takes. The random weights have its shape and,
            on average, as large a share beside the image: the control that tells what training was worth.
        texture: how hard the loss pulls towards the strength of the reference's texture: 0 not at all, 1 the
            recommended setting, more is sharper and costs PSNR. Default: 1, or 0 for weights without a texture term.
        fidelity: factor of the image's own term, for weights that compare the image itself; 1 is what they were made
            with, less lets go of the pixels.
        loss_weight: factor of the result, up to 1e12.
        reduction: ``"mean"`` over the images of a batch, ``"sum"`` over them, or ``"none"``: one value per image.
        channels: ``"rgb"`` takes 3 channels, or 1, which is repeated; ``"per_channel"`` takes any number, compares
            each as a grey image, and its result is the mean over them.
        data_range: range of the images. A number r means [0, r]; a pair means [low, high], from -1e12 to 1e12 and at
            least 1e-12 wide. Values outside are allowed and never clipped.
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
        like: TaskLoss | bool | str | os.PathLike[str] | None = None,
        texture: float | None = None,
        fidelity: float = 1.0,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        channels: str = "rgb",
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
        self.loss_weight = check_number("loss_weight", loss_weight, LARGEST)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.channels = check_choice("channels", channels, CHANNELS)
        self.resolution = check_choice("resolution", resolution, RESOLUTIONS)
        self.low, self.high = check_data_range(data_range)
        self._range_seen = False
        options = HubOptions(token, cache_dir, endpoint, local_files_only)
        with torch.inference_mode(False):  # a tensor born in inference mode could not serve a later training step
            if pretrained is not None and pretrained is not False:
                if like is not None:
                    raise ValueError("like= goes with pretrained=False, for random weights of that shape")
                weights = load_weights(pretrained, self.task, revision, options)
            elif like is None or isinstance(like, TaskLoss):
                check_no_hub_options("random weights", revision, options)
                weights = random_weights(self.task) if like is None else control_weights(like._weights)
            else:
                weights = control_weights(load_weights(like, self.task, revision, options))
            if self.task is not None and weights.info["task"] != self.task:
                raise ValueError(f"like= is a loss for {weights.info['task']!r}: use TaskLoss, which takes any task")
            self._adopt(weights, scales, texture, fidelity)
        self.eval()

    def _adopt(self, weights: Weights, scales: Sequence[int] | None, texture: float | None, fidelity: float) -> None:
        # Kept beside the buffers, on the CPU: what moves the buffers may lose their numbers, see _apply.
        self._weights = weights
        self.architecture = weights.architecture
        self.scales = check_scales(scales, self.architecture.scales)
        self.texture = check_texture(texture, self.architecture.texture_weight)
        self.fidelity = check_fidelity(fidelity, 0 in self.architecture.taps)
        self.weights_source = weights.source
        self.weights_sha256 = weights.sha256
        self.weights_info = weights.info
        copies = ([(w.clone(), b.clone()) for w, b in weights.layers(scale)] for scale in self.scales)
        self.discriminators = nn.ModuleList(self._selection.discriminators(copies))

    def forward(
        self, pred: Tensor, target: Tensor, mask: Tensor | None = None, *, return_map: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Distance of restored images from their references.

        Args:
            pred: (N, C, H, W), one image (C, H, W) or video (N, T, C, H, W), each frame an image. C is 3 or 1, any
                number with ``channels="per_channel"``. Floating point, in ``data_range``; H and W at least 11 (more if
                ``scales`` leaves out the finest). Gradients flow into it.
            target: same shape, dtype and device. It takes part in differentiation only if it requires grad.
            mask: shape of the images with one channel, bool or floating point, leading dimensions possibly 1: how much
                each pixel counts, not negative. Only ratios within an image say something. Where it is 0, no value of
                the images has an effect, and the gradient is 0; an image without any other pixel has distance 0.
                No gradient flows into it. See docs/images.md.
            return_map: return :meth:`distance_map` too, without gradient, for pictures. It takes a second pass.

        Returns:
            A scalar; for ``reduction="none"`` one value per image: (N,), () or (N, T). float32, or float64 after
            ``.double()``. With ``return_map`` that and the map.

        Raises:
            TypeError: an argument is no floating-point tensor, or dtypes differ outside autocast.
            ValueError: shapes or devices do not fit.
        """
        self._check(pred, target, mask)
        with full_precision(pred.device):
            x, y, weights = self._prepare(pred, target, mask)
            # Weighted before it is reduced: torch.func.jvp makes the tangent of a scalar times a number float64.
            per_image = distance(x, y, weights, self._selection, self._frozen)
            if self.loss_weight != 1:
                per_image = per_image * self.loss_weight
            result = to_leading(per_image, pred, self.channels)
            if self.reduction == "mean":
                result = result.mean()
            elif self.reduction == "sum":
                result = result.sum()
        if not return_map:
            return result
        with torch.no_grad():
            return result, self.distance_map(pred, target, mask)

    def per_scale(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> dict[int, Tensor]:
        """Each scale's share of the distance, for logs, without ``loss_weight`` and reduction.

        The finest scale's holds the image's own term, where the weights have one.
        A scale whose pyramid level is too small for its discriminator is missing, as it is from the loss.
        Arguments and errors as for :meth:`forward`.

        Returns:
            scale -> one value per image: (N,), () or (N, T).
        """
        levels = self._levels_for(pred, target, mask)
        with full_precision(pred.device):
            x, y, weights = self._prepare(pred, target, mask)
            return {
                level.scale: to_leading(plain_distance(x, y, [level], weights), pred, self.channels) for level in levels
            }

    def distance_map(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Where the distance comes from, for pictures: the images' shape with one channel, not negative.

        Its mean over the pixels of an image is that image's loss, without ``loss_weight`` and reduction. Each
        feature difference is spread over the pixels that the feature sees, at the resolution of its scale, so
        details are no finer than 3 pixels. With a mask it is 0 where that is.
        Differentiable. Arguments and errors as for :meth:`forward`.
        """
        levels, size = self._levels_for(pred, target, mask), (pred.shape[-2], pred.shape[-1])
        with full_precision(pred.device):
            x, y, weights = self._prepare(pred, target, mask)
            maps = [level.discriminator.distance_map(resize(x, level.size), resize(y, level.size)) for level in levels]
            total = torch.stack([resize_area(level_map, size) for level_map in maps]).sum(dim=0)
            return to_leading(total if weights is None else total * weights, pred, self.channels)

    def features(self, image: Tensor, mask: Tensor | None = None) -> dict[int, dict[int, Tensor]]:
        """What the loss compares of an image: scale -> layer -> (..., C, h, w).

        Layer 0 is the image in [0, 1], of three channels; the others are outputs of a discriminator's convolutions.
        The leading dimensions are those of the images, and the image's channels with ``channels="per_channel"``, as
        each is an image then. With a mask they are of the images that the loss sees, filled where the mask is 0.
        Differentiable. Arguments, missing scales and errors as for :meth:`forward`.
        """
        check_image("image", image, self.channels)
        self._check_place(image, mask)
        levels = self._selection.levels((image.shape[-2], image.shape[-1]), self._frozen)
        leading = image.shape[:-2] if self.channels == "per_channel" else image.shape[:-3]
        with full_precision(image.device):
            x, _, _ = self._prepare(image, image, mask)
            found = {level: level.discriminator(resize(x, level.size)) for level in levels}
            return {
                level.scale: {
                    tap: output.reshape(*leading, *output.shape[1:])
                    for tap, output in zip(level.discriminator.taps, outputs, strict=True)
                }
                for level, outputs in found.items()
            }

    @classmethod
    def from_pretrained(cls: type[Self], source: str | os.PathLike[str], **options: Any) -> Self:
        """A loss with the weights of a folder, a file or a Hub repository: the constructor by its usual name.

        Args:
            source: ``pretrained`` of the constructor.
            options: the constructor's others: ``revision``, ``reduction``, ...

        Raises:
            As the constructor.
        """
        return cls(source, **options)

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        *,
        license: str | None = None,
        metrics: Mapping[str, float] | None = None,
        preview: str | os.PathLike[str] | None = None,
    ) -> None:
        """Writes ``{task}.safetensors``, its manifest and a model card into a folder, which is made if need be.

        The bytes depend on the loss and the arguments alone, and the weight file of a loss that came from a file is
        that file. Options such as ``reduction`` are not weights and are not saved.

        Args:
            license: licence of the weights, as an identifier of the Hub (``"mit"``); default: what the weights say.
            metrics: figures for the model card, by name.
            preview: a PNG picture of at most 2 MB for the card, such as ``scale7.png`` of a run. None is taken unasked:
                it shows the photograph that the critics were trained on.

        Raises:
            ValueError: the loss holds only some scales, its weights are for no task, or the preview is no PNG picture.
            OSError: the folder cannot be written, or the preview not read.
        """
        from task_losses import sharing  # only now, as few share

        sharing.save(self._shared_files(None, license, metrics, preview), directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        metrics: Mapping[str, float] | None = None,
        preview: str | os.PathLike[str] | None = None,
        commit_message: str | None = None,
        private: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> str:
        """Uploads what :meth:`save_pretrained` writes, in one commit, and checks what arrived.

        A repository holds one loss: pushing again replaces it, and its model card. Pushing the same again makes no
        commit.

        Args:
            repo_id: ``"owner/repo"``; made if need be.
            license, metrics, preview: as for :meth:`save_pretrained`.
            commit_message: default ``"Upload the {task} loss"``.
            private: whether a repository that is made is private.
            token: with write access; default: the saved one.
            endpoint: address of the Hub; default: HF_ENDPOINT, or the public one.

        Returns:
            The commit, 40 hexadecimal digits: ``revision`` to load exactly this.

        Raises:
            ValueError: as for :meth:`save_pretrained`.
            huggingface_hub.errors.HfHubHTTPError: the Hub refused, for want of rights for example.
            WeightsError: the upload could not be read back.
        """
        from task_losses import sharing

        files = self._shared_files(repo_id, license, metrics, preview)
        message = commit_message or f"Upload the {self.weights_info['task']} loss"
        return sharing.push(repo_id, files, message, HubOptions(token=token, endpoint=endpoint), private)

    def _shared_files(
        self,
        repo_id: str | None,
        license: str | None,
        metrics: Mapping[str, float] | None,
        preview: str | os.PathLike[str] | None,
    ) -> dict[str, bytes]:
        from task_losses import sharing

        if len(self.scales) < self.architecture.scales:
            raise ValueError(
                f"cannot save a loss that holds only the scales {list(self.scales)} of {self.architecture.scales}; "
                "make it with scales=None"
            )
        task_class = loss_class(self._weights.info.get("task")).__name__
        return sharing.shared_files(self._weights, task_class, repo_id, license, metrics, preview)

    def train(self, mode: bool = True) -> TaskLoss:
        """Stays in evaluation mode: a frozen network has no other."""
        return super().train(False)

    def extra_repr(self) -> str:
        source = f"task={self.weights_info.get('task')!r}, source={self.weights_source!r}"
        low, high = self.low, self.high
        dial = f"texture={self.texture}, fidelity={self.fidelity}"
        options = f"{dial}, loss_weight={self.loss_weight}, reduction={self.reduction!r}, data_range=({low}, {high})"
        seen = f"channels={self.channels!r}, scales={list(self.scales)}, resolution={self.resolution!r}"
        return f"{source}, {options}, {seen}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TaskLoss:
        """Whatever moves or converts modules says where the weights go; their numbers are always those loaded.

        So ``to_empty()`` does not wipe them, ``.to("meta")`` does not lose them, and ``.half()`` does not round them:
        half precision inputs are computed in float32 anyway.
        """
        loaded = {
            id(buffer): tensor
            for scale, part in zip(self.scales, self._frozen, strict=True)
            for layer, originals in zip(part.layers(), self._weights.layers(scale), strict=True)
            for buffer, tensor in zip(layer, originals, strict=True)
        }

        def move(buffer: Tensor) -> Tensor:
            try:
                moved = fn(buffer)
            except NotImplementedError:  # the meta device has nothing to copy, but we have
                moved = fn(torch.empty_like(buffer, device="cpu"))
            if moved is buffer:
                return buffer
            dtype = moved.dtype if moved.dtype in (torch.float32, torch.float64) else buffer.dtype
            return loaded[id(buffer)].to(moved.device, dtype, copy=True)

        with torch.inference_mode(False):
            super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the discriminators."""
        return self._frozen[0].layers()[0][0]

    @property
    def _frozen(self) -> list[FrozenDiscriminator]:
        """``discriminators``, of the class that an ``nn.ModuleList`` cannot promise."""
        return [part for part in self.discriminators if isinstance(part, FrozenDiscriminator)]

    def _prepare(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Both as batches (B, 3, H, W) in [0, 1], in the discriminators' precision, and weights of their pixels."""
        x, y = self._in_unit_range(pred), self._in_unit_range(target)
        if mask is None:
            return x, y, None
        weights = mask_to_batch(mask.detach().to(x.dtype), pred, self.channels)
        outside = weights == 0
        x, y = x.masked_fill(outside, FILL), y.masked_fill(outside, FILL)
        mean = weights.mean(dim=(1, 2, 3), keepdim=True)
        return x, y, weights / mean.clamp_min(torch.finfo(mean.dtype).tiny)

    def _in_unit_range(self, image: Tensor) -> Tensor:
        image = to_batch(image.to(self._like.dtype), self.channels)
        if (self.low, self.high) != (0.0, 1.0):
            image = (image - self.low) / (self.high - self.low)
        return image.expand(-1, 3, -1, -1)

    @property
    def _selection(self) -> Selection:
        return Selection(self.architecture.dialled(self.texture, self.fidelity), self.scales, self.resolution)

    def _levels_for(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> list[Level]:
        self._check(pred, target, mask)
        return self._selection.levels((pred.shape[-2], pred.shape[-1]), self._frozen)

    def _check(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> None:
        check_pair(pred, target, self.channels)
        self._check_place(pred, mask)
        # Of each loss the first images that can be read at no cost; a mask may hide what is no image.
        if mask is None and not self._range_seen and can_be_read(target):
            self._range_seen = True
            warn_if_far_outside(target, self.low, self.high)

    def _check_place(self, image: Tensor, mask: Tensor | None) -> None:
        if mask is not None:
            check_mask(mask, image)
        if self._like.device != image.device:
            raise ValueError(
                f"images are on {image.device}, the loss is on {self._like.device}; "
                f"move it with loss.to({str(image.device)!r})"
            )


class SRLoss(TaskLoss):
    """Loss for super-resolution networks. Options as for :class:`TaskLoss`."""

    task = "sr"


class DenoiseLoss(TaskLoss):
    """Loss for denoising networks. Options as for :class:`TaskLoss`."""

    task = "denoise"


class JPEGLoss(TaskLoss):
    """Loss for networks that remove JPEG artefacts. Options as for :class:`TaskLoss`."""

    task = "jpeg"


# By task. Whatever else needs to know the tasks reads it here.
LOSSES: dict[str, type[TaskLoss]] = {kind.task: kind for kind in (SRLoss, DenoiseLoss, JPEGLoss) if kind.task}


def loss_class(task: str | None) -> type[TaskLoss]:
    """The class of a task's losses; TaskLoss for a task without one of its own."""
    return LOSSES.get(task or "", TaskLoss)
