"""Real codecs: an image goes through one as 8-bit colour and comes back."""

from __future__ import annotations

import io
import shutil
import subprocess
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_VIDEO = 32  # pixels a side
LIMIT = 60  # seconds for one picture; ffmpeg takes a fraction of one
QUIET = ("-hide_banner", "-loglevel", "error", "-threads", "1")


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compresses with a real JPEG codec (Pillow's default 4:2:0 chroma) and decodes again.

    Args:
        image: (N, 3, H, W) in [0, 1]; clipped and rounded to 8 bits first.
        quality: libjpeg's scale, 1 to 95.
    """
    return through_pillow(image, "JPEG", quality=quality)


def through_pillow(image: Tensor, format: str, **options: Any) -> Tensor:
    """Compresses with a codec of Pillow's and decodes again.

    Args:
        image: (N, 3, H, W) in [0, 1]; clipped and rounded to 8 bits first.
        format: Pillow's name of it.
        options: of Pillow's ``save``.
    """
    from PIL import Image  # the codec; a machine without it can train for other tasks

    decoded = []
    for picture in _eight_bits(image):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format, **options)
        with Image.open(file) as read:
            decoded.append(np.array(read.convert("RGB")))
    return _images(decoded, image)


def lacking_in_pillow(feature: str) -> str:
    """What is missing for a codec, or nothing."""
    try:
        from PIL import features
    except ImportError:
        return "Pillow: pip install pillow"
    there = feature in features.get_supported()
    return "" if there else f"a Pillow with {feature}: pip install --upgrade pillow (AVIF comes with 11.3 and later)"


def through_ffmpeg(image: Tensor, encoder: str, crf: int) -> Tensor:
    """Compresses each image as a video of one frame, with 4:2:0 chroma, and decodes it again.

    Args:
        image: (N, 3, H, W) in [0, 1]; clipped and rounded to 8 bits first.
        encoder: ffmpeg's name of it: libx264 or libx265.
        crf: its constant rate factor, 0 to 51.

    Raises:
        ValueError: ffmpeg is not there or fails.
    """
    height, width = image.shape[2:]
    # Chroma has half as many pixels, and x265 refuses pictures smaller than its smallest block.
    right, below = (max(side % 2, SMALLEST_VIDEO - side) for side in (width, height))
    even = F.pad(image, (0, right, 0, below), mode="replicate")
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24")
    stream = {"libx264": "h264", "libx265": "hevc"}[encoder]
    quiet_encoder = ("-x265-params", "log-level=error:pools=none:frame-threads=1") if encoder == "libx265" else ()
    decoded = []
    for picture in _eight_bits(even):
        size = ("-s", f"{picture.shape[1]}x{picture.shape[0]}")
        how = ("-c:v", encoder, "-crf", str(crf), "-pix_fmt", "yuv420p", *quiet_encoder)
        packed = _ffmpeg(picture.tobytes(), *raw, *size, "-i", "pipe:0", *how, *QUIET[-2:], "-f", stream, "pipe:1")
        pixels = _ffmpeg(packed, "-f", stream, "-i", "pipe:0", *raw, "pipe:1")
        decoded.append(np.frombuffer(pixels, np.uint8).reshape(picture.shape)[:height, :width])
    return _images(decoded, image)


@cache
def lacking_in_ffmpeg(encoder: str) -> str:
    """What is missing for an encoder, or nothing."""
    if shutil.which("ffmpeg") is None:
        return "ffmpeg: install it so that `ffmpeg` is among the programs that can be called"
    known = _ffmpeg(b"", "-encoders").decode(errors="replace")
    return "" if f" {encoder} " in known else f"an ffmpeg with {encoder}: the one here was built without"


def _ffmpeg(data: bytes, *arguments: str) -> bytes:
    command = [shutil.which("ffmpeg") or "ffmpeg", *QUIET, *arguments]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=LIMIT, check=True)
    except OSError as error:
        raise ValueError(f"cannot start ffmpeg: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"ffmpeg took more than {LIMIT} s: {' '.join(command)}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise ValueError(f"ffmpeg failed with code {error.returncode}: {said}") from error
    return done.stdout


def _eight_bits(image: Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    pixels: np.ndarray = (
        (image.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return pixels


def _images(decoded: list[np.ndarray], like: Tensor) -> Tensor:
    """Of (H, W, 3) uint8, what was compressed: shape, device and precision of ``like``."""
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(like.device, like.dtype) / 255
