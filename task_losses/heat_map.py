"""A map of where a distance comes from, as a picture for people: over the reference, with a legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from task_losses.pictures import PictureError, require_pillow

# Of the scale's top: the few largest values would leave everything else dark.
PERCENTILE = 99
DIMMED = 0.5  # the reference's brightness under the map
STOPS = (0.0, 0.33, 0.67, 1.0)
COLOURS = np.array([(70, 0, 110), (215, 25, 30), (255, 190, 0), (255, 255, 255)], dtype=np.float32)
LEGEND = 36  # height in pixels
NARROWEST = 260  # that the legend's words fit into


def check_map_path(path: Path) -> None:
    """Raises PictureError if no map can be written there, before the work that it would show."""
    require_pillow()
    from PIL import Image

    if path.suffix.lower() not in Image.registered_extensions():
        raise PictureError(f"cannot write {path}: its suffix names no picture format; use one like .png")
    if not path.parent.is_dir():
        raise PictureError(f"cannot write {path}: there is no folder {str(path.parent)!r}; use a writable place")


def write_heat_map(values: Tensor, reference: Tensor, path: Path) -> None:
    """Writes the reference, dimmed and grey, under colours from violet over red and yellow to white, and a legend.

    The colours reach white at the 99th percentile of the values above 0; what is larger is white too. Where the value
    is small the reference shows through.

    Args:
        values: (1, 1, H, W), not negative.
        reference: (1, 3, H, W) in [0, 1].

    Raises:
        PictureError: the file cannot be written, or its suffix names no picture format.
    """
    check_map_path(path)
    from PIL import Image, ImageDraw

    numbers = values[0, 0].float().cpu().numpy()
    positive = numbers[numbers > 0]
    top = float(np.quantile(positive, PERCENTILE / 100)) if positive.size else 0.0
    grey = reference[0].mean(dim=0).float().cpu().numpy()
    picture = blended(numbers / top if top else numbers, grey)

    height, width = numbers.shape
    sheet = Image.new("RGB", (max(width, NARROWEST), height + LEGEND))
    sheet.paste(Image.fromarray(picture), (0, 0))
    scale = np.linspace(0, 1, sheet.width)[None].repeat(LEGEND // 3, axis=0)
    sheet.paste(Image.fromarray(blended(scale, np.full_like(scale, 0.5))), (0, height))
    draw = ImageDraw.Draw(sheet)
    draw.text((2, height + LEGEND // 3 + 4), f"0      mean {numbers.mean():.3g}", fill="white")
    last = f"{top:.3g} and more" if top else "0 everywhere"
    draw.text((sheet.width - draw.textlength(last) - 2, height + LEGEND // 3 + 4), last, fill="white")
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot write {path}: {error}; use a writable place and a suffix like .png") from error


def blended(relative: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Colours of values over a grey picture, (H, W, 3) uint8; opaque from half of the scale on.

    Args:
        relative: (H, W), 0 at the bottom of the scale and 1 at its top; what lies beyond has the last colour.
        grey: (H, W) in [0, 1]; it is dimmed.
    """
    level = (255 * relative.clip(0, 1)).round().astype(np.uint8)
    places = np.linspace(0, 1, 256)
    opacity = (2 * places).clip(0, 1).astype(np.float32)
    below = (1 - opacity)[level] * (255 * DIMMED * grey.clip(0, 1))
    blended = np.empty((*level.shape, 3), np.uint8)
    for channel in range(3):  # one by one, for the memory that large pictures take
        colour = opacity * np.interp(places, STOPS, COLOURS[:, channel]).astype(np.float32)
        blended[..., channel] = (colour[level] + below).round()
    return blended
