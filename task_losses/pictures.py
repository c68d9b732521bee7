"""Pictures in and out of the command line. The only module that uses Pillow, and only when it is called."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from task_losses.files import read_file
from task_losses.texts import printable

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_FILE = 2**28  # bytes that are read at most
MOST_PIXELS = 2**26  # 0.8 GB as numbers; a few bytes of a file may claim any size


class PictureError(Exception):
    """A picture cannot be read or written as asked. The message says why and what to do."""


def read_picture(path: Path) -> Tensor:
    """A picture's pixels as stored, without colour management, turned upright if its EXIF data says so.

    Grey and palette pictures become RGB; 16-bit grey keeps its precision.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        PictureError: no such file, no picture, or one whose pixels have no single meaning: with transparency,
            several frames, 16-bit colour, or a mode other than grey, palette and RGB; or one of over 67 megapixels.
    """
    _require_pillow()
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(read_file(path, LARGEST_FILE))) as file:
            if (frames := getattr(file, "n_frames", 1)) > 1:
                raise PictureError(f"{path} has {frames} frames, expected one picture; save the frame that you mean")
            if file.width * file.height > MOST_PIXELS:
                raise PictureError(
                    f"{path} has {file.width} x {file.height} pixels, at most {MOST_PIXELS / 1e6:.0f} megapixels are "
                    "read; crop it"
                )
            _refuse_deep_colour(file, path)
            pixels = _pixels(ImageOps.exif_transpose(file), path)
    except UnidentifiedImageError as error:
        raise PictureError(f"{path} is no picture in a format that Pillow reads; convert it to 8-bit PNG") from error
    except PictureError:
        raise
    except Exception as error:  # of a damaged picture Pillow raises what its formats' readers happen to
        raise PictureError(
            f"cannot read {path}: {printable(str(getattr(error, 'strerror', None) or error))}"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def write_heat_map(values: Tensor, path: Path) -> None:
    """Writes a map as a picture: black for 0, over red and yellow to white for its largest value.

    Args:
        values: (1, 1, H, W), not negative.

    Raises:
        PictureError: the file cannot be written, or its suffix names no picture format.
    """
    _require_pillow()
    from PIL import Image

    relative = (values[0, 0] / values.max().clamp(min=torch.finfo(values.dtype).tiny)).cpu().numpy()
    colour = np.stack([np.clip(3 * relative - channel, 0, 1) for channel in range(3)], axis=-1)
    try:
        Image.fromarray((colour * 255).round().astype(np.uint8)).save(path)
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot write {path}: {error}; use a writable place and a suffix like .png") from error


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise PictureError("reading pictures needs Pillow: pip install 'task-losses[cli]'") from error


def _pixels(image: Image, path: Path) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # "I" in older Pillows
        grey = np.asarray(image).astype(np.float32) / 65535
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != 255:
            raise PictureError(
                f"{path} is partly transparent, so its colours depend on what is behind; flatten it onto a background"
            )
    elif image.mode not in ("1", "L", "P", "RGB"):
        raise PictureError(
            f"{path} has pixels of mode {image.mode!r}, expected RGB, grey or palette; convert it to 8-bit RGB"
        )
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    pixels /= 255
    return pixels


def _refuse_deep_colour(file: Image, path: Path) -> None:
    # Pillow has no mode for 16-bit colour: it drops the lower eight bits without a word.
    if file.mode in ("RGB", "RGBA") and any("16" in str(tile[3]) for tile in getattr(file, "tile", ())):
        raise PictureError(
            f"{path} has 16 bits per colour channel, which Pillow would cut to 8; save it with 8 bits, or call the "
            "loss from Python with data_range=65535"
        )
