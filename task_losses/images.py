"""Images as people have them: which tensors a loss takes, and the batch that it computes with."""

from __future__ import annotations

import torch
from torch import Tensor

from task_losses import autocast

CHANNELS = ("rgb", "per_channel")
MOST_CHANNELS_LAST = 4  # which a last dimension may hold: no discriminator sees so narrow an image


def check_pair(pred: Tensor, target: Tensor, channels: str) -> None:
    """Raises unless the two are images that can be compared. Looks at shapes, dtypes and devices alone."""
    check_image("pred", pred, channels)
    check_image("target", target, channels)
    if pred.shape != target.shape:
        raise ValueError(f"pred and target must have the same shape, got {tuple(pred.shape)} and {tuple(target.shape)}")
    if pred.device != target.device:
        raise ValueError(
            f"pred and target must be on one device, got {pred.device} and {target.device}; move one with .to()"
        )
    # Under autocast a network's half precision output meets a float32 reference as a matter of course.
    if pred.dtype != target.dtype and not autocast.is_on(pred.device):
        raise TypeError(
            f"pred and target must have one dtype outside autocast, got {pred.dtype} and {target.dtype}; "
            "convert one with .to(dtype)"
        )


def check_image(name: str, image: Tensor, channels: str) -> None:
    """Raises unless this is an image, a batch of images or a batch of videos."""
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(image).__name__}; {_to_tensor(name, image)}")
    if image.is_nested:
        raise TypeError(
            f"{name} must be one tensor, got a nested one; compare images of different sizes one by one, "
            f"or fill them up with {name}.to_padded_tensor(0) and say with mask= what is image"
        )
    if image.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got layout {image.layout}; convert it with {name}.to_dense()")
    if not image.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {image.dtype}; {_to_floats(name, image)}")
    _check_shape(name, image, channels)


def _to_tensor(name: str, image: object) -> str:
    """How to make a tensor of what an image often is instead."""
    kind = type(image)
    if kind.__module__.startswith("PIL."):
        array = f"numpy.array({name}.convert('RGB'))"
        return f"convert it with torch.from_numpy({array}).permute(2, 0, 1).float() / 255"
    if kind.__module__ == "numpy" and hasattr(image, "dtype") and hasattr(image, "shape"):
        text = f"torch.from_numpy({name})"
        if len(image.shape) in (3, 4, 5) and image.shape[-1] <= MOST_CHANNELS_LAST:
            text += f".permute({_channels_first(len(image.shape))})"
        elif len(image.shape) == 2:
            text += "[None]"
        scale = {"uint8": " / 255", "uint16": " / 65535"}.get(str(image.dtype), "")
        return f"convert it with {text}.float(){scale}"
    if isinstance(image, (list, tuple)):
        make = "stack" if image and isinstance(image[0], Tensor) else "tensor"
        return f"convert it with torch.{make}({name})"
    return "convert it to one"


def _to_floats(name: str, image: Tensor) -> str:
    """How to make floating-point numbers of an image's own."""
    if image.dtype == torch.uint8:
        return f"convert 8-bit images with {name}.float() / 255"
    if image.dtype == torch.bool:
        return f"convert a binary image with {name}.float(); a mask is a third argument, mask="
    if image.is_complex():
        return (
            f"compare magnitudes, {name}.abs(), or real and imaginary parts as two channels, "
            f"torch.view_as_real({name}).movedim(-1, -3).flatten(-4, -3) with channels='per_channel'"
        )
    if image.is_quantized:
        return f"convert it with {name}.dequantize()"
    return f"convert it with {name}.float() and say its range: data_range=65535 for 16 bits, (low, high) for others"


def _check_shape(name: str, image: Tensor, channels: str) -> None:
    shape, rank = tuple(image.shape), image.ndim
    if not 3 <= rank <= 5:
        hint = f"; a grey image (H, W) is {name}[None]" if rank == 2 else ""
        if rank > 5:
            hint = f"; join leading dimensions with {name}.flatten(0, {rank - 4})"
        raise ValueError(
            f"{name} must be (N, C, H, W), an image (C, H, W) or video (N, T, C, H, W), got shape {shape}{hint}"
        )
    count = shape[-3]
    if shape[-1] <= MOST_CHANNELS_LAST < min(shape[-3], shape[-2]):
        raise ValueError(
            f"{name} has its channels last, {_with_channels_last(rank)}: got shape {shape}; put them before height and "
            f"width with {name}.permute({_channels_first(rank)})"
        )
    if 0 in shape[:-3]:
        raise ValueError(f"{name} must hold an image, but the batch is empty: got shape {shape}")
    if count == 0 or (channels == "rgb" and count not in (1, 3)):
        raise ValueError(
            f"{name} must have 3 channels (RGB) or 1 (grey, repeated to RGB), got {count} in shape {shape}; "
            f"{_what_channels(name, shape)}"
        )


def _what_channels(name: str, shape: tuple[int, ...]) -> str:
    """What to do with a number of channels that is neither grey nor RGB."""
    count = shape[-3]
    if len(shape) == 5 and shape[1] in (1, 3):
        return (
            f"videos are (N, T, C, H, W): turn (N, C, T, H, W) with {name}.transpose(1, 2); that makes of a volume "
            "(N, C, D, H, W) its slices, each compared as an image"
        )
    if count == 4:
        return (
            f"of RGBA drop alpha, {name}[..., :3, :, :], or lay it over a background: "
            f"{name}[..., :3, :, :] * {name}[..., 3:, :, :] + background * (1 - {name}[..., 3:, :, :]); "
            "channels='per_channel' compares four of another kind, each as grey"
        )
    grey = f", and grey images (N, H, W) are {name}[:, None]" if len(shape) == 3 else ""
    return f"channels='per_channel' compares each as grey{grey}"


def _with_channels_last(rank: int) -> str:
    return {3: "(H, W, C)", 4: "(N, H, W, C)", 5: "(N, T, H, W, C)"}[rank]


def _channels_first(rank: int) -> str:
    return {3: "2, 0, 1", 4: "0, 3, 1, 2", 5: "0, 1, 4, 2, 3"}[rank]


def check_mask(mask: Tensor, image: Tensor) -> None:
    """Raises unless the mask fits the images, which are checked already."""
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"mask must be a torch.Tensor or None, got {type(mask).__name__}; convert it with torch.as_tensor(mask)"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"mask must be bool or floating point, got {mask.dtype}; convert it with mask.bool()")
    wanted = (*image.shape[:-3], 1, *image.shape[-2:])
    fits = mask.shape[-2:] == wanted[-2:] and mask.ndim == len(wanted)
    if not fits or any(own not in (1, other) for own, other in zip(mask.shape[:-2], wanted[:-2], strict=True)):
        raise ValueError(
            f"mask must have one value for each pixel, {wanted} for these images, got shape {tuple(mask.shape)}; "
            "leading dimensions may be 1. mask.unsqueeze(-3) adds the channel's, mask.amin(-3, keepdim=True) joins "
            "channels"
        )
    if mask.device != image.device:
        raise ValueError(f"mask is on {mask.device}, the images are on {image.device}; move it with .to()")


def to_batch(image: Tensor, channels: str) -> Tensor:
    """(B, 1 or 3, H, W): all images, frames and, for ``"per_channel"``, channels as one batch."""
    if channels == "per_channel":
        return image.flatten(0, -3).unsqueeze(1)  # no -1, which is no number where a side is 0
    if image.ndim == 3:
        return image[None]
    return image.flatten(0, 1) if image.ndim == 5 else image


def to_leading(of_batch: Tensor, like: Tensor, channels: str) -> Tensor:
    """From (B, ...) back to the leading dimensions of ``like``; the mean over channels for ``"per_channel"``."""
    leading = like.shape[:-3]
    if channels == "per_channel":
        return of_batch.reshape((*leading, like.shape[-3], *of_batch.shape[1:])).mean(dim=len(leading))
    return of_batch if like.ndim == 4 else of_batch.reshape((*leading, *of_batch.shape[1:]))


def mask_to_batch(mask: Tensor, like: Tensor, channels: str) -> Tensor:
    """The mask of each image of :func:`to_batch`, (B, 1, H, W)."""
    each = like.shape[-3] if channels == "per_channel" else 1
    return mask.expand(*like.shape[:-3], each, *like.shape[-2:]).flatten(0, -3).unsqueeze(1)
