"""The one reader of pictures: for the command line, training, the benchmark and the demo.

docs/pictures.md says what is read and what is refused. Pillow is imported only when a picture is read.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from task_losses.files import read_file
from task_losses.png import is_whole
from task_losses.texts import printable

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_FILE = 2**28  # bytes that are read at most
MOST_PIXELS = 2**26  # 0.8 GB as numbers; a few bytes of a file may claim any size
# What counts as a picture in a folder; a file that is named is read whatever its suffix.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".mpo", ".npy", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
NUMBERS = b"\x93NUMPY"  # what an .npy file begins with
ORIENTATION = 0x0112  # EXIF's tag
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags, and a value of the second
CONVERT = "map it to 8 bits or to 16-bit grey, or save numbers in [0, 1] as .npy"


class PictureError(ValueError):
    """A picture cannot be read or written as asked. The message says why and what to do."""


def read_picture(path: Path) -> Tensor:
    """A picture's pixels as stored, without colour management, turned upright if its EXIF data says so.

    Grey and palette pictures become RGB; 16-bit grey keeps its precision. docs/pictures.md says what is read.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        PictureError: no such file, no picture, or one whose pixels have no single meaning: with transparency,
            several frames, 16-bit colour, or a mode other than grey, palette and RGB; or one of over 67 megapixels.
    """
    return decode_picture(picture_bytes(path), str(path))


def picture_bytes(path: Path) -> bytes:
    """The content of a file, for :func:`decode_picture`.

    Raises:
        PictureError: there is none, it cannot be read, is no regular file, or has over 268 MB.
    """
    try:
        return read_file(path, LARGEST_FILE)
    except OSError as error:
        raise PictureError(f"cannot read {path}: {error.strerror or error}; expected a picture's file") from error


def decode_picture(data: bytes, name: str) -> Tensor:
    """As :func:`read_picture`, of a file's content.

    Args:
        data: a picture that Pillow reads, or an ``.npy`` file of numbers, which needs no Pillow: 8 or 16-bit, or
            floating point in [0, 1], (H, W, 3) or (H, W).
        name: of the file, for errors.
    """
    if not data:
        raise PictureError(f"{name} is an empty file, expected a picture")
    with _readable(name):
        pixels = _numbers(data, name) if data.startswith(NUMBERS) else _pillow_pixels(data, name)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, by their suffixes, sorted by name.

    Raises:
        PictureError: there are none.
    """
    files = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise PictureError(f"no images in {str(folder)!r}: expected a folder of pictures, like PNG or JPEG files")
    return files


def require_pillow() -> None:
    """Raises PictureError if Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise PictureError("reading pictures needs Pillow: pip install 'task-losses[cli]'") from error


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Errors of the reader as PictureError: of a damaged file, Pillow and numpy raise whatever the damage leads to."""
    try:
        yield
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError(f"cannot read {name}: it needs more memory than there is; crop it") from error
    except Exception as error:
        why = printable(str(error)) or type(error).__name__
        raise PictureError(f"cannot read {name}: {why}; it is damaged") from error


def _numbers(data: bytes, name: str) -> np.ndarray:
    """(H, W, 3) or (H, W) float32 in [0, 1]."""
    numbers: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    if not (numbers.ndim == 2 or (numbers.ndim == 3 and numbers.shape[2] == 3)) or numbers.size == 0:
        raise PictureError(f"{name} holds numbers of shape {numbers.shape}, expected (H, W, 3) or (H, W)")
    _refuse_many(numbers.shape[0] * numbers.shape[1], name)
    if numbers.dtype in (np.uint8, np.uint16):
        scaled: np.ndarray = np.divide(numbers, np.iinfo(numbers.dtype).max, dtype=np.float32)
        return scaled
    if numbers.dtype not in (np.float32, np.float64):
        raise PictureError(f"{name} holds {numbers.dtype} numbers, expected uint8, uint16, float32 or float64")
    if not (numbers.min() >= 0 and numbers.max() <= 1):  # also where one is not a number
        raise PictureError(f"{name} holds numbers from {numbers.min():g} to {numbers.max():g}, expected 0 to 1")
    return numbers.astype(np.float32)


def _pillow_pixels(data: bytes, name: str) -> np.ndarray:
    """(H, W, 3) or (H, W) float32 in [0, 1]."""
    require_pillow()
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Of damaged EXIF data, and of many pixels, which have a limit here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as file:
                _refuse_many(file.width * file.height, name)
                _refuse_frames(file, name)
                _refuse_depth(file, data, name)
                if file.format == "PNG" and not is_whole(data):
                    raise PictureError(f"{name} has fewer pixels than it says; it is damaged")
                file.load()
                return _pixels(_upright(file), file.format, name)
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is no picture in a format that Pillow reads; convert it to 8-bit PNG") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name} has too many pixels: {error}; crop it or make it smaller") from error


def _refuse_many(pixels: int, name: str) -> None:
    if pixels > MOST_PIXELS:
        raise PictureError(
            f"{name} has {pixels / 1e6:.0f} megapixels, at most {MOST_PIXELS / 1e6:.0f} are read; crop it or make it "
            "smaller"
        )


def _refuse_frames(file: Image, name: str) -> None:
    # A phone's MPO holds the photograph and, behind it, data about it: a smaller copy, depth, a gain map.
    if file.format != "MPO" and (frames := getattr(file, "n_frames", 1)) > 1:
        raise PictureError(f"{name} has {frames} frames, expected one picture; save the frame that you mean")


def _refuse_depth(file: Image, data: bytes, name: str) -> None:
    if file.mode.startswith("I;16"):
        if getattr(file, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:  # which Pillow minds in 8 bits alone
            raise PictureError(f"{name} is 16-bit grey with 0 for white; {CONVERT}")
        return
    # Pillow has no mode for 16-bit colour: it drops the lower bits without a word.
    if file.mode not in ("I", "F") and _is_deep(file, data):
        raise PictureError(
            f"{name} has 16 bits per colour channel, or 10 or 12, which Pillow would cut to 8; save it with 8 bits, or "
            "save numbers as .npy"
        )


def _is_deep(file: Image, data: bytes) -> bool:
    """Whether the file stores more than 8 bits per channel."""
    if file.format == "JPEG2000":
        size = data.find(b"\xff\x4f\xff\x51") + 2
        components = data[size + 38 : size + 40]
        depths = data[size + 40 : size + 40 + 3 * int.from_bytes(components, "big") : 3]
        return any((depth & 0x7F) >= 8 for depth in depths)  # stored less one
    if file.format == "AVIF":
        at = data.find(b"av1C")
        return at >= 0 and bool(data[at + 6] & 0x40)
    if file.format == "TIFF":
        return any(bits > 8 for bits in getattr(file, "tag_v2", {}).get(BITS_PER_SAMPLE, ()))
    for codec, _, _, arguments in getattr(file, "tile", ()):
        values = arguments if isinstance(arguments, tuple) else (arguments,)
        if codec == "SGI16" or (codec.startswith("ppm") and values[1] > 255):
            return True
        # Modes like "RGB;16B". "BGR;16" is another thing: 16 bits for the three colours together.
        if any(isinstance(value, str) and re.search(r";16[BLN]$", value) for value in values):
            return True
    return False


def _upright(image: Image) -> Image:
    """Turned as EXIF says. Data too damaged to be read says nothing."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    orientation = None
    with suppress(Exception):  # of many kinds, as for damaged pictures
        orientation = image.getexif().get(ORIENTATION)
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _pixels(image: Image, format: str | None, name: str) -> np.ndarray:
    """(H, W, 3) or (H, W) float32 in [0, 1]."""
    # Mode "I" holds numbers of 16 bits where the format has no more: Pillow's choice for some.
    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        return _deep_grey(image, name)
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        raise PictureError(
            f"{name} holds numbers from {low:g} to {high:g} (mode {image.mode!r}) and does not say which is black and "
            f"which white; {CONVERT}"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != 255:
            raise PictureError(
                f"{name} is partly transparent, so its colours depend on what is behind; flatten it onto a background"
            )
    elif image.mode not in ("1", "L", "P", "RGB"):
        raise PictureError(
            f"{name} has pixels of mode {image.mode!r}, expected RGB, grey or palette; convert it to 8-bit RGB"
        )
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    pixels /= 255
    return pixels


def _deep_grey(image: Image, name: str) -> np.ndarray:
    numbers = np.asarray(image)
    if (numbers == image.info.get("transparency", -1)).any():
        raise PictureError(f"{name} is partly transparent; flatten it onto a background")
    return numbers.astype(np.float32) / 65535
